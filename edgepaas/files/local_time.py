# SPDX-License-Identifier: Apache-2.0
"""Times as people read them: what a command prints at a terminal is in the zone of TZ.

With its offset, so that it can be compared with the log, where every time is UTC, as it is in the
API, in JSON, in exports and in contracts. Messages of alerts are in the same zone.
"""

from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, tzinfo

from edgepaas.errors import EdgePaaSError
from edgepaas.files.contract import read_contract
from edgepaas.files.paths import find_paths


def zone_named(name: str) -> tzinfo:
    """Return the zone *name*; UTC where this box has no database of zones, or none of the name."""
    if name == "UTC":
        return UTC
    import zoneinfo

    try:
        return zoneinfo.ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        return UTC


def people_time(zone: tzinfo | None = None) -> Callable[[object], str]:
    """Return what makes a time out of text as ``2026-01-31T11:00:00Z``, or of a datetime.

    For a person: ``2026-01-31 12:00:00 +01:00``. *zone*: by default that of the settings in force,
    UTC for a user who may not read them. Text that is no time stays as it is, None is empty.
    """
    there = _zone_in_force() if zone is None else zone

    def show(value: object) -> str:
        if value is None:
            return ""
        moment = value if isinstance(value, datetime) else None
        if moment is None:
            with suppress(ValueError):
                moment = datetime.fromisoformat(str(value))
        if moment is None:
            return str(value)
        if moment.tzinfo is None:  # SQLite and contracts leave it out: they hold UTC alone
            moment = moment.replace(tzinfo=UTC)
        with suppress(OverflowError, ValueError):  # the first and the last day there is
            moment = moment.astimezone(there)
        # Offsets of before there were zones have seconds.
        offset = moment.strftime("%z")[:5]
        clock = moment.replace(microsecond=0, tzinfo=None).isoformat(sep=" ")
        return f"{clock} {offset[:3]}:{offset[3:]}"

    return show


def _zone_in_force() -> tzinfo:
    try:
        return zone_named(read_contract(find_paths().env_contract, written_by="env")["TZ"])
    except (EdgePaaSError, OSError, KeyError):
        return UTC
