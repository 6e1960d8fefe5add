# SPDX-License-Identifier: Apache-2.0
"""Fill ``build/wheels`` with one pure wheel for each pin of the lock, and our own.

Downloads go through pip with hashes required and are kept in ``build/wheelhouse``
(or $EDGEPAAS_WHEELHOUSE); once they are there nothing here needs a network. What has no
wheel that runs everywhere is built from its source with a C compiler that always
fails, which leaves the pure Python of it.

    wheels.py FOLDER    build only our own wheel, into FOLDER (``make wheel``)
"""

import shutil
import sys
import tempfile
import zipfile
from pathlib import Path

from common import (
    BUILD,
    BUILD_LOCK,
    OLDEST_PYTHON,
    REPOSITORY,
    RUNTIME_LOCK,
    WHEELS,
    BuildError,
    Pin,
    build_version,
    building,
    pip,
    read_lock,
    sha256,
    source_date,
    version,
    wheelhouse,
)

#: setuptools with its data beside it; unpacked, so that builds need no isolation and no index.
TOOLS = BUILD / "tools"
#: Whatever a compiler is asked for, the answer is no.
NO_COMPILER = {"CC": "/bin/false", "CXX": "/bin/false"}


def build_all() -> None:
    """Fill ``build/wheels`` afresh; raises BuildError."""
    unpack_tools()
    shutil.rmtree(WHEELS, ignore_errors=True)
    WHEELS.mkdir(parents=True)
    for file in fetch(read_lock(RUNTIME_LOCK)):
        if file.suffix == ".whl":
            shutil.copyfile(file, WHEELS / file.name)
        else:
            build(file, WHEELS)
    own_wheel(WHEELS)
    impure = [w.name for w in WHEELS.iterdir() if not w.name.endswith("-none-any.whl")]
    if impure:
        raise BuildError(f"not pure Python: {', '.join(impure)}")


def fetch(pins: list[Pin]) -> list[Path]:
    """Return the file of each pin, downloading the ones that the wheelhouse has not got."""
    house = wheelhouse()
    house.mkdir(parents=True, exist_ok=True)
    have = {sha256(file): file for file in house.iterdir()}
    missing = [pin for pin in pins if pin.sha256 not in have]
    if missing:
        # Beside it, then moved: another build may be reading the wheelhouse.
        with tempfile.TemporaryDirectory(dir=house.parent) as folder:
            wanted = Path(folder, "requirements.txt")
            wanted.write_text("".join(f"{pin}\n" for pin in missing), encoding="utf-8")
            downloads = Path(folder, "downloads")
            pip("download", "--quiet", "--no-deps", "--require-hashes", f"--dest={downloads}",
                "--platform=any", "--implementation=py", "--abi=none", "--no-build-isolation",
                f"--python-version={OLDEST_PYTHON}", f"--requirement={wanted}",
                environ={"PYTHONPATH": str(TOOLS)})  # fmt: skip
            for file in downloads.iterdir():
                file.replace(house / file.name)
        have = {sha256(file): file for file in house.iterdir()}
    return [have[pin.sha256] for pin in pins]


def unpack_tools() -> None:
    """Unpack the locked build tools into ``build/tools``."""
    files = fetch(read_lock(BUILD_LOCK))
    shutil.rmtree(TOOLS, ignore_errors=True)
    for file in files:
        with zipfile.ZipFile(file) as wheel:
            wheel.extractall(TOOLS)


def build(source: Path, target: Path) -> None:
    """Build one wheel from an archive or a folder, with our tools and without a network."""
    pip("wheel", "--quiet", "--no-deps", "--no-index", "--no-cache-dir", "--use-pep517",
        "--no-build-isolation", f"--wheel-dir={target}", str(source),
        environ={"PYTHONPATH": str(TOOLS), "SOURCE_DATE_EPOCH": source_date(),
                 **NO_COMPILER})  # fmt: skip


def own_wheel(target: Path) -> None:
    """Build EdgePaaS's wheel from a copy of its sources, with the build's version recorded.

    A copy, because setuptools leaves a ``build/lib`` behind whose stale modules would
    be part of every later wheel.
    """
    source = BUILD / "wheel-source"
    shutil.rmtree(source, ignore_errors=True)
    unwanted = shutil.ignore_patterns("__pycache__", "_build.py")
    # Follows edgepaas/_alembic to the migrations.
    shutil.copytree(REPOSITORY / "edgepaas", source / "edgepaas", ignore=unwanted)
    for name in ("pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        shutil.copyfile(REPOSITORY / name, source / name)
    (source / "edgepaas" / "_build.py").write_text(
        f'"""Written by the build."""\n\nBUILD_VERSION = "{build_version()}"\n', encoding="utf-8"
    )
    build(source, target)
    wheel = target / f"edgepaas-{version()}-py3-none-any.whl"
    migrations = {script.name for script in (REPOSITORY / "alembic" / "versions").glob("*.py")}
    with zipfile.ZipFile(wheel) as archive:
        names = {Path(name).name for name in archive.namelist() if "/_alembic/" in name}
    if not migrations <= names:
        raise BuildError(f"{wheel.name} lacks migrations: {', '.join(migrations - names)}")


if __name__ == "__main__":
    with building("make wheel"):
        unpack_tools()
        own_wheel(Path(sys.argv[1]))
