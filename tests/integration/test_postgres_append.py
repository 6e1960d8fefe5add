# SPDX-License-Identifier: Apache-2.0
"""Facts appended to PostgreSQL in one flight: stored once each, and each caller hears the truth."""

import contextlib
import threading
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Table, exc, func, select, text

from edgepaas.app import Box
from edgepaas.app.facts import Appended, FactsDiffer, Row, append_facts
from edgepaas.app.models import name_id, uuid7
from edgepaas.database.append import AppendJob, AppendOutcome
from edgepaas.database.postgresql.append_queue import Waiting
from edgepaas.database.postgresql.database import ServerDatabase
from edgepaas.errors import (
    DatabaseError,
    DatabaseRefused,
    DatabaseUnavailable,
    RowNotStored,
)
from edgepaas.files.paths import Paths
from edgepaas.outcomes.causes import Cause
from edgepaas.pgdriver.failures import CommitUnconfirmed
from edgepaas.telemetry.models import DEVICES, READINGS, RULE_FEED
from tests.support.postgres_server import PostgresServer
from tests.support.relay import Relay
from tests.support.telemetry_box import open_box
from tests.support.weaken import weakened

#: Far longer than anything here takes.
LIMIT = 60.0
MORNING = datetime(2024, 5, 1, 6, tzinfo=UTC)
_calls = iter(range(1_000_000))


@pytest.fixture
def box(paths: Paths, postgres_url: str) -> Iterator[Box]:
    with open_box(paths, postgres_url) as (_, found):
        yield found


@pytest.fixture
def relay(postgres: PostgresServer) -> Iterator[Relay]:
    with Relay(postgres.port) as made:
        yield made


@pytest.fixture
def far(paths: Paths, postgres_url: str, relay: Relay) -> Iterator[Box]:
    """A box with a relay on its way to PostgreSQL."""
    with open_box(paths, relay.reroute(postgres_url)) as (_, found):
        yield found


def database_of(box: Box) -> ServerDatabase:
    assert isinstance(box.database, ServerDatabase)
    return box.database


def readings(number: int = 1, *, device: str = "press-1", **columns: Any) -> list[Row]:
    """Return new readings of one request, which has a moment of its own."""
    at = MORNING + timedelta(microseconds=next(_calls))
    return [
        {
            "id": uuid7(),
            "device_id": name_id("devices", device),
            "device": device,
            "metric": "temperature",
            "value": value + 0.5,
            "unit": None,
            "recorded_at": MORNING + timedelta(seconds=value),
            "received_at": at,
            **columns,
        }
        for value in range(number)
    ]


def device(name: str) -> Row:
    return {
        "id": name_id("devices", name),
        "name": name,
        "description": None,
        "labels": {},
        "created_at": MORNING,
        "updated_at": MORNING,
    }


def feed_of(rows: Sequence[Row]) -> Callable[[Collection[uuid.UUID]], Mapping[Table, Any]]:
    """Return what queues the new ones of *rows*, a row of the feed each."""

    def following(new: Collection[uuid.UUID]) -> Mapping[Table, Sequence[Row]]:
        return {
            RULE_FEED: [
                {"batch": row["id"], "node": "here", "readings": "[]"}
                for row in rows
                if row["id"] in new
            ]
        }

    return following


def append(box: Box, rows: Sequence[Row], *, name: str = "press-1") -> Appended:
    """Append *rows* as telemetry does."""
    return append_facts(
        box.database,
        READINGS,
        rows,
        before={DEVICES: [device(name)]},
        stamp="received_at",
        following=feed_of(rows),
    )


class Group:
    """Jobs that are stored together, and what each of them ended with."""

    def __init__(self, *requests: Sequence[Row]) -> None:
        self.ends: list[list[AppendOutcome]] = [[] for _ in requests]
        self.jobs = [
            AppendJob(
                READINGS,
                rows,
                ends.append,
                before={DEVICES: [device(rows[0]["device"])]},
                stamp="received_at",
                following=feed_of(rows),
            )
            for rows, ends in zip(requests, self.ends, strict=True)
        ]

    def store(self, box: Box) -> list[AppendOutcome]:
        """Store them in one group; return one outcome each."""
        database_of(box)._appends._store([Waiting(job) for job in self.jobs])
        assert [len(ends) for ends in self.ends] == [1] * len(self.ends)
        return [ends[0] for ends in self.ends]


def stored(box: Box, column: Any = READINGS.c.id) -> list[Any]:
    with box.database.read() as session:
        return list(session.scalars(select(column)))


def fed(box: Box) -> list[uuid.UUID]:
    """Return the batches of the feed in their order."""
    with box.database.read() as session:
        return list(session.scalars(select(RULE_FEED.c.batch).order_by(RULE_FEED.c.seq)))


