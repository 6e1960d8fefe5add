# SPDX-License-Identifier: Apache-2.0
"""Attempts, pauses, the deadline, and what a decision leaves behind; clocks and probe injected."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field

import pytest

from edgepaas.decision.contract import DatabaseContract
from edgepaas.decision.decide import AFTER_LOSS_TIMEOUT, Clock, decide, store_decision
from edgepaas.decision.hold import read_hold, write_hold
from edgepaas.decision.losses import MOST_RETURNS, loss_reason, mark_loss
from edgepaas.decision.matrix import NoDatabase
from edgepaas.decision.probe import ProbeResult
from edgepaas.decision.waiting import rows_not_in_postgres
from edgepaas.files.paths import Paths
from edgepaas.pgdriver.failures import PERMANENT, Failure
from edgepaas.pgdriver.tls import TLSPolicy
from edgepaas.settings import Address, Settings
from edgepaas.timing.moment import Moment

URL = "postgresql://edgepaas:tr0ub4dor@127.0.0.1:5432/edgepaas"
GOOD = ProbeResult(True, "PostgreSQL 15.18 answers", server_version="15.18")


def bad(kind: Failure = Failure.REFUSED) -> ProbeResult:
    """An attempt that failed."""
    return ProbeResult(False, f"it is {kind}", kind, permanent=kind in PERMANENT)


@dataclass
class World:
    """Time that passes only where somebody waits, and a server that answers as told."""

    answers: list[ProbeResult]
    #: Seconds that an attempt takes; None: all that it is given (a silent server).
    takes: float | None = 0.0
    time: float = 1000.0
    jitter: float = 1.0
    attempts: list[tuple[float, float]] = field(default_factory=list)

    def clock(self) -> Clock:
        return Clock(
            monotonic=lambda: self.time,
            sleep=self._sleep,
            moment=lambda: Moment(1_800_000_000 + self.time, self.time, "boot"),
            jitter=lambda: self.jitter,
        )

    def probe(self, address: Address, tls: TLSPolicy, timeout: float) -> ProbeResult:
        assert timeout > 0
        self.attempts.append((self.time, timeout))
        self.time += timeout if self.takes is None else min(self.takes, timeout)
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]

    def _sleep(self, seconds: float) -> None:
        self.time += seconds


def run(
    world: World, paths: Paths, after_loss: bool = False, **given: str
) -> tuple[DatabaseContract, float]:
    """Decide and settle in *world*; the contract and the seconds that it took."""
    begin = world.time
    settings = Settings.of(**{"DATABASE_URL": URL, **given})
    decision = decide(
        settings, paths, after_loss=after_loss, clock=world.clock(), probe=world.probe
    )
    store_decision(decision, paths)
    written = DatabaseContract.read(paths.db_contract)
    assert written == decision.contract
    return written, world.time - begin


@pytest.mark.parametrize("jitter", [0.8, 1.0, 1.2])
@pytest.mark.parametrize("takes", [0.0, 0.3, 2.9, None])
@pytest.mark.parametrize("both", ["true", "false"])
def test_the_decision_falls_within_its_deadline_whatever_the_server_does(
    paths: Paths, jitter: float, takes: float | None, both: str
) -> None:
    """Refused at once, slow or silent: never over 10 s altogether, nor 3 s an attempt."""
    world = World([bad()], takes=takes, jitter=jitter)
    begin = world.time
    if both == "true":
        contract, _ = run(world, paths, BOTH_DB=both)
        assert contract.db_state == "fallback"
    else:
        with pytest.raises(NoDatabase, match="refused"):
            run(world, paths, BOTH_DB=both)
        assert not paths.db_contract.exists()
    assert world.time - begin <= 10.0
    assert all(timeout <= 3.0 for _, timeout in world.attempts)
    assert len(world.attempts) > 1


def test_what_was_handed_back_to_is_given_the_time_of_any_attempt(paths: Paths) -> None:
    """Over a slow link a second is too short; it would be handed back to in vain for ever."""
    paths.hand_back.write_text("{}")
    world = World([GOOD], takes=1.5)
    contract, _ = run(world, paths)
    assert contract.db_state == "primary"
    assert [timeout for _, timeout in world.attempts] == [3.0]


def test_pauses_grow_up_to_the_interval(paths: Paths) -> None:
    """A server that is only just starting is found soon."""
    world = World([bad()])
    run(world, paths, RETRY_INTERVAL="4", DECISION_DEADLINE="60")
    times = [time - 1000.0 for time, _ in world.attempts]
    assert times == [0, 1, 3, 7, 11, 15]


def test_a_server_that_comes_up_in_time_is_chosen(paths: Paths) -> None:
    """A refusal at boot is not the last word."""
    world = World([bad(Failure.DNS), bad(Failure.BUSY), GOOD])
    contract, seconds = run(world, paths)
    assert contract.db_state == "primary"
    assert seconds < 5
    assert contract.database_url == contract.hub_url == URL
    assert contract.run_migrations


@pytest.mark.parametrize("kind", sorted(PERMANENT))
def test_what_does_not_heal_is_not_tried_again(paths: Paths, kind: Failure) -> None:
    """A wrong password stays wrong: the box starts at once, on SQLite."""
    world = World([bad(kind)])
    contract, seconds = run(world, paths)
    assert (contract.db_state, len(world.attempts), seconds) == ("fallback", 1, 0)
    assert kind in contract.reason


def test_postgresql_alone_is_tried_again_even_then(paths: Paths) -> None:
    """There is nothing else to start on, and somebody may mend it meanwhile."""
    world = World([bad(Failure.AUTHENTICATION), bad(Failure.NO_DATABASE), GOOD])
    contract, _ = run(world, paths, BOTH_DB="false")
    assert (contract.final_db_mode, len(world.attempts)) == ("postgres_only", 3)


@pytest.mark.parametrize("takes", [0.0, None])
def test_after_a_loss_one_short_attempt_is_made(paths: Paths, takes: float | None) -> None:
    """Requests wait meanwhile; PostgreSQL is then held for HANDBACK_AFTER."""
    mark_loss(paths, "the server closed the connection")
    world = World([bad(Failure.SILENT)], takes=takes)
    contract, seconds = run(world, paths, after_loss=True, HANDBACK_AFTER="30")
    assert contract.db_state == "fallback"
    assert seconds <= AFTER_LOSS_TIMEOUT
    assert len(world.attempts) == 1
    assert loss_reason(paths) is None
    hold = read_hold(paths.postgres_hold, world.clock().moment())
    assert hold is not None and 25 < hold.remaining <= 30


def test_the_hold_is_honoured_across_a_restart_and_ends(paths: Paths) -> None:
    """While it lasts nobody is asked; afterwards PostgreSQL may serve again."""
    world = World([GOOD])
    write_hold(paths.postgres_hold, "read-only", 60, world.clock().moment())
    contract, seconds = run(world, paths)
    assert (contract.db_state, seconds, world.attempts) == ("fallback", 0, [])
    assert "read-only" in contract.reason
    world.time += 61
    assert run(world, paths)[0].db_state == "primary"


def test_postgresql_alone_ignores_a_hold(paths: Paths) -> None:
    """There is nothing that it could be held for."""
    world = World([GOOD])
    write_hold(paths.postgres_hold, "read-only", 60, world.clock().moment())
    assert run(world, paths, BOTH_DB="false")[0].final_db_mode == "postgres_only"


def test_a_server_that_comes_and_goes_is_not_followed_for_ever(paths: Paths) -> None:
    """Six returns an hour; then SQLite serves until the first of them is an hour old."""
    world = World([GOOD])
    for _ in range(MOST_RETURNS):
        world.time += 10
        assert run(world, paths, after_loss=True)[0].db_state == "primary"
    world.time += 10
    contract, _ = run(world, paths, after_loss=True)
    assert contract.db_state == "fallback"
    assert f"lost {MOST_RETURNS} times" in contract.reason
    assert run(world, paths)[0].db_state == "fallback"
    world.time += 3600
    assert run(world, paths)[0].db_state == "primary"


def test_rows_that_wait_keep_sqlite_serving(paths: Paths) -> None:
    """One attempt tells draining from fallback; DB_FALLBACK is true in both."""
    with closing(sqlite3.connect(paths.sqlite)) as connection:
        connection.execute("CREATE TABLE outbox (seq INTEGER PRIMARY KEY)")
        connection.executemany("INSERT INTO outbox VALUES (?)", [(1,), (2,)])
        connection.commit()
    draining, _ = run(World([GOOD]), paths)
    assert (draining.db_state, draining.db_fallback, draining.hub_url) == ("draining", True, URL)
    assert "2 rows wait" in draining.reason
    world = World([bad()])
    fallback, _ = run(world, paths)
    assert (fallback.db_state, len(world.attempts)) == ("fallback", 1)


def test_each_decision_has_its_own_generation(paths: Paths) -> None:
    """A process that sees another one than its own ends."""
    first, _ = run(World([GOOD]), paths)
    second, _ = run(World([GOOD]), paths)
    assert first.generation != second.generation


@pytest.mark.parametrize(
    "answer", [GOOD, bad(), bad(Failure.AUTHENTICATION)], ids=["good", "refused", "authentication"]
)
def test_a_fallback_calls_a_human_and_nothing_else_does(
    paths: Paths, answer: ProbeResult, caplog: pytest.LogCaptureFixture
) -> None:
    """The alert says what happened, since when, and why."""
    contract, _ = run(World([answer]), paths)
    alerts = [record.getMessage() for record in caplog.records if "ALERT" in record.getMessage()]
    assert len(alerts) == (0 if answer.usable else 1)
    if alerts:
        assert contract.reason in alerts[0] and contract.decided_at in alerts[0]


def _leaky(text: str) -> Callable[[Address, TLSPolicy, float], ProbeResult]:
    return lambda *_: ProbeResult(False, text, Failure.OTHER, permanent=True)


@pytest.mark.parametrize(
    "text",
    ["you sent tr0ub4dor", "two\nlines\x00and\x1bmore \udcff", "x" * 10_000, "\u2028\u202e evil"],
)
def test_the_reason_is_one_clean_line_whatever_a_server_says(paths: Paths, text: str) -> None:
    """No control character, no password, no novel."""
    decision = decide(Settings.of(DATABASE_URL=URL), paths, probe=_leaky(text))
    store_decision(decision, paths)
    reason = DatabaseContract.read(paths.db_contract).reason
    assert reason.isprintable() and len(reason) <= 500
    assert "tr0ub4dor" not in reason


def test_run_migrations_is_false_whenever_sqlite_is_active(paths: Paths) -> None:
    """It is about PostgreSQL, and the operator may take it away."""
    assert run(World([GOOD]), paths)[0].run_migrations
    assert not run(World([GOOD]), paths, RUN_MIGRATIONS="false")[0].run_migrations
    assert not run(World([bad()]), paths)[0].run_migrations
    assert not run(World([GOOD]), paths, USE_SQLITE="true")[0].run_migrations


@pytest.mark.parametrize("answer", [GOOD, bad()])
def test_rows_that_are_not_in_postgresql_are_told_once_a_decision(
    paths: Paths, answer: ProbeResult, caplog: pytest.LogCaptureFixture
) -> None:
    """In the reason, in the contract, in one alert."""
    with closing(sqlite3.connect(paths.sqlite)) as connection:
        connection.execute("CREATE TABLE notes (id INTEGER PRIMARY KEY)")
        connection.executemany("INSERT INTO notes VALUES (?)", [(1,), (2,)])
        connection.commit()
    contract, _ = run(World([answer]), paths)
    assert contract.rows_waiting == 2
    assert contract.sqlite_active is not answer.usable
    assert f"2 rows in {paths.sqlite} are not in PostgreSQL" in contract.reason
    alerts = [r for r in caplog.records if r.name == "edgepaas.alerts"]
    assert [str(paths.sqlite) in alert.getMessage() for alert in alerts] == [True]
    assert rows_not_in_postgres(contract) == 2


def test_a_standalone_box_has_nothing_to_send(paths: Paths) -> None:
    """There is nowhere to send it."""
    with closing(sqlite3.connect(paths.sqlite)) as connection:
        connection.execute("CREATE TABLE notes AS SELECT 1 AS id")
        connection.commit()
    contract, _ = run(World([GOOD]), paths, DATABASE_URL="")
    assert contract.rows_waiting == 0
    assert rows_not_in_postgres(contract) == 0
