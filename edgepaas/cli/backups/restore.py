# SPDX-License-Identifier: Apache-2.0
"""``edgepaas restore``: put a backup into place on a box that is stopped."""

import argparse
import sys
from pathlib import Path
from typing import IO

from edgepaas.errors import EXIT_DONE, EXIT_FAILED, UsageError

DESCRIPTION = """\
Put a backup that 'edgepaas backup' made into place. The box has to be stopped. Nothing is changed
before all of FILE was read, compared with its list, and its databases were checked.

On the box that the backup is of, the SQLite file, the rules and the files of the application are
set back; its identity, its journal and its tokens stay, since they know more than the backup. On
another machine the data comes alone, under that machine's own identity; with --same-box it takes
the place of the box that the backup is of, which must be gone for good. What PostgreSQL has of
the box already is not sent again: where rows went home after the backup, the box goes on as a new
stream. Rows that wait here, and are in no PostgreSQL, are not given up without --discard-waiting.

The SQLite file as it was is kept in backups/, everything else in before-restore/ of the state
folder. Settings are left alone; --print-settings prints those of the backup.

exit status: 0 done; 1 nothing was changed; 2 usage.
"""
#: Whoever calls may read the file; what writes the box becomes the service's user.
NEEDS_SERVICE_USER = False


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("file", metavar="FILE", help="the backup, or - for standard input")
    parser.add_argument(
        "--same-box",
        action="store_true",
        help="take the place of the box that the backup is of, which is gone for good",
    )
    parser.add_argument(
        "--discard-waiting",
        action="store_true",
        help="give up the rows that wait on this machine for PostgreSQL",
    )
    parser.add_argument(
        "--print-settings", action="store_true", help="print the settings of the backup, no more"
    )
    parser.add_argument("--yes", action="store_true", help="do not ask for confirmation")
    parser.add_argument("--json", action="store_true", help="print a JSON document")


def run(arguments: argparse.Namespace) -> int:
    """Restore; raises EdgePaaSError, OSError."""
    from edgepaas.cli.privileges import become_service_user

    if arguments.file == "-":
        if not arguments.yes and not arguments.print_settings:
            raise UsageError("a backup on standard input needs --yes")
        become_service_user("restore")
        return _restored(arguments, sys.stdin.buffer)
    with Path(arguments.file).open("rb") as file:
        become_service_user("restore")
        return _restored(arguments, file)


def _restored(arguments: argparse.Namespace, file: IO[bytes]) -> int:
    from edgepaas.backup.archive import DamagedBackup
    from edgepaas.backup.restore import restore, settings_in
    from edgepaas.files.local_time import people_time
    from edgepaas.files.paths import find_paths
    from edgepaas.settings import Settings
    from edgepaas.terminal import confirmed, print_json

    paths = find_paths()
    try:
        if arguments.print_settings:
            print(settings_in(file, paths), end="")
            return EXIT_DONE
        sqlite_path = Settings.read(paths.env_contract).sqlite_file(paths.state)
        what = f"replace {sqlite_path} and what belongs to it by what is in {arguments.file}"
        if not arguments.yes and not confirmed(what):
            print("nothing was changed")
            return EXIT_FAILED
        done = restore(
            file,
            paths,
            sqlite_path,
            same_box=arguments.same_box,
            discard_waiting=arguments.discard_waiting,
        )
    except DamagedBackup as error:
        raise DamagedBackup(f"{arguments.file}: {error}; nothing was changed") from error
    manifest = done.manifest
    if arguments.json:
        print_json(
            {
                "box": manifest.name,
                "as_of": manifest.made_at,
                "same_identity": done.identity,
                "kept": None if done.kept is None else str(done.kept),
                "rows_waiting": manifest.rows_waiting,
            }
        )
        return EXIT_DONE
    print(f"restored: the box {manifest.name} as of {people_time()(manifest.made_at)}")
    if done.kept is not None:
        print(f"what was here before is kept: {done.kept}")
    if not done.identity:
        print("this machine goes on under its own identity (--same-box takes the backup's)")
    print("start it: 'systemctl start edgepaas.socket edgepaas'; then look: 'edgepaas audit'")
    return EXIT_DONE
