# SPDX-License-Identifier: Apache-2.0
"""The decision itself: gather the facts, within the deadline, and apply the rules."""

import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from edgepaas.alerts.catalogue import DATABASE_FALLBACK, ROWS_NOT_IN_POSTGRES
from edgepaas.decision import losses
from edgepaas.decision.contract import DatabaseContract
from edgepaas.decision.further_connections import connections_needed
from edgepaas.decision.hold import Hold, read_hold, write_hold
from edgepaas.decision.link_record import record_link, recorded_link
from edgepaas.decision.matrix import Choice, DatabasePreferences, attempts_needed, choose
from edgepaas.decision.probe import ProbeResult
from edgepaas.decision.probe import probe as probe_server
from edgepaas.decision.rehearsal_record import fresh_rehearsal
from edgepaas.decision.waiting import Waiting, rows_waiting
from edgepaas.files.atomic import remove_durably
from edgepaas.files.paths import Paths
from edgepaas.logs.printable import printable_line
from edgepaas.logs.redact import MASK, search_pattern
from edgepaas.pgdriver.failures import Failure
from edgepaas.pgdriver.hosts import endpoint_of
from edgepaas.pgdriver.tls import TLSPolicy
from edgepaas.settings import Settings
from edgepaas.settings.urls import Address
from edgepaas.timing.backoff import jitter, pause_after
from edgepaas.timing.link import ATTEMPT_TRIPS, Link
from edgepaas.timing.moment import Moment, current_moment, rfc3339

logger = logging.getLogger("edgepaas.decision")

#: The one attempt after a loss: seconds for a server to answer, and for an attempt over a slow
#: link to be done. Requests wait for its outcome, so none is made where it takes longer.
AFTER_LOSS_TIMEOUT = 1.0
AFTER_LOSS_LONGEST = 2.5
#: An attempt with less time than this would fail for that reason alone.
_LEAST_ATTEMPT = 0.25
_LONGEST_REASON = 500

Probe = Callable[[Address, TLSPolicy, float], ProbeResult]


@dataclass(frozen=True)
class Clock:
    """The clocks, the sleep and the jitter, replaceable as one."""

    monotonic: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    moment: Callable[[], Moment] = current_moment
    #: A factor near 1: boxes that lost one server must not all come back at once.
    jitter: Callable[[], float] = lambda: jitter(0.8, 1.2)


@dataclass(frozen=True)
class Decision:
    """A contract that is not written yet, and the hold that is written with it."""

    contract: DatabaseContract
    address: Address | None
    after_loss: bool
    moment: Moment
    #: (reason, seconds): PostgreSQL is not chosen for this long.
    hold: tuple[str, float] | None = None
    #: What the attempts measured of the link to the address.
    link: Link | None = None

    def masked(self, text: str) -> str:
        """Return *text* without the password of the address."""
        if self.address is None:
            return text
        return text.replace(self.address.url(), self.address.masked())


