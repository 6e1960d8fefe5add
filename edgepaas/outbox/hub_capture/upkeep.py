# SPDX-License-Identifier: Apache-2.0
"""Keeping capture on the hub in place: looked at with each comparison of marks, and mended."""

import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgepaas.alerts.catalogue import CAPTURE_RESTORED, HUB_NOT_CAPTURED
from edgepaas.outbox.hub_capture.rider import CaptureRider, HubCapture
from edgepaas.outbox.hub_capture.triggers import (
    FUNCTIONS,
    lacking_question,
    trigger_statements,
)
from edgepaas.pgdriver.failures import (
    ErrorClass,
    error_class,
    is_lost,
    server_message,
    sqlstate,
)

if TYPE_CHECKING:
    from edgepaas.marks.hub import Ask, HubStreams
    from edgepaas.marks.rider import MarkRider

logger = logging.getLogger("edgepaas.capture")

#: Milliseconds for which a table that is in use is waited for; the next look tries again.
LOCK_TIMEOUT_MS = 1500
#: And for other boxes that put the same triggers in place at this moment.
TURN_TIMEOUT_MS = 10_000
#: Seconds until what this box's role was not permitted to make is tried again.
RIGHTS_RETRY = 600.0
_NO_RIGHT = "42501"
_TURN = (
    f"SET LOCAL lock_timeout = {TURN_TIMEOUT_MS}",
    "SELECT pg_advisory_xact_lock(hashtextextended('edgepaas.capture', 0))",
    f"SET LOCAL lock_timeout = {LOCK_TIMEOUT_MS}",
)


@dataclass(frozen=True)
class Lacking:
    """What capture on a hub lacks: triggers of *tables*, and whether its *functions*."""

    tables: tuple[str, ...] = ()
    functions: bool = False

    def __bool__(self) -> bool:
        return self.functions or bool(self.tables)

    @property
    def text(self) -> str:
        """What is lacking, for a person."""
        if self.functions:
            return "the functions of capture are missing"
        return f"triggers of capture are missing on {', '.join(self.tables)}"


def parse_lacking(answer: str) -> Lacking:
    """Return what the answer to :func:`triggers.lacking_question` says."""
    tables, there = json.loads(answer)
    return Lacking(tuple(tables), not there)


def mend(ask: "Ask", lacking: Lacking) -> None:
    """Put what is *lacking* in its place, in one transaction; raises what *ask* raises.

    One box does so at a time: of two that create the same trigger at once, one fails. It waits
    for a table that is in use, and others wait meanwhile, so not for long.
    """
    statements = list(_TURN)
    if lacking.functions:
        statements += FUNCTIONS
    for table in lacking.tables:
        statements += trigger_statements(table)
    try:
        ask("; ".join(["BEGIN", *statements, "COMMIT"]))
    except Exception as error:
        if not is_lost(error):
            ask("ROLLBACK")
        raise


def ensure(ask: "Ask", tables: Sequence[str]) -> Lacking:
    """See to it that changes of *tables* are captured; return what was lacking.

    For whoever has brought the hub to head. Raises what *ask* raises.
    """
    ((answer,),) = ask(f"SELECT {lacking_question(tables)}")
    lacking = parse_lacking(answer)
    if lacking:
        mend(ask, lacking)
    return lacking


class CaptureUpkeep:
    """Keeps *capture* in step with the hub (edgepaas.marks.keeper.Companion).

    ``why_not`` says why changes are not captured, empty where they are. *may_mend*: whether this
    box may change the hub's schema (RUN_MIGRATIONS).
    """

    def __init__(
        self,
        capture: HubCapture,
        *,
        may_mend: bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._capture = capture
        self._clock = clock
        self._may_mend = may_mend
        self._tables = tuple(capture.layouts)
        self.question = lacking_question(self._tables)
        self.why_not = "nothing has been compared yet"
        self._not_permitted: tuple[Lacking, float] | None = None

    def compared(self, ask: "Ask", hub: "HubStreams") -> None:
        """Capture from now on, or not, as the hub permits; mend it where that is permitted."""
        if hub.why_not or not hub.beside:
            self._set(hub, hub.why_not or "it was not asked")
            return
        lacking = parse_lacking(hub.beside)
        if not lacking:
            self._not_permitted = None
            self._set(hub, "")
        elif not self._may_mend:
            self._set(hub, f"{lacking.text}, and RUN_MIGRATIONS=false keeps this box from "
                      "making them: have 'edgepaas schema --hub' run where it may")  # fmt: skip
        elif self._not_permitted is None or self._may_try_again(lacking, *self._not_permitted):
            self._mend(ask, hub, lacking)

    def _may_try_again(self, lacking: Lacking, refused: Lacking, until: float) -> bool:
        return lacking != refused or self._clock() >= until

    def _mend(self, ask: "Ask", hub: "HubStreams", lacking: Lacking) -> None:
        try:
            ensure(ask, self._tables)
        except Exception as error:
            if is_lost(error):
                raise
            if sqlstate(error) == _NO_RIGHT:
                self._not_permitted = (lacking, self._clock() + RIGHTS_RETRY)
                self._set(hub, f"{lacking.text}, and this box's role may not make them "
                          f"({server_message(error)})")  # fmt: skip
                return
            if error_class(error) is ErrorClass.LINK and self._capture.active:
                # A table was in use: COMMITs are refused until the next look has mended it.
                logger.warning("%s, and are put back soon: %s", lacking.text, server_message(error))
                return
            self._set(hub, f"{lacking.text}, and cannot be made: {server_message(error)}")
            return
        if self._capture.active:
            CAPTURE_RESTORED.raise_alert(f"PostgreSQL: {lacking.text}; they were put back")
        logger.info("%s; they were put in place", lacking.text)
        self._set(hub, "")

    def beside(self, marks: "MarkRider") -> CaptureRider:
        """Return what rides with a connection's transactions."""
        return CaptureRider(self._capture, marks)

    def _set(self, hub: "HubStreams", why_not: str) -> None:
        self._capture.use(None if why_not else hub.tables)
        if why_not != self.why_not:
            self.why_not = why_not
            if why_not and self._capture.keeper.works:
                HUB_NOT_CAPTURED.raise_alert(f"PostgreSQL captures no changes: {why_not}")
            elif not why_not:
                HUB_NOT_CAPTURED.resolve_alert("PostgreSQL captures what this box writes")
            logger.log(
                logging.WARNING if why_not else logging.INFO,
                "PostgreSQL captures %s", f"no changes: {why_not}" if why_not else "changes",
            )  # fmt: skip