def ids(*requests: Sequence[Row]) -> list[uuid.UUID]:
    return [row["id"] for rows in requests for row in rows]


def test_a_group_is_stored_whole_with_its_devices_and_what_follows_in_order(box: Box) -> None:
    requests = [readings(2), readings(3, device="press-2"), readings(1), readings(2)]
    assert Group(*requests).store(box) == [Appended(len(rows), 0) for rows in requests]
    assert sorted(stored(box)) == sorted(ids(*requests))
    assert sorted(stored(box, DEVICES.c.name)) == ["press-1", "press-2"]
    assert fed(box) == ids(*requests)


def test_many_requests_at_once_are_all_stored_once(box: Box) -> None:
    requests = [readings(3, device=f"press-{number % 7}") for number in range(60)]
    found: list[Appended] = []

    def post(some: Sequence[Sequence[Row]]) -> None:
        found.extend(append(box, rows, name=rows[0]["device"]) for rows in some)

    threads = [threading.Thread(target=post, args=(requests[at::6],)) for at in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)
    assert found == [Appended(3, 0)] * 60
    assert sorted(stored(box)) == sorted(fed(box)) == sorted(ids(*requests))


def test_a_growing_table_is_not_read_whole_for_each_request(
    box: Box, postgres: PostgresServer, postgres_url: str
) -> None:
    """By the server's own count, with plans that were made while the table was empty."""
    name = postgres_url.rpartition("/")[2]
    postgres.execute(f"ALTER TABLE {READINGS.name} SET (autovacuum_enabled = false)", name)
    for _ in range(100):
        assert append(box, readings(100)).accepted == 100
    before = _rows_read(box)
    for _ in range(50):
        assert append(box, readings(100)).accepted == 100
    assert _rows_read(box) - before < 50 * 1_000


def _rows_read(box: Box) -> int:
    """Return how many readings the box's session has looked at, or at their index entries."""
    with box.database.read() as session:
        session.execute(text("SELECT pg_stat_force_next_flush()"))
    question = (
        "SELECT t.seq_tup_read + sum(i.idx_tup_read) FROM pg_stat_user_tables t "
        "JOIN pg_stat_user_indexes i USING (relid) "
        f"WHERE t.relname = '{READINGS.name}' GROUP BY t.seq_tup_read"
    )
    with box.database.read() as session:
        return int(session.execute(text(question)).scalar_one())


def test_each_of_a_group_hears_what_became_of_its_own(box: Box) -> None:
    """A repeat, one with other content, and one of which a part is new, among new ones."""
    known = readings(3)
    append(box, known)
    later = [{**row, "received_at": MORNING + timedelta(1)} for row in known]
    more = readings(2)
    stamped = [{**row, "received_at": more[0]["received_at"]} for row in known[:1]]
    group = Group(
        readings(2, device="new-1"),
        later,
        [{**later[0], "value": -1.0}],
        [*more, *stamped],
        readings(1, device="new-2"),
    )
    new, repeated, differing, partly, last = group.store(box)
    assert (new, repeated, partly, last) == (
        *(Appended(2, 0), Appended(0, 3)),
        *(Appended(2, 1), Appended(1, 0)),
    )
    assert isinstance(differing, FactsDiffer)
    assert differing.positions == (0,)
    with box.database.read() as session:
        assert session.scalar(select(func.count()).select_from(READINGS)) == 3 + 2 + 2 + 1
    assert len(fed(box)) == len(set(fed(box))) == 8


def test_a_device_of_a_request_that_is_refused_is_not_made(box: Box) -> None:
    known = readings()
    append(box, known)
    other = [{**known[0], "value": -1.0, "device": "other", "device_id": name_id("devices", "o")}]
    (outcome,) = Group(other).store(box)
    assert isinstance(outcome, FactsDiffer)
    assert stored(box, DEVICES.c.name) == ["press-1"]


@pytest.mark.parametrize("bad", [0, 3, 6])
def test_a_row_that_the_server_refuses_fails_alone(box: Box, bad: int) -> None:
    """With the error that the ordinary way raises; its neighbours are stored, with their feed."""
    requests = [readings(2) for _ in range(7)]
    requests[bad] = readings(2, metric="x" * 201)
    outcomes = Group(*requests).store(box)
    assert isinstance(outcomes[bad], exc.DBAPIError)
    assert outcomes[:bad] + outcomes[bad + 1 :] == [Appended(2, 0)] * 6
    good = [rows for number, rows in enumerate(requests) if number != bad]
    assert sorted(stored(box)) == sorted(ids(*good))
    assert sorted(fed(box)) == sorted(ids(*good))