def decide(
    settings: Settings,
    paths: Paths,
    *,
    after_loss: bool = False,
    clock: Clock | None = None,
    probe: Probe | None = None,
) -> Decision:
    """Decide which database serves; changes nothing (:func:`store_decision` does).

    *after_loss*: the service lost PostgreSQL, so where a fallback is armed at most one attempt
    is made, a short one; else as many as MAX_RETRIES within DECISION_DEADLINE. None is made
    where the drainer, which hands back, has just found PostgreSQL good. Raises NoDatabase
    where PostgreSQL alone was asked for and cannot be used, and ConfigurationError where the
    settings contradict each other.
    """
    clock = clock or Clock()
    now = clock.moment()
    preferences = DatabasePreferences.of(settings, paths.state)
    if preferences.without_address:
        logger.warning(
            "%s: PostgreSQL is asked for without an address", preferences.without_address
        )
    waiting = rows_waiting(preferences.sqlite_path, paths.database_lock)
    hold = read_hold(paths.postgres_hold, now)
    most = settings.integer("HANDBACK_PER_HOUR")
    flapping = _flapping(paths, now, most) if after_loss and preferences.fallback else None
    hold = hold or flapping
    result = link = None
    # Requests wait for the outcome as well when PostgreSQL, found good, is handed back to.
    brief = after_loss or paths.hand_back.exists()
    attempts = attempts_needed(preferences, hold, waiting, after_loss=brief)
    if preferences.postgres is not None and attempts != "none":
        result = None if after_loss else _rehearsed(paths, preferences.postgres, now)
        if result is None:
            link = recorded_link(paths, preferences.postgres, recording=False)
            schedule = _Schedule.of(settings, link, single=attempts == "one", after_loss=after_loss)
            result = schedule.run(
                preferences.postgres,
                _tls(settings, preferences.postgres),
                probe or _prober(preferences, paths, schedule),
                clock,
                patient=not preferences.fallback,
            )
    choice = choose(preferences, result, hold, waiting)
    new_hold = None
    if flapping is not None:
        new_hold = (flapping.reason, flapping.remaining)
    elif after_loss and choice.state == "fallback" and hold is None:
        new_hold = (f"it was lost in service ({choice.reason})", settings.number("HANDBACK_AFTER"))
    contract = _contract(preferences, choice, now, waiting)
    return Decision(contract, preferences.postgres, after_loss, now, new_hold, link)


def store_decision(decision: Decision, paths: Paths) -> None:
    """Write the contract and the hold, and raise or resolve the alerts; raises OSError."""
    contract = decision.contract
    if decision.hold is not None and decision.hold[1] > 0:
        reason, seconds = decision.hold
        try:
            write_hold(paths.postgres_hold, reason, seconds, decision.moment)
        except OSError as error:  # the fallback itself must not fail for it
            logger.warning("the hold on PostgreSQL could not be written: %s", error)
    if decision.after_loss and not contract.sqlite_active:
        losses.record_return(paths, decision.moment)
    if decision.address is not None and decision.link is not None:
        record_link(paths, decision.address, decision.link)
    contract.write(paths.db_contract)
    losses.clear_loss(paths)
    remove_durably(paths.hand_back)
    _tell(contract)


def _tell(contract: DatabaseContract) -> None:
    """Raise the alerts that follow from the decision, and resolve those that it ends."""
    if contract.db_fallback:
        DATABASE_FALLBACK.raise_alert(
            f"SQLite serves instead of PostgreSQL ({contract.db_state}) since "
            f"{contract.decided_at}: {contract.reason}"
        )
        return
    DATABASE_FALLBACK.resolve_alert(
        f"no fallback since {contract.decided_at} ({contract.db_state}): {contract.reason}"
    )
    if contract.rows_waiting:  # a fallback's alert names them in its reason
        ROWS_NOT_IN_POSTGRES.raise_alert(
            f"PostgreSQL serves without {contract.rows_waiting:,} rows of "
            f"{contract.sqlite_path}, since {contract.decided_at}: {contract.reason}"
        )
    else:
        ROWS_NOT_IN_POSTGRES.resolve_alert("every row is in PostgreSQL")


def _rehearsed(paths: Paths, address: Address, now: Moment) -> ProbeResult | None:
    """Return what the drainer found a moment ago, when it asked for a hand-back."""
    if not paths.hand_back.exists() or fresh_rehearsal(paths, address.url(), now) is None:
        return None
    return ProbeResult(
        usable=True, reason=f"PostgreSQL at {endpoint_of(address)} is handed back to"
    )


def _tls(settings: Settings, address: Address) -> TLSPolicy:
    policy = TLSPolicy.of(settings, address)
    if policy.warning:
        logger.warning("%s", policy.warning)
    return policy


def _prober(preferences: DatabasePreferences, paths: Paths, schedule: "_Schedule") -> Probe:
    return partial(
        probe_server,
        connections=connections_needed(paths.sync_lock, delivers=preferences.fallback),
        until=time.monotonic() + schedule.deadline,
        link=schedule.link,
    )


