# SPDX-License-Identifier: Apache-2.0
"""``make deb``: build ``dist/edgepaas_VERSION_all.deb``, as any user.

Lays out a Debian source folder in ``build/deb`` and runs dpkg-buildpackage there. The
version is the code's; $DEB_VERSION overrides it, for a build that is to stand beside
another of the same code.
"""

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import wheels
from common import (
    BUILD,
    REPOSITORY,
    WHEELS,
    BuildError,
    building,
    changelog,
    sha256,
    source_date,
    version,
)

PACKAGING = REPOSITORY / "packaging"
DIST = REPOSITORY / "dist"
#: Command: the Debian package that has it.
NEEDED = {"dpkg-buildpackage": "dpkg-dev", "dh": "debhelper", "dh_python3": "dh-python"}

#: What is installed as documentation beside docs/. The changelog for users goes under another
#: name: dh_installchangelogs would take it for the Debian changelog.
TEXTS = {
    "README.md": "README.md",
    "CHANGELOG.md": "releases.md",
    "SECURITY.md": "SECURITY.md",
    "NOTICE": "NOTICE",
}
#: Stands in the control file of the sources for the maintainer's name and address.
MAINTAINER = "@MAINTAINER@"


def main() -> None:
    """Build the package; raises BuildError."""
    missing = sorted({package for command, package in NEEDED.items() if not shutil.which(command)})
    if missing:
        raise BuildError(f"missing: apt-get install {' '.join(missing)}")
    wheels.build_all()
    work = BUILD / "deb"
    shutil.rmtree(work, ignore_errors=True)
    source = work / "edgepaas"
    lay_out(source)
    number = os.environ.get("DEB_VERSION") or version()
    set_version(source / "debian" / "changelog", number)
    set_maintainer(source / "debian" / "control")
    log = work / "build.log"
    with log.open("wb") as output:
        status = subprocess.run(
            # What is needed was looked for above; dpkg would ask for a compiler as well.
            [
                "dpkg-buildpackage",
                "--build=binary",
                "--no-sign",
                "--no-pre-clean",
                "-Zxz",
                "--no-check-builddeps",
            ],
            cwd=source,
            env=build_environment(),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            check=False,
        ).returncode
    if status != 0:
        sys.stderr.write(log.read_text(encoding="utf-8", errors="replace"))
        raise BuildError(f"dpkg-buildpackage ended with {status}; its output is above and in {log}")
    DIST.mkdir(exist_ok=True)
    package = DIST / f"edgepaas_{number}_all.deb"
    partial = package.with_suffix(".part")
    shutil.copyfile(work / package.name, partial)
    partial.replace(package)
    print(f"{package.relative_to(REPOSITORY)}  {package.stat().st_size} bytes  {sha256(package)}")


def lay_out(source: Path) -> None:
    """Copy what the package is made of to *source*, as packaging/debian/rules expects it."""
    for origin, name in (
        (PACKAGING / "debian", "debian"),
        (PACKAGING / "tools", "tools"),
        (REPOSITORY / "systemd", "systemd"),
        (WHEELS, "wheels"),
    ):
        # Contents alone: a date of the checkout older than the last commit's would be kept.
        unwanted = shutil.ignore_patterns("__pycache__", ".*", "*~", "*.orig")
        shutil.copytree(origin, source / name, ignore=unwanted, copy_function=shutil.copyfile)
    (source / "debian" / "rules").chmod(0o755)
    shutil.copyfile(PACKAGING / "edgepaas.launcher", source / "edgepaas.launcher")
    shutil.copytree(REPOSITORY / "docs", source / "texts" / "docs", copy_function=shutil.copyfile)
    for name, copy in TEXTS.items():
        shutil.copyfile(REPOSITORY / name, source / "texts" / copy)


def set_version(copy: Path, number: str) -> None:
    """Put *number* into this build's copy of the changelog; the code and the changelog agree."""
    text = copy.read_text(encoding="utf-8")
    written = text.partition("(")[2].partition(")")[0]
    if written != version():
        raise BuildError(
            f"{changelog()} says {written}, edgepaas.__version__ {version()}: add an entry"
        )
    copy.write_text(text.replace(f"({written})", f"({number})", 1), encoding="utf-8")


def set_maintainer(copy: Path) -> None:
    """Put the maintainer that pyproject.toml names into this build's copy of the control file."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (maintainer,) = project["maintainers"]
    text = copy.read_text(encoding="utf-8")
    if MAINTAINER not in text:
        raise BuildError(f"packaging/debian/control names no {MAINTAINER}")
    name = f"{maintainer['name']} <{maintainer['email']}>"
    copy.write_text(text.replace(MAINTAINER, name), encoding="utf-8")


def build_environment() -> dict[str, str]:
    """Return the environment of the build: the caller's PATH, and nothing that varies."""
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(BUILD / "deb"),
        "LC_ALL": "C.UTF-8",
        "TZ": "UTC",
        "SOURCE_DATE_EPOCH": source_date(),
        "DEB_BUILD_OPTIONS": "nocheck",
    }


if __name__ == "__main__":
    with building("make deb"):
        main()
