# SPDX-License-Identifier: Apache-2.0
"""Making a backup, and looking at it again."""

import time
from pathlib import Path
from typing import IO

from edgepaas.backup import archive, contents
from edgepaas.backup.staging import staging_folder
from edgepaas.build import build_version
from edgepaas.decision.waiting import rows_waiting
from edgepaas.files.node_identity import RECORD as NODE
from edgepaas.files.paths import Paths
from edgepaas.timing.moment import rfc3339


def make_backup(paths: Paths, sqlite_path: Path, name: str, target: IO[bytes]) -> archive.Manifest:
    """Write a backup of the box called *name* to *target*; return what is in it.

    The box may run meanwhile. Raises NotBackedUp, OSError, LockHeld.
    """
    with staging_folder(paths) as folder:
        made_at = rfc3339(time.time())
        found = contents.gather(paths, sqlite_path, folder)
        manifest = archive.Manifest(
            made_at=made_at,
            build=build_version(),
            name=name,
            node=NODE.read_or_none(folder / contents.STATE_FOLDER / paths.node.name),
            rows_waiting=rows_waiting(folder / contents.DATABASE_NAME).rows,
            members=tuple(archive.member_of(folder / one, one, role) for one, role in found),
        )
        archive.write(target, manifest, folder)
    return manifest
