# SPDX-License-Identifier: Apache-2.0
"""The folder in which a backup is put together or unpacked; one at a time, and none is left."""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from edgepaas.files.locks import held
from edgepaas.files.paths import Paths

_PREFIX = ".backup-"


@contextlib.contextmanager
def staging_folder(paths: Paths) -> Iterator[Path]:
    """Give an empty folder on the file system of the state folder; removed afterwards.

    What a killed run left is removed first. Raises LockHeld where another one is at work.
    """
    with held(paths.state / "backup.lock", timeout=1.0):
        for left in paths.state.glob(f"{_PREFIX}*"):
            shutil.rmtree(left, ignore_errors=True)
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=paths.state))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
