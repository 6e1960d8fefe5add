# SPDX-License-Identifier: Apache-2.0
"""Notices that every channel refused for good: kept for a person, who sends or discards them."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from edgepaas.alerts.channels.notice import Notice, read_notice
from edgepaas.alerts.spool.checksummed_json import Damaged, read_sealed, seal
from edgepaas.alerts.spool.folders import Store


def bury(store: Store, notice: Notice, refused: Mapping[str, str]) -> Path:
    """Keep *notice* in ``dead/`` with what each channel said; raises OSError."""
    path = store.dead / f"{notice.key}.json"
    store.put(path, seal(replace(notice, refused=dict(refused)).as_dict()))
    return path


def read_dead(store: Store) -> list[tuple[Path, Notice]]:
    """Return what lies in ``dead/``, the oldest first; what is damaged is set aside."""
    found = []
    for path in sorted(store.dead.glob("*.json")):
        try:
            found.append((path, read_notice(read_sealed(path))))
        except FileNotFoundError:
            continue
        except (Damaged, KeyError, TypeError, ValueError, AttributeError):
            store.set_corrupt(path)
    return sorted(found, key=lambda item: item[1].last)


def revived(notice: Notice) -> Notice:
    """Return a dead notice as it is sent once more: under its key, to every channel."""
    return replace(notice, refused={}, attempts=0, not_before=0.0, reached=True)
