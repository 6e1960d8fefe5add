# SPDX-License-Identifier: Apache-2.0
"""Counting how writes end: what moves the box, what never does, and what ends it."""

from typing import Any

import pytest

from edgepaas.errors import DatabaseBusy, DatabaseFull, DatabaseUnavailable
from edgepaas.outcomes.causes import Access, Cause, KnownTable, Refusal, refusal_of
from edgepaas.outcomes.outcomes import Outcomes
from edgepaas.outcomes.statements import inserted_table, tables_of
from edgepaas.pgdriver.failures import CommitUnconfirmed


class ServerError(Exception):
    """An error as the driver raises it: the server's fields by their codes."""


def server_error(state: str, message: str = "refused", **fields: str) -> ServerError:
    return ServerError({"S": "ERROR", "C": state, "M": message, **fields})


KNOWN = {"readings": KnownTable({"id": "UUID", "value": "FLOAT"}, frozenset({"pk_readings"}))}


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def outcomes(clock: Clock, **options: Any) -> Outcomes:
    made = Outcomes(patience=10.0, clock=clock, **options)
    made.known = KNOWN
    return made


def fail(
    made: Outcomes, clock: Clock, error: BaseException, *, times: int = 5, every: float = 3.0
) -> None:
    for _ in range(times):
        made.record(["readings"], error)
        clock.now += every


RIGHTS = server_error("42501", "permission denied for table readings")
#: What a rehearsal shows of a table that takes no row.
EVERY_ROW = Refusal("readings", Cause.FUNCTION, "refused", "P0001", doubtful=True)


def test_a_missing_right_that_lasts_longer_than_the_patience_moves_the_box(clock: Clock) -> None:
    made = outcomes(clock)
    fail(made, clock, RIGHTS, times=3, every=3.0)
    assert made.lasting() == []
    fail(made, clock, RIGHTS, times=1)
    (found,) = made.lasting()
    assert found.refusal.cause is Cause.RIGHTS
    assert found.refusal.text == (
        "PostgreSQL refuses writes to readings: permission denied for table readings "
        "(SQLSTATE 42501)"
    )
    assert (found.count, found.lasts) == (4, 12.0)


def test_one_write_that_succeeds_in_between_begins_the_count_anew(clock: Clock) -> None:
    made = outcomes(clock)
    fail(made, clock, RIGHTS, times=4)
    made.record(["devices", "readings"], None)
    assert made.failing() == []
    fail(made, clock, RIGHTS, times=2)
    assert made.lasting() == []


def test_a_success_elsewhere_does_not_excuse_a_table(clock: Clock) -> None:
    made = outcomes(clock)
    fail(made, clock, RIGHTS, times=4)
    made.record(["devices"], None)
    assert len(made.lasting()) == 1


def test_a_single_request_never_moves_the_box_however_long_ago_it_was(clock: Clock) -> None:
    made = outcomes(clock)
    fail(made, clock, RIGHTS, times=1)
    clock.now += 3600
    assert made.lasting() == []


def test_two_requests_do_that_waited_for_all_of_the_time(clock: Clock) -> None:
    """One client alone, whose every request is cancelled by the server after ten seconds."""
    made = outcomes(clock)
    for _ in range(2):
        began, clock.now = clock.now, clock.now + 10
        made.record(["readings"], server_error("57014"), began=began)
    assert made.lasting()[0].lasts == 20.0


def test_what_may_pass_is_another_incident_after_a_pause(clock: Clock) -> None:
    made = outcomes(clock)
    fail(made, clock, server_error("55P03"), times=2)
    clock.now += 3600
    fail(made, clock, server_error("55P03"), times=2)
    assert made.lasting() == []


def test_what_may_have_passed_since_moves_no_box_that_does_not_write(clock: Clock) -> None:
    """Three requests met a lock for a moment; nobody has asked since."""
    made = outcomes(clock)
    fail(made, clock, server_error("55P03"), times=3, every=1.0)
    clock.now += 30
    assert made.lasting() == []
    fail(made, clock, server_error("55P03"), times=1)
    assert len(made.lasting()) == 1, "it was not over"