@dataclass(frozen=True)
class _Schedule:
    """How many attempts, and in seconds: for each, between them, and altogether."""

    attempts: int
    attempt_timeout: float
    interval: float
    deadline: float
    link: Link

    @classmethod
    def of(cls, settings: Settings, link: Link, *, single: bool, after_loss: bool) -> "_Schedule":
        timeout = settings.number("DB_CONNECT_TIMEOUT")
        deadline = settings.number("DECISION_DEADLINE")
        attempts = 1 if single else max(1, settings.integer("MAX_RETRIES"))
        if single and after_loss:
            timeout = min(timeout, AFTER_LOSS_TIMEOUT)
            deadline = min(deadline, max(timeout, AFTER_LOSS_LONGEST))
            if link.expected(ATTEMPT_TRIPS) > deadline:
                attempts = 0
        else:
            timeout = link.limit(timeout, ATTEMPT_TRIPS)
        return cls(
            attempts=attempts,
            attempt_timeout=timeout,
            interval=settings.number("RETRY_INTERVAL"),
            deadline=deadline,
            link=link,
        )

    def run(
        self, address: Address, tls: TLSPolicy, probe: Probe, clock: Clock, *, patient: bool
    ) -> ProbeResult:
        """Probe until it is usable, hopeless (unless *patient*), or the time is spent."""
        if not self.attempts:
            return ProbeResult(
                usable=False,
                reason=f"{endpoint_of(address)} was lost, and to ask it again would take "
                f"{self.link.expected(ATTEMPT_TRIPS):.0f} s over this link",
                kind=Failure.OTHER,
            )
        end = clock.monotonic() + self.deadline
        attempt = 1
        while True:
            left = end - clock.monotonic()
            result = probe(address, tls, min(self.attempt_timeout, left))
            if result.usable:
                return result
            logger.info("attempt %d of %d: %s", attempt, self.attempts, result.reason)
            pause = self._pause(attempt) * clock.jitter()
            spent = clock.monotonic() + pause + _LEAST_ATTEMPT > end
            if attempt >= self.attempts or spent or (result.permanent and not patient):
                break
            clock.sleep(pause)
            attempt += 1
        if attempt == 1:
            return result
        return replace(result, reason=f"{result.reason} ({attempt} attempts)")

    def _pause(self, attempt: int) -> float:
        # A quarter, a half, then RETRY_INTERVAL itself: a server that is only just
        # starting is found soon, one that is away is not hammered.
        return pause_after(attempt, first=self.interval / 4, longest=self.interval)


def _flapping(paths: Paths, now: Moment, most: int) -> Hold | None:
    seconds = losses.seconds_until_return(paths, now, most)
    if seconds <= 0:
        return None
    return Hold(f"it came back and was lost {most} times within an hour", seconds)


def _contract(
    preferences: DatabasePreferences, choice: Choice, now: Moment, waiting: Waiting
) -> DatabaseContract:
    address = preferences.postgres
    hub_url = address.url() if address is not None else ""
    return DatabaseContract(
        database_url=_sqlite_url(preferences.sqlite_path) if choice.sqlite else hub_url,
        run_migrations=preferences.run_migrations and not choice.sqlite,
        final_db_mode=choice.mode,
        db_state=choice.state,
        db_fallback=choice.fallback,
        hub_url=hub_url,
        sqlite_path=preferences.sqlite_path,
        reason=_one_line(choice.reason, address),
        generation=os.urandom(8).hex(),  # ``secrets`` loads OpenSSL: 4 ms
        decided_at=rfc3339(now.wall),
        rows_waiting=0 if address is None else waiting.total,
        cause=choice.cause,
    )


def _sqlite_url(path: Path) -> str:
    return f"sqlite:///{path}"


def _one_line(reason: str, address: Address | None) -> str:
    """Return *reason* as a contract can carry it: one printable line without the password."""
    text = printable_line(reason.encode("utf-8", "replace").decode())
    shown = () if address is None else (address.username, address.database, address.host)
    if address is not None and address.password and address.password not in shown:
        # A server may say anything, also what it was sent.
        text = search_pattern({address.password}).sub(MASK, text)
    return text[:_LONGEST_REASON]
