# SPDX-License-Identifier: Apache-2.0
"""What holds up PostgreSQL's schema: a right that this box lacks, a revision that waits for rows.

The box works all the same. It is kept in ``state/hub-conditions``, by which alerts begin and end
and the drainer knows that there is something to be tried again. Imports nothing heavy.
"""

import contextlib
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgepaas.alerts.catalogue import HUB_REVISION_WAITS, HUB_RIGHTS
from edgepaas.files import shapes
from edgepaas.files.atomic import remove_durably
from edgepaas.files.records import RecordType
from edgepaas.timing.moment import current_moment, read_moment

if TYPE_CHECKING:
    from edgepaas.files.paths import Paths
    from edgepaas.schema.report import SchemaReport

logger = logging.getLogger("edgepaas.schema")

_NAME = "hub-conditions"
RECORD = RecordType(
    "hub-conditions",
    1,
    {
        "rights": shapes.text,
        "waiting": shapes.text,
        "since": shapes.object_of(
            {"wall": shapes.number, "since_boot": shapes.number, "boot_id": shapes.text}
        ),
    },
)
#: Seconds for which a revision waits before an operator is notified: while a fleet is upgraded,
#: and its rows go home, it waits for as long as that takes.
PATIENCE = 3600.0


@dataclass(frozen=True)
class HubConditions:
    """Why PostgreSQL's schema is not this build's; empty where it is.

    *rights*: what cannot be promised for want of a right; *waiting*: the revision that waits, and
    for how many rows.
    """

    rights: str = ""
    waiting: str = ""

    def __bool__(self) -> bool:
        return bool(self.rights or self.waiting)


def read_hub_conditions(paths: "Paths") -> HubConditions:
    """Return what the last look at PostgreSQL's schema left open."""
    found = RECORD.read_or_none(paths.state / _NAME)
    return HubConditions() if found is None else HubConditions(found["rights"], found["waiting"])


def note_hub_conditions(paths: "Paths", report: "SchemaReport") -> None:
    """Note what *report*, of a run on PostgreSQL, left open; raise and resolve its alerts."""
    before = RECORD.read_or_none(paths.state / _NAME)
    now = current_moment()
    since = now.as_dict()
    if before is not None and before["waiting"] and report.waiting:
        since = before["since"]
    record = {"rights": report.reservation, "waiting": report.waiting, "since": since}
    try:
        if report.reservation or report.waiting:
            RECORD.write(paths.state / _NAME, record)
        elif before is not None:
            remove_durably(paths.state / _NAME)
    except OSError as error:  # the alerts are told all the same
        logger.warning("%s cannot be written: %s", paths.state / _NAME, error)
    _tell_rights("" if before is None else before["rights"], report)
    _tell_waiting(since, report)


def _tell_rights(before: str, report: "SchemaReport") -> None:
    if not report.reservation:
        HUB_RIGHTS.resolve_alert(f"PostgreSQL's schema is this build's: {report.message}")
    elif report.reservation != before:
        HUB_RIGHTS.raise_alert(report.reservation)


def _tell_waiting(since: dict[str, object], report: "SchemaReport") -> None:
    if not report.waiting:
        HUB_REVISION_WAITS.resolve_alert(f"PostgreSQL: {report.message}")
        return
    passed = None
    with contextlib.suppress(ValueError):  # a clock that cannot be
        passed = current_moment().seconds_since(read_moment(since))
    if passed is None or passed >= PATIENCE:
        HUB_REVISION_WAITS.raise_alert(f"PostgreSQL: {report.waiting}")
