# SPDX-License-Identifier: Apache-2.0
"""The history of alerts: raised, resolved, delivered; one JSON object a line, the newest last.

For operators and for the API. A line that a kill tore or wrote twice is skipped when it is
read: nothing that has to be delivered depends on this file.
"""

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgepaas.files.paths import Paths
from edgepaas.timing.moment import Moment, rfc3339

_MOST_BYTES = 1024 * 1024
_LONGEST_LINE = 16 * 1024


def record(root: Path, what: str, now: Moment, identity: str, **values: Any) -> None:
    """Append a line to the history in the spool *root*; *identity* shows a repeated one.

    *what*: raised, resolved, delivered, logged, dead, discarded, silenced. A disk that has no
    room loses the line.
    """
    entry = {"time": rfc3339(now.wall), "what": what, "id": identity, **values}
    data = (json.dumps(entry, ensure_ascii=False) + "\n").encode("utf-8", "replace")
    path = root / "history.jsonl"
    with contextlib.suppress(OSError):
        _rotate(path)
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(path, flags, 0o600)
        try:
            size = os.fstat(descriptor).st_size
            if size and os.pread(descriptor, 1, size - 1) != b"\n":
                data = b"\n" + data  # the line before was torn
            os.write(descriptor, data)
        finally:
            os.close(descriptor)


def read(
    paths: Paths,
    *,
    limit: int = 100,
    before: str = "",
    condition: str = "",
    fingerprint: str = "",
    what: str = "",
) -> list[dict[str, Any]]:
    """Return up to *limit* entries, the newest first; those of one kind or cause where asked.

    Each has ``time`` (RFC 3339, UTC), ``what``, ``id``, and by its kind ``severity``,
    ``message``, ``origin``, ``fingerprint``, ``condition``, ``box``, ``count``, ``new``,
    ``since``, ``ended``, ``duration_seconds``, ``via``, ``notification``, ``key``, ``why``.
    *before*: the ``id`` of the last entry of the page before.
    """
    found: list[dict[str, Any]] = []
    seen: set[tuple[str, str]] = set()
    passing = bool(before)
    for entry in _newest_first(paths.alerts):
        key = (str(entry.get("what")), str(entry.get("id")))
        if key in seen:
            continue
        seen.add(key)
        if passing:
            passing = key[1] != before
            continue
        if (
            (condition and entry.get("condition") != condition)
            or (fingerprint and entry.get("fingerprint") != fingerprint)
            or (what and key[0] != what)
        ):
            continue
        found.append(entry)
        if len(found) >= limit:
            break
    return found


def _newest_first(root: Path) -> Iterator[dict[str, Any]]:
    for name in ("history.jsonl", "history.1.jsonl"):
        try:
            with (root / name).open("rb") as file:
                lines = file.read(2 * _MOST_BYTES).splitlines()
        except OSError:
            continue
        for line in reversed(lines):
            if len(line) > _LONGEST_LINE:
                continue
            try:
                entry = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(entry, dict) and "what" in entry and "id" in entry:
                yield entry


def _rotate(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        if path.stat().st_size > _MOST_BYTES:
            path.replace(path.with_name("history.1.jsonl"))
