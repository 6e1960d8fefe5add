# SPDX-License-Identifier: Apache-2.0
"""Dead notifications: every channel refused them for good; an operator retries or discards."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from edgepaas.alerts.channels.notification import RECORD, Notification, read_notification
from edgepaas.alerts.spool.checksummed_json import Damaged, checksummed_record, read_checksummed
from edgepaas.alerts.spool.folders import SpoolFolders


def keep_dead(
    folders: SpoolFolders, notification: Notification, refused: Mapping[str, str]
) -> Path:
    """Keep *notification* in ``dead/`` with what each channel answered; raises OSError."""
    path = folders.dead / f"{notification.key}.json"
    kept = replace(notification, refused=dict(refused))
    folders.put(path, checksummed_record(RECORD, kept.as_dict()))
    return path


def read_dead(folders: SpoolFolders) -> list[tuple[Path, Notification]]:
    """Return what lies in ``dead/``, the oldest first; what is damaged is set aside."""
    found = []
    for path in sorted(folders.dead.glob("*.json")):
        try:
            found.append((path, read_notification(read_checksummed(path))))
        except FileNotFoundError:
            continue
        except (Damaged, KeyError, TypeError, ValueError, AttributeError):
            folders.set_corrupt(path)
    return sorted(found, key=lambda item: item[1].last)


def for_retry(notification: Notification) -> Notification:
    """Return a dead notification as it is sent once more: under its key, to every channel."""
    return replace(notification, refused={}, refusals={}, attempts=0, not_before=0.0, reached=True)