@pytest.mark.parametrize("text", ["a\0b", "\ud800"])
def test_a_row_that_cannot_be_sent_fails_alone(box: Box, text: str) -> None:
    requests = [readings(2), readings(1, metric=text), readings(2)]
    first, refused, last = Group(*requests).store(box)
    assert (first, last) == (Appended(2, 0), Appended(2, 0))
    assert isinstance(refused, ValueError | exc.StatementError | DatabaseRefused)
    assert len(stored(box)) == 4


def test_a_character_that_the_server_cannot_hold_fails_alone(
    paths: Paths, postgres: PostgresServer
) -> None:
    """One client that posts only such texts moves nothing, and hinders nobody."""
    name = "few_characters"
    postgres.execute(
        f"CREATE DATABASE {name} ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0"
    )
    try:
        with open_box(paths, postgres.url(name)) as (_, box):
            requests = [readings(2), readings(1, metric="温"), readings(2), readings(1, unit="温")]
            first, refused, second, last = Group(*requests).store(box)
            assert (first, second) == (Appended(2, 0), Appended(2, 0))
            assert isinstance(refused, DatabaseRefused)
            assert isinstance(last, DatabaseRefused)
            assert sorted(stored(box)) == sorted(ids(requests[0], requests[2]))
            assert not list(database_of(box).outcomes.failing())
    finally:
        postgres.drop_database(name)


def test_a_condition_of_the_server_ends_the_group_and_is_counted(
    box: Box, postgres: PostgresServer, postgres_url: str
) -> None:
    name = postgres_url.rpartition("/")[2].partition("?")[0]
    postgres.execute(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS "
        "'BEGIN RAISE insufficient_privilege; END'; "
        "CREATE TRIGGER refuse BEFORE INSERT ON readings EXECUTE FUNCTION refuse()",
        name,
    )
    outcomes = Group(*(readings() for _ in range(4))).store(box)
    assert all(isinstance(one, DatabaseError) for one in outcomes)
    (failing,) = database_of(box).outcomes.failing()
    assert failing.refusal.table == "readings"
    assert failing.count == 4
    assert stored(box) == []
    postgres.execute("DROP TRIGGER refuse ON readings", name)
    assert Group(readings()).store(box) == [Appended(1, 0)]
    assert not list(database_of(box).outcomes.failing())


def test_rows_that_the_server_takes_away_are_not_acknowledged(
    box: Box, postgres: PostgresServer, postgres_url: str
) -> None:
    name = postgres_url.rpartition("/")[2].partition("?")[0]
    postgres.execute(
        "CREATE FUNCTION swallow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'; "
        "CREATE TRIGGER swallow BEFORE INSERT ON readings FOR EACH ROW "
        "WHEN (NEW.metric = 'gone') EXECUTE FUNCTION swallow()",
        name,
    )
    there, gone = Group(readings(2), readings(1, metric="gone")).store(box)
    assert there == Appended(2, 0)
    assert isinstance(gone, RowNotStored)


@pytest.mark.parametrize(("condition", "status"), [("NEW.metric = 'gone'", 422), ("true", 503)])
def test_a_client_may_go_on_where_its_row_alone_is_taken_away_and_waits_where_all_are(
    paths: Paths, postgres: PostgresServer, postgres_url: str, condition: str, status: int
) -> None:
    """Else a device that repeats one reading until it is stored would never send the next."""
    name = postgres_url.rpartition("/")[2].partition("?")[0]
    with open_box(paths, postgres_url) as (app, _):
        postgres.execute(
            "CREATE FUNCTION swallow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; "
            "END'; CREATE TRIGGER swallow BEFORE INSERT ON readings FOR EACH ROW "
            f"WHEN ({condition}) EXECUTE FUNCTION swallow()",
            name,
        )
        client = app.test_client()
        reading = {"device": "press-1", "metric": "gone", "value": 2.0}
        answer = client.post("/api/v1/readings", json={"readings": [reading]})
        assert answer.status_code == status, answer.text
        if status == 422:
            assert "rows of readings were accepted and are not there" in answer.text
            reading["metric"] = "temperature"
            answer = client.post("/api/v1/readings", json={"readings": [reading]})
            assert answer.status_code == 201, answer.text


# -- the link --


