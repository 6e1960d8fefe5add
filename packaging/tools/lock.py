# SPDX-License-Identifier: Apache-2.0
"""``make lock``: pin every dependency of the package to one file by its hash.

The versions are the tested ones of ``constraints.txt``; pip resolves them on the oldest
Python that is supported, since a newer one needs fewer back-ports. Of each version one
file is taken: the wheel that runs everywhere, or the source where there is no such
wheel. No address of an index is written: the machine's own pip configuration decides
where files come from, the hash decides whether they are the right ones.
"""

import json
import sys
import tempfile
import tomllib
from collections.abc import Sequence
from pathlib import Path

from common import (
    BUILD_LOCK,
    LOCKS,
    OLDEST_PYTHON,
    REPOSITORY,
    RUNTIME_LOCK,
    BuildError,
    Pin,
    building,
    pip,
    sha256,
)

#: Left out of the package, and why.
LEFT_OUT = {
    "psutil": "compiled; the distribution's python3-psutil is used",
    "greenlet": "compiled; SQLAlchemy needs it for asyncio only",
}
#: No wheel runs everywhere: built from source, without a compiler.
FROM_SOURCE = ("markupsafe", "sdnotify")
#: What builds those, and our own wheel.
BUILD_TOOLS = ("setuptools",)
ANY_PLATFORM = ("--platform=any", "--implementation=py", "--abi=none")


def main() -> None:
    """Write both locks; raises BuildError."""
    if sys.version_info[:2] != tuple(map(int, OLDEST_PYTHON.split("."))):
        raise BuildError(
            f"the oldest Python needs the most libraries: rm -r .venv; "
            f"make lock PYTHON=python{OLDEST_PYTHON}"
        )
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    runtime = [pin(name, version) for name, version in resolve(project["dependencies"])]
    write(RUNTIME_LOCK, "what the package carries beside EdgePaaS itself", runtime, LEFT_OUT)
    tools = [pin(name, version) for name, version in resolve(BUILD_TOOLS, constrained=False)]
    write(BUILD_LOCK, "what builds wheels from source", tools, {})


def resolve(requirements: Sequence[str], *, constrained: bool = True) -> list[tuple[str, str]]:
    """Return (normalised name, version) of everything that *requirements* need, sorted."""
    constraints = ("-c", str(LOCKS / "constraints.txt")) if constrained else ()
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.json")
        pip("install", "--quiet", "--dry-run", "--ignore-installed", f"--report={report}",
            *constraints, *requirements)  # fmt: skip
        found = json.loads(report.read_text(encoding="utf-8"))["install"]
    names = [(_normal(f["metadata"]["name"]), f["metadata"]["version"]) for f in found]
    return sorted((name, version) for name, version in names if name not in LEFT_OUT)


def pin(name: str, version: str) -> Pin:
    """Download the one acceptable file of this version and return its pin."""
    kind = ("--no-binary=:all:",) if name in FROM_SOURCE else ("--only-binary=:all:", *ANY_PLATFORM)
    with tempfile.TemporaryDirectory() as folder:
        pip("download", "--quiet", "--no-deps", "--dest", folder, *kind, f"{name}=={version}")
        files = list(Path(folder).iterdir())
        if len(files) != 1:
            raise BuildError(f"{name}=={version}: expected one file, got {files}")
        print(f"{name}=={version}: {files[0].name}")
        return Pin(name, version, sha256(files[0]))


def write(path: Path, purpose: str, pins: list[Pin], left_out: dict[str, str]) -> None:
    """Write one lock file."""
    lines = [f"# {purpose}; written by 'make lock' on Python {OLDEST_PYTHON}, not by hand."]
    lines += [f"# Left out: {name} ({reason})." for name, reason in left_out.items()]
    path.write_text("\n".join([*lines, *map(str, pins)]) + "\n", encoding="utf-8")


def _normal(name: str) -> str:
    return name.lower().replace("_", "-").replace(".", "-")


if __name__ == "__main__":
    with building("make lock"):
        main()
