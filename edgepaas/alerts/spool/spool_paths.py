# SPDX-License-Identifier: Apache-2.0
"""The spool's files, names and locks."""

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from edgepaas.alerts.spool.alert import AlertName, read_name
from edgepaas.alerts.spool.folders import SpoolFolders
from edgepaas.files.paths import Paths

#: How long one writer waits for another. One that was stopped in the middle stops no others.
_PATIENCE = 2.0


class SpoolPaths:
    """The files of a box's alert spool."""

    def __init__(self, paths: Paths) -> None:
        self.paths = paths
        self.folders = SpoolFolders(paths.alerts)

    @property
    def conditions_lock(self) -> Path:
        """Held while conditions are changed, or alerts taken out of ``new/``."""
        return self.folders.root / "conditions.lock"

    def condition_file(self, condition: str) -> Path:
        """Return the file that holds what is known of a condition."""
        return self.folders.conditions / f"{condition}.json"

    def file_of(self, name: AlertName) -> Path:
        """Return the file of an alert that waits."""
        return self.folders.new / (
            f"{name.sequence:012d}-{name.kind}-{name.condition}.{name.id}.json"
        )

    def waiting_names(self) -> list[AlertName]:
        """Return the names in ``new/``, parsed, in sequence; foreign names are left out."""
        try:
            names = os.listdir(self.folders.new)  # noqa: PTH208 - names alone are wanted
        except OSError:
            return []
        return [found for name in sorted(names) if (found := read_name(name)) is not None]

    @contextlib.contextmanager
    def writers_lock(self) -> Iterator[int | None]:
        """Hold the writers' lock; yields its descriptor, None when it could not be had in time."""
        descriptor = self._open_sequence()
        try:
            deadline = time.monotonic() + _PATIENCE
            held = False
            while not held:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    held = True
                except BlockingIOError:
                    if time.monotonic() >= deadline:
                        break
                    time.sleep(0.002)
            yield descriptor if held else None
        finally:
            os.close(descriptor)

    def _open_sequence(self) -> int:
        path, flags = self.folders.root / "sequence", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        try:
            return os.open(path, flags, 0o600)
        except FileNotFoundError:
            self.folders.prepare()
            return os.open(path, flags, 0o600)
