# SPDX-License-Identifier: Apache-2.0
"""Noticing that a developer saved a file: for ``edgepaas up --reload``."""

from collections.abc import Iterable
from pathlib import Path

import edgepaas


class SourceWatch:
    """Compares Python files, and those below folders, with what they were at the last look."""

    def __init__(self, sources: Iterable[Path]) -> None:
        self._sources = tuple(dict.fromkeys(sources))
        self._seen = self._look()

    def changed(self) -> list[Path]:
        """Return the files that appeared, changed or went away since the last call."""
        now = self._look()
        before, self._seen = self._seen, now
        return sorted(
            path for path in now.keys() | before.keys() if now.get(path) != before.get(path)
        )

    def _look(self) -> dict[Path, int]:
        found = {}
        for source in self._sources:
            for path in source.rglob("*.py") if source.is_dir() else [source]:
                try:
                    found[path] = path.stat().st_mtime_ns
                except OSError:
                    continue  # an editor's temporary file is gone by now
        return found


def sources_of(application: str) -> list[Path]:
    """Return the folders, or the file, that hold EdgePaaS and the *application* (EDGEPAAS_APP)."""
    from importlib.metadata import entry_points
    from importlib.util import find_spec

    module = application.partition(":")[0]
    for point in entry_points(group="edgepaas.application"):
        if point.name == application:
            module = point.module
    sources = [Path(edgepaas.__file__).parent]
    try:
        spec = find_spec(module.partition(".")[0])
    except (ImportError, ValueError):
        spec = None
    if spec is not None and spec.origin:
        origin = Path(spec.origin)
        sources.append(origin.parent if origin.name == "__init__.py" else origin)
    return sources