def test_what_an_operator_has_to_mend_is_not_forgotten_by_a_box_that_writes_rarely(
    clock: Clock,
) -> None:
    made = outcomes(clock)
    fail(made, clock, RIGHTS, times=3, every=600)
    assert len(made.lasting()) == 1


def test_a_cause_is_known_at_once_unless_it_may_pass(clock: Clock) -> None:
    made = outcomes(clock)
    fail(made, clock, RIGHTS, times=1)
    assert made.failing()[0].is_known
    other = outcomes(clock)
    fail(other, clock, server_error("55P03"), times=1)
    assert not other.failing()[0].is_known
    fail(other, clock, server_error("55P03"), times=1)
    assert other.failing()[0].is_known


def test_reads_are_reported_and_never_move_the_box(clock: Clock) -> None:
    """SQLite has only a part of what is asked for."""
    made = outcomes(clock)
    for _ in range(10):
        made.record(["readings"], RIGHTS, access=Access.READ)
        clock.now += 10
    assert made.lasting() == []
    assert made.failing()[0].refusal.text.startswith("PostgreSQL refuses reads of readings")
    made.record(["readings"], None)
    assert made.failing(), "a write proves nothing of reads"
    made.record(["readings"], None, access=Access.READ)
    assert made.failing() == []


@pytest.mark.parametrize(
    ("state", "fields"),
    [
        ("22021", {}),
        ("22P05", {"W": "unnamed portal parameter $3"}),
        ("22001", {}),
        ("22003", {}),
        ("23502", {"c": "value", "t": "readings"}),
        ("23505", {"n": "pk_readings", "t": "readings"}),
        ("40001", {}),
        ("42601", {}),
    ],
)
def test_what_a_clients_content_can_provoke_never_moves_the_box(
    clock: Clock, state: str, fields: dict[str, str]
) -> None:
    made = outcomes(clock, rehearse=lambda _: EVERY_ROW)
    error = server_error(state, **fields)
    for _ in range(100):
        assert made.record(["readings"], error) is None
        clock.now += 1
    assert made.failing() == []


@pytest.mark.parametrize(
    ("state", "fields", "cause"),
    [
        ("42501", {}, Cause.RIGHTS),
        ("55P03", {}, Cause.LOCKED),
        ("57014", {}, Cause.TIME_LIMIT),
        ("23502", {"c": "added", "t": "readings"}, Cause.REQUIRED_COLUMN),
        ("42P01", {}, Cause.MISSING),
        ("42703", {}, Cause.MISSING),
        ("25006", {}, Cause.READ_ONLY),
        ("53100", {}, Cause.FULL),
        ("42804", {}, Cause.TYPE),
        ("XX001", {}, Cause.SERVER),
        ("58030", {}, Cause.SERVER),
    ],
)
def test_a_condition_of_the_server_is_known_by_its_sqlstate(
    state: str, fields: dict[str, str], cause: Cause
) -> None:
    found = refusal_of(server_error(state, **fields), ["readings"], KNOWN)
    assert found is not None
    assert (found.cause, found.table, found.doubtful) == (cause, "readings", False)


@pytest.mark.parametrize(
    ("state", "fields"),
    [
        ("P0001", {"W": "PL/pgSQL function judge() line 1 at RAISE"}),
        ("22012", {"W": "PL/pgSQL function judge() line 1 at assignment"}),
        ("42883", {"W": "PL/pgSQL function judge() line 1 at assignment"}),
        ("23514", {"n": "ck_of_somebody_else", "t": "readings"}),
        ("42501", {"R": "ExecWithCheckOptions"}),
    ],
)
def test_a_doubtful_error_counts_only_where_a_rehearsal_is_refused_as_well(
    clock: Clock, state: str, fields: dict[str, str]
) -> None:
    error = server_error(state, **fields)
    tried: list[str] = []

    def refused(table: str) -> Refusal:
        tried.append(table)
        return EVERY_ROW

    broken = outcomes(clock, rehearse=refused)
    fail(broken, clock, error)
    assert len(broken.lasting()) == 1
    assert tried == ["readings"], "the verdict is kept for a while"
    sound = outcomes(clock, rehearse=lambda _: None)
    assert sound.record(["readings"], error) is None
    fail(sound, clock, error, times=50)
    assert sound.failing() == []