def test_an_answer_that_is_lost_is_found_out(far: Box, relay: Relay) -> None:
    """The client hears that its readings are new, as they were; nothing is stored twice."""
    append(far, readings(device="warm"))
    for _ in range(10):
        relay.commit_cut = 1.0
        rows = readings(3)
        ended = threading.Event()
        outcome: list[AppendOutcome] = []

        def done(end: AppendOutcome, into: list[AppendOutcome] = outcome) -> None:
            into.append(end)
            ended.set()  # noqa: B023 - it is waited for in this turn

        cuts = relay.cuts
        job = AppendJob(READINGS, rows, done, stamp="received_at", following=feed_of(rows))
        watcher = threading.Thread(target=calm_after_a_cut, args=(relay, cuts))
        watcher.start()
        far.database.submit(job)
        assert ended.wait(LIMIT)
        watcher.join(LIMIT)
        assert relay.cuts > cuts
        if isinstance(outcome[0], DatabaseUnavailable):
            continue  # the second was cut as well before the relay was calm
        assert outcome == [Appended(3, 0)]
        assert sorted(stored(far)) == sorted(set(stored(far)))
        assert fed(far)[-3:] == ids(rows)
    assert len(fed(far)) == len(set(fed(far)))


def calm_after_a_cut(relay: Relay, cuts: int) -> None:
    """Have *relay* cut no more as soon as it has cut once more than *cuts*."""
    waited = threading.Event()
    for _ in range(int(LIMIT / 0.001)):
        if relay.cuts > cuts:
            break
        waited.wait(0.001)
    relay.commit_cut = 0.0


def test_idle_connections_that_were_cut_cost_no_request(far: Box, relay: Relay) -> None:
    for _ in range(5):
        assert append(far, readings(2)) == Appended(2, 0)
        relay.break_connections()
    assert append(far, readings(2)) == Appended(2, 0)
    assert len(stored(far)) == len(fed(far)) == 12


def test_a_server_that_is_gone_is_unavailable_for_all_that_waits(far: Box, relay: Relay) -> None:
    noticed: list[BaseException] = []
    database_of(far).on_unavailable = noticed.append
    append(far, readings())
    relay.cut()
    outcomes = Group(*(readings() for _ in range(5))).store(far)
    assert all(isinstance(one, DatabaseUnavailable) for one in outcomes)
    assert noticed
    relay.heal()
    assert append(far, readings(2)) == Appended(2, 0)


def cut_flights(far: Box, relay: Relay) -> list[uuid.UUID]:
    """Append over a link that loses requests; return the ids that were acknowledged."""
    append(far, readings())
    relay.request_cut = 0.5
    acknowledged: list[uuid.UUID] = []
    for _ in range(20):
        rows = readings(2)
        try:
            append(far, rows)
        except DatabaseError:
            continue
        acknowledged += ids(rows)
    relay.calm()
    return acknowledged


def test_what_is_acknowledged_over_a_link_that_loses_requests_is_stored(
    far: Box, relay: Relay
) -> None:
    acknowledged = cut_flights(far, relay)
    assert acknowledged
    assert set(acknowledged) <= set(stored(far))


def test_a_build_that_takes_a_lost_flight_for_stored_is_found_out(far: Box, relay: Relay) -> None:
    with weakened("lost-is-stored"):
        acknowledged = cut_flights(far, relay)
    assert not set(acknowledged) <= set(stored(far))


def test_a_build_that_stores_a_part_of_a_job_is_found_out(box: Box) -> None:
    """Its feed would lack what is new, and a refused request would have stored something."""
    known = readings()
    append(box, known)
    new = readings()
    at = new[0]["received_at"]
    other = [*new, {**known[0], "value": -1.0, "received_at": at}]
    with weakened("append-in-part"):
        (outcome,) = Group(other).store(box)
    assert isinstance(outcome, FactsDiffer)
    assert other[0]["id"] in stored(box), "refused, and stored all the same"


def test_a_commit_that_no_standby_confirmed_is_no_acknowledgement(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextlib.contextmanager
    def unconfirmed(_connection: Any, **_: Any) -> Iterator[None]:
        yield
        raise CommitUnconfirmed("a synchronous standby does not answer")

    monkeypatch.setattr(database_of(box).commits, "watching", unconfirmed)
    monkeypatch.delattr(ServerDatabase, "write")  # it is told by the flight itself
    rows = readings(2)
    outcomes = Group(rows, readings()).store(box)
    assert all(isinstance(one, DatabaseUnavailable) for one in outcomes)
    (failing,) = database_of(box).outcomes.failing()
    assert failing.refusal.cause is Cause.STANDBY
    monkeypatch.undo()
    later = [{**row, "received_at": MORNING + timedelta(1)} for row in rows]
    assert append(box, later) == Appended(0, 2)


def test_what_waits_is_stored_when_the_database_is_closed(box: Box) -> None:
    outcomes: list[AppendOutcome] = []
    for _ in range(30):
        box.database.submit(AppendJob(READINGS, readings(), outcomes.append))
    box.database.close()
    assert outcomes == [Appended(1, 0)] * 30
    with pytest.raises(DatabaseUnavailable):
        append(box, readings())
