# SPDX-License-Identifier: Apache-2.0
"""One vocabulary of states, from one function; API, metrics, pages and commands show it."""

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal

from edgepaas.app.box import BoxState
from edgepaas.health.checks import CheckResult
from edgepaas.logs.redact import redact

if TYPE_CHECKING:
    from edgepaas.decision.contract import DatabaseContract
    from edgepaas.outbox.forwarding_state import Forwarding

__all__ = ["STATES", "BoxState", "Facts", "Phase", "StateBoard", "box_state"]

Phase = Literal["starting", "running", "stopping"]

#: Highest first; of several that hold, the highest is the box's state.
STATES = (
    "starting",
    "stopping",
    "full",
    "degraded",
    "draining",
    "fallback",
    "local-first",
    "primary",
    "standalone",
)


@dataclass(frozen=True)
class Facts:
    """What is known beside the decision: one line each for a person."""

    full: tuple[str, ...] = ()
    degraded: tuple[str, ...] = ()
    #: The forwarding state; None where there is no hub, or nothing watches it.
    forwarding: "Forwarding | None" = None


def box_state(contract: "DatabaseContract", phase: Phase, facts: Facts) -> BoxState:
    """Return the box's state: the highest one that holds, the databases' mode, and why."""
    mode = contract.db_state
    forwarding = facts.forwarding
    degraded = [*facts.degraded, *(forwarding.problems if forwarding else ())]
    reasons = [*facts.full, *degraded]
    waiting = (forwarding.rows_waiting if forwarding else contract.rows_waiting) > 0
    if mode in ("fallback", "draining", "local-first") or waiting or not reasons:
        reasons.append(contract.reason)
    if forwarding and (waiting or forwarding.hand_back or forwarding.conflicts):
        reasons.append(forwarding.line)
    if phase != "running":
        state: str = phase
    elif facts.full:
        state = "full"
    elif degraded:
        state = "degraded"
    else:
        state = _mode_now(mode, forwarding)
    return BoxState(
        state=state,
        mode=mode,
        reasons=tuple(reason for reason in reasons if reason),
        forwarding=forwarding.as_dict() if forwarding else None,
    )


def _mode_now(mode: str, forwarding: "Forwarding | None") -> str:
    """Return what *mode* has become since the decision, as far as the drainer knows.

    The decision is not made anew while SQLite serves: that PostgreSQL is back, or gone again,
    shows only in whether it takes rows. Rows that PostgreSQL serves without are ``draining``.
    """
    if forwarding is None or mode not in ("fallback", "draining", "primary"):
        return mode
    if mode == "primary":
        return "draining" if forwarding.rows_waiting and forwarding.hub == "ok" else mode
    if forwarding.hub == "ok":
        return "draining"
    return "fallback" if forwarding.hub == "away" else mode


class StateBoard:
    """The state of the process: its phase, the results of its checks, and noted problems.

    :meth:`state` is cheap and probes nothing; it is what :class:`edgepaas.app.box.Box`
    hands to the application.
    """

    def __init__(
        self,
        contract: "DatabaseContract",
        *,
        latest: Callable[[], Iterable[CheckResult]] = tuple,
        forwarding: "Callable[[], Forwarding | None]" = lambda: None,
        tasks: Callable[[], Iterable[str]] = tuple,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.contract = contract
        #: What the checks found last (:meth:`edgepaas.health.checks.HealthBoard.latest`).
        self.latest = latest
        self._forwarding = forwarding
        #: One line for each of the process's threads that does not do its work.
        self._tasks = tasks
        #: One line about the alerts, for :func:`edgepaas.service.watches.monitor.status_line`.
        self.alerts: Callable[[], str] = str
        self._now = now
        self._lock = threading.Lock()
        self._phase: Phase = "starting"
        self._noted: dict[str, tuple[Literal["full", "degraded"], str]] = {}
        self._last_state = "starting"
        self._since = now()

    @property
    def phase(self) -> Phase:
        """Whether the process is starting, running or stopping; set by the service."""
        return self._phase

    @phase.setter
    def phase(self, phase: Phase) -> None:
        with self._lock:
            self._phase = phase
        self.state()

    def note(
        self, key: str, reason: str, *, state: Literal["full", "degraded"] = "degraded"
    ) -> None:
        """Hold *reason* against the box until :meth:`withdraw` is called with the same *key*."""
        with self._lock:
            self._noted[key] = (state, reason)

    def withdraw(self, key: str) -> None:
        """Take back what was noted under *key*."""
        with self._lock:
            self._noted.pop(key, None)

    def is_noted(self, key: str) -> bool:
        """Whether something is held against the box under *key*."""
        with self._lock:
            return key in self._noted

    def state(self) -> BoxState:
        """Return the state as of now, and since when."""
        found = [result for result in self.latest() if not result.ok]
        forwarding = self._forwarding()
        tasks = tuple(redact(line) for line in self._tasks())
        with self._lock:
            noted = list(self._noted.values())
            facts = Facts(
                full=_lines(noted, found, "full"),
                degraded=(*_lines(noted, found, "degraded"), *tasks),
                forwarding=forwarding,
            )
            current = box_state(self.contract, self._phase, facts)
            if current.state != self._last_state:
                self._last_state, self._since = current.state, self._now()
            return replace(current, since=self._since)


def _lines(
    noted: list[tuple[Literal["full", "degraded"], str]], found: list[CheckResult], wanted: str
) -> tuple[str, ...]:
    lines = [reason for state, reason in noted if state == wanted]
    lines += [
        f"{result.name}: {result.message}" for result in found if result.consequence == wanted
    ]
    return tuple(lines)