def test_a_verdict_is_asked_for_again_later(clock: Clock) -> None:
    """A trigger that is broken later on must not be taken for a client's fault for ever."""
    answers = [None, EVERY_ROW]
    made = outcomes(clock, rehearse=lambda _: answers.pop(0))
    assert made.record(["readings"], server_error("P0001")) is None
    clock.now += 60
    assert made.record(["readings"], server_error("P0001")) is not None


def test_a_rehearsal_that_cannot_be_had_blames_nobody(clock: Clock) -> None:
    def unreachable(_table: str) -> Refusal | None:
        raise DatabaseUnavailable("gone")

    made = outcomes(clock, rehearse=unreachable)
    raised = made.record(["readings"], server_error("P0001"))
    assert isinstance(raised, DatabaseBusy)
    assert made.failing() == []


def test_a_server_at_fault_is_busy_full_or_unconfirmed_and_never_a_bug(clock: Clock) -> None:
    made = outcomes(clock)
    assert isinstance(made.record(["readings"], RIGHTS), DatabaseBusy)
    assert isinstance(made.record(["readings"], server_error("53100")), DatabaseFull)
    late = CommitUnconfirmed("no standby confirmed")
    assert made.record(["readings"], late) is late
    assert isinstance(made.record(["readings"], server_error("XX000")), DatabaseBusy)


def test_the_table_that_the_server_names_is_blamed() -> None:
    denied = refusal_of(
        server_error("42501", 'permission denied for table "devices"'), ["devices", "readings"]
    )
    assert denied is not None
    assert denied.table == "devices"
    assert refusal_of(server_error("55P03"), ["devices", "readings"]) == Refusal(
        "readings", Cause.LOCKED, "refused", "55P03"
    )


@pytest.mark.parametrize(
    ("statement", "written", "read"),
    [
        ("INSERT INTO readings (id) VALUES (1) ON CONFLICT (id) DO UPDATE SET id = 1",
         ("readings",), ()),
        ('UPDATE "Odd Name" SET a = 1 FROM other', ("Odd Name",), ("other",)),
        ("DELETE FROM ONLY public.devices WHERE true", ("devices",), ()),
        ("WITH gone AS (DELETE FROM a RETURNING *) INSERT INTO b SELECT * FROM gone",
         ("a", "b"), ("gone",)),
        ("SELECT * FROM devices JOIN readings ON true FOR UPDATE OF devices", (),
         ("devices", "readings")),
        ("SELECT 1 FROM devices FOR UPDATE", (), ("devices",)),
        ("SET LOCAL x = 1", (), ()),
    ],
)  # fmt: skip
def test_a_statements_tables_are_known_by_its_text(
    statement: str, written: tuple[str, ...], read: tuple[str, ...]
) -> None:
    assert tables_of(statement) == (written, read)


@pytest.mark.parametrize(
    ("statement", "table"),
    [
        ("INSERT INTO readings (id, value) VALUES ($1::uuid, $2)", "readings"),
        ('insert into public."Odd one" (id) values (1), (2)', "Odd one"),
        ("INSERT INTO readings (id) VALUES (1) RETURNING id", "readings"),
        ("INSERT INTO readings (id) VALUES (1) ON CONFLICT DO NOTHING", ""),
        ("INSERT INTO readings (id) SELECT 1", ""),
        ("INSERT INTO readings (id) VALUES ((SELECT 1))", ""),
        ("INSERT INTO readings DEFAULT VALUES", ""),
        ("UPDATE readings SET value = 1", ""),
        ("SELECT 'INSERT INTO readings (id) VALUES (1)'", ""),
    ],
)
def test_an_insert_that_has_to_store_its_rows_is_told_from_others(
    statement: str, table: str
) -> None:
    assert inserted_table(statement) == table
