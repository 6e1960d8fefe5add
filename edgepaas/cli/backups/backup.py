# SPDX-License-Identifier: Apache-2.0
"""``edgepaas backup``: the whole box in one file, written while it runs, and read again."""

import argparse
import os
import sys
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING

from edgepaas.errors import EXIT_DONE, EXIT_FAILED, EdgePaaSError, UsageError

if TYPE_CHECKING:
    from edgepaas.backup.archive import Manifest

DESCRIPTION = """\
Write a backup of this box into one file: the SQLite file as of one moment, the journal, tokens,
rules, the identity of the box, the files of its application, what is in quarantine, and the
settings. The box may run meanwhile. The file holds secrets; only its owner may read it.

It is read again before it gets its name, and compared with what was copied, whose databases were
checked to their last page. 'edgepaas backup --verify FILE' does so at any time, 'edgepaas restore
FILE' before it changes anything. Rows that only PostgreSQL has are not in it: back that up too.

exit status: 0 done; 1 no backup was made, or FILE is damaged; 2 usage.
"""
#: The file belongs to whoever calls; what reads the box becomes the service's user.
NEEDS_SERVICE_USER = False

_STANDARD_OUTPUT = "-"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "file",
        nargs="?",
        default="",
        metavar="FILE",
        help="where to write it: a new file, a folder, or - for standard output "
        "(default: edgepaas-HOST-TIME.backup in the current folder)",
    )
    parser.add_argument(
        "--verify", action="store_true", help="read the backup FILE and compare it with its list"
    )
    parser.add_argument("--json", action="store_true", help="print a JSON document")


def run(arguments: argparse.Namespace) -> int:
    """Make a backup, or verify one; raises EdgePaaSError, OSError."""
    if arguments.verify:
        return _verify(arguments)
    from edgepaas.cli.privileges import become_service_user

    if arguments.file == _STANDARD_OUTPUT:
        if arguments.json or sys.stdout.isatty():
            raise UsageError(
                "a backup on standard output goes into a file or a pipe, without --json"
            )
        become_service_user("backup")
        print(_summary(_made(sys.stdout.buffer), "standard output"), file=sys.stderr)
        return EXIT_DONE
    return _into_file(_target(arguments.file), as_json=arguments.json)


def _into_file(path: Path, *, as_json: bool) -> int:
    """Write the backup beside *path*, read it again, and give it its name.

    Root keeps what it may write to itself: the file is made, and named, by whoever calls, and
    filled by a child that is the service's user.
    """
    from edgepaas.cli.privileges import become_service_user, becomes_another_user
    from edgepaas.files.atomic import move_durably

    temporary = path.with_name(f".{path.name}.{os.urandom(4).hex()}.new")
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(temporary, flags, 0o600)
    child = os.fork() if becomes_another_user() else -1
    if child > 0:
        _, status = os.waitpid(child, 0)
        done = os.waitstatus_to_exitcode(status)
    if child <= 0:
        try:
            become_service_user("backup")
            with open(descriptor, "r+b", closefd=False) as file:
                manifest = _made(file)
                os.fsync(descriptor)
                file.seek(0)
                _require_same(manifest, file)
        except BaseException:
            if child < 0:
                temporary.unlink()
            raise
        if as_json:
            _print_json(manifest, str(path))
        else:
            print(_summary(manifest, str(path)))
        if child == 0:
            return EXIT_DONE
        done = EXIT_DONE
    if done != EXIT_DONE:
        temporary.unlink()
        return done if done > 0 else EXIT_FAILED
    if path.exists():
        temporary.unlink()
        raise EdgePaaSError(f"{path} is there by now: name another file")
    move_durably(temporary, path)
    return EXIT_DONE


def _made(target: IO[bytes]) -> "Manifest":
    from edgepaas.backup.make import make_backup
    from edgepaas.files.paths import find_paths
    from edgepaas.settings import Settings

    paths = find_paths()
    settings = Settings.read(paths.env_contract)
    return make_backup(paths, settings.sqlite_file(paths.state), settings.text("NODE_NAME"), target)


def _require_same(manifest: "Manifest", file: IO[bytes]) -> None:
    from edgepaas.backup.archive import verify

    if verify(file) != manifest:
        raise EdgePaaSError("what was read again is not what was written: the disk changes data")


def _verify(arguments: argparse.Namespace) -> int:
    from edgepaas.backup.archive import DamagedBackup, verify

    if not arguments.file:
        raise UsageError("--verify needs the FILE to read")
    try:
        if arguments.file == _STANDARD_OUTPUT:
            manifest = verify(sys.stdin.buffer)
        else:
            with Path(arguments.file).open("rb") as file:
                manifest = verify(file)
    except DamagedBackup as error:
        raise DamagedBackup(f"{arguments.file}: {error}") from error
    if arguments.json:
        _print_json(manifest, arguments.file)
    else:
        print(_summary(manifest, arguments.file))
    return EXIT_DONE


def _target(given: str) -> Path:
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    name = f"edgepaas-{os.uname().nodename}-{stamp}.backup"
    path = Path(given) if given else Path(name)
    if path.is_dir():
        path = path / name
    if path.exists() or path.is_symlink():
        raise UsageError(f"{path} is there already: name another file")
    return path


def _summary(manifest: "Manifest", where: str) -> str:
    from edgepaas.files.local_time import people_time

    waiting = f"; {manifest.rows_waiting:,} rows in it wait for PostgreSQL"
    return (
        f"{where}: the box {manifest.name} as of {people_time()(manifest.made_at)}, "
        f"{len(manifest.members)} files, {manifest.size / 2**20:.1f} MiB unpacked, verified"
        f"{waiting if manifest.rows_waiting else ''}"
    )


def _print_json(manifest: "Manifest", where: str) -> None:
    from dataclasses import asdict

    from edgepaas.terminal import print_json

    print_json({"file": where, "verified": True, **asdict(manifest)})
