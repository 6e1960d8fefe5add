# SPDX-License-Identifier: Apache-2.0
"""What the build's scripts share: folders, the locks' format, the build's version and date."""

import contextlib
import fcntl
import hashlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
BUILD = REPOSITORY / "build"
WHEELS = BUILD / "wheels"
LOCKS = REPOSITORY / "packaging" / "python"
RUNTIME_LOCK = LOCKS / "runtime.lock"
BUILD_LOCK = LOCKS / "build.lock"
#: The oldest Python that the package runs on: versions are resolved for it.
OLDEST_PYTHON = "3.11"

_PIN = re.compile(r"^(?P<name>[\w.-]+)==(?P<version>\S+) +--hash=sha256:(?P<sha256>[0-9a-f]{64})$")


class BuildError(Exception):
    """The build cannot go on; the message says why and what to do."""


@dataclass(frozen=True)
class Pin:
    """One locked distribution: exactly one file of it is acceptable."""

    name: str
    version: str
    sha256: str

    def __str__(self) -> str:
        return f"{self.name}=={self.version} --hash=sha256:{self.sha256}"


@contextlib.contextmanager
def building(what: str) -> Iterator[None]:
    """Hold the build folder for this build alone; an expected failure ends without a traceback."""
    if sys.version_info[:2] < tuple(map(int, OLDEST_PYTHON.split("."))):
        sys.exit(f"{what}: Python {OLDEST_PYTHON} or newer builds the package")
    BUILD.mkdir(exist_ok=True)
    with (BUILD / ".lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            yield
        except (BuildError, OSError, subprocess.SubprocessError) as error:
            sys.exit(f"{what}: {error}")


def read_lock(path: Path) -> list[Pin]:
    """Return the pins of a lock file; a line without a hash is an error."""
    pins = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        match = _PIN.match(line)
        if match is None:
            raise BuildError(f"{path}:{number}: not NAME==VERSION --hash=sha256:…: {line}")
        pins.append(Pin(**match.groupdict()))
    return pins


def wheelhouse() -> Path:
    """Return the folder that keeps what was downloaded ($EDGEPAAS_WHEELHOUSE, else in build/)."""
    return Path(os.environ.get("EDGEPAAS_WHEELHOUSE") or BUILD / "wheelhouse").absolute()


def sha256(path: Path) -> str:
    """Return the file's SHA-256 in hex."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def pip(*arguments: str, environ: dict[str, str] | None = None) -> None:
    """Run this interpreter's pip; what it printed is shown when it fails."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]
    result = subprocess.run(
        command,
        env={**os.environ, **(environ or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if result.returncode != 0:
        raise BuildError(f"pip {' '.join(arguments)}\n{result.stdout}")


def version() -> str:
    """Return ``edgepaas.__version__``."""
    text = (REPOSITORY / "edgepaas" / "__init__.py").read_text(encoding="utf-8")
    match = re.search(r'^__version__ = "([^"]+)"$', text, re.MULTILINE)
    if match is None:
        raise BuildError("edgepaas/__init__.py holds no __version__")
    return match[1]


def build_version() -> str:
    """Return version and commit, as the running box will say them.

    BUILD_VERSION of the environment, which a build server sets, takes their place. A tree with
    changes that no commit has is marked: two builds must not be taken for one.
    """
    given = os.environ.get("BUILD_VERSION", "").strip()
    if given:
        if not re.fullmatch(r"[A-Za-z0-9.+~_-]{1,64}", given):
            raise BuildError(f"BUILD_VERSION={given!r} is no version (letters, digits, . + ~ _ -)")
        return given
    sys.path.insert(0, str(REPOSITORY))
    from edgepaas.build import build_version as of_checkout

    return of_checkout() + (".dirty" if _is_dirty() else "")


def _is_dirty() -> bool:
    """Whether what is built differs from the commit; without git it is not known to."""
    command = ["git", "-C", str(REPOSITORY), "status", "--porcelain", "--", "edgepaas", "alembic"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return False
    return bool(found.stdout.strip())


def source_date() -> str:
    """Return the second of the epoch that every file's date is held to: the last commit's.

    See reproducible-builds.org/docs/source-date-epoch. Without git (an unpacked
    archive) the Debian changelog's date is taken.
    """
    given = os.environ.get("SOURCE_DATE_EPOCH")
    if given:
        return given
    for command in (
        ["git", "-C", str(REPOSITORY), "log", "-1", "--format=%ct"],
        ["dpkg-parsechangelog", "-l", str(changelog()), "-S", "Timestamp"],
    ):
        with contextlib.suppress(FileNotFoundError):  # no git here
            result = subprocess.run(command, capture_output=True, text=True, check=False)
            if result.returncode == 0 and result.stdout.strip():
                return result.stdout.strip()
    raise BuildError("no commit and no Debian changelog to take the date from")


def changelog() -> Path:
    """Return the Debian changelog, the source of the package's version and date."""
    return REPOSITORY / "packaging" / "debian" / "changelog"
