# SPDX-License-Identifier: Apache-2.0
"""Which alerts are raised under fingerprints of one kind: for whoever has to end them.

Who raises one alert for each of several things, such as a setting, has to notice that a
thing is gone altogether, perhaps while another process ran.
"""

import contextlib
from pathlib import Path

from edgepaas.alerts.spool.alert import read_name
from edgepaas.alerts.spool.checksummed_json import Damaged, read_checksummed
from edgepaas.alerts.spool.folders import SpoolFolders
from edgepaas.files.paths import Paths


def raised_fingerprints(paths: Paths, prefix: str) -> list[str]:
    """Return the fingerprints that begin with *prefix* and under which something is raised.

    Raises nothing: what cannot be read counts as not raised.
    """
    folders = SpoolFolders(paths.alerts)
    found: set[str] = set()
    # What is taken out of new/ in between has reached its condition: that is read last.
    waiting = [_entry(file) for file in _files(folders.new) if read_name(file.name) is not None]
    for entry in map(_entry, _files(folders.conditions)):
        if entry.get("state") == "raised":
            found.add(str(entry.get("fingerprint")))
    for entry in waiting:
        if entry.get("what") == "raised":
            if not entry["fingerprint"] or entry["severity"] == "info" or entry.get("event"):
                continue  # an event, which holds no longer than it takes to tell it
            found.add(str(entry.get("fingerprint")))
        else:
            found.discard(str(entry.get("fingerprint")))
    return sorted(one for one in found if one.startswith(prefix))


def _files(folder: Path) -> list[Path]:
    try:
        return sorted(folder.glob("*.json"))
    except OSError:
        return []


def _entry(file: Path) -> dict[str, object]:
    with contextlib.suppress(OSError, Damaged):
        return read_checksummed(file)
    return {}
