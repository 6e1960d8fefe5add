# SPDX-License-Identifier: Apache-2.0
"""A table that refuses every row holds the stream; it makes no dead letters of what waits."""

import contextlib
from collections.abc import Iterator

import pg8000.native
import pytest

from edgepaas.decision.hold import read_hold, write_hold
from edgepaas.files.paths import Paths
from edgepaas.outcomes.causes import Cause, Refusal
from edgepaas.outcomes.refused_tables import add_refused, read_refused
from edgepaas.sync.errors import SchemaDrift, TableRefused
from edgepaas.sync.hub.connection import Hub
from edgepaas.sync.refusals.refused_tables import RefusedTables
from tests.support.forwarding import TestBox, TestHub, document
from tests.support.postgres_server import USER

RAISES = (
    "CREATE FUNCTION judge() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body} RETURN NEW; END $$"
)
ON_SAMPLES = "CREATE TRIGGER judge BEFORE INSERT ON samples FOR EACH ROW EXECUTE FUNCTION judge()"


@pytest.fixture
def judged(hub: TestHub) -> Iterator[TestHub]:
    """The hub; what a trigger of the test calls is gone afterwards."""
    yield hub
    hub.ask("DROP FUNCTION IF EXISTS judge CASCADE")


def letters(hub: TestHub) -> int:
    return int(hub.one("SELECT count(*) FROM sync_dead_letters"))


@contextlib.contextmanager
def locked(hub: TestHub, table: str) -> Iterator[None]:
    """Have another session hold the lock that CREATE INDEX takes."""
    connection = pg8000.native.Connection(
        USER, host="127.0.0.1", port=hub.server.port, password=hub.server.password,
        database=hub.name,
    )  # fmt: skip
    try:
        connection.run("BEGIN")
        connection.run(f"LOCK TABLE {table} IN SHARE MODE")
        yield
    finally:
        connection.close()


def test_a_trigger_that_refuses_every_row_holds_the_stream(
    box: TestBox, judged: TestHub, link: Hub
) -> None:
    box.samples(1.0, 2.0)
    box.drain_all(link)
    judged.ask(RAISES.format(body="RAISE EXCEPTION 'nothing passes';"))
    judged.ask(ON_SAMPLES)
    box.samples(*map(float, range(10)))
    with pytest.raises(TableRefused) as caught:
        box.drain(link)
    assert caught.value.refusal.text == (
        "PostgreSQL refuses writes to samples: nothing passes (SQLSTATE P0001)"
    )
    assert letters(judged) == 0
    judged.ask("DROP TRIGGER judge ON samples")
    done = box.drain_all(link)
    assert sum(one.rows for one in done) == 10
    assert box.adds_up(judged)["dead"] == 0


def test_a_trigger_that_refuses_some_rows_makes_dead_letters_of_those(
    box: TestBox, judged: TestHub, link: Hub
) -> None:
    """A row that is there already passes again: it is not the table."""
    box.samples(1.0)
    box.drain_all(link)
    judged.ask(RAISES.format(body="IF NEW.value = 13 THEN RAISE EXCEPTION 'no'; END IF;"))
    judged.ask(ON_SAMPLES)
    box.samples(12.0, 13.0, 14.0, 13.0)
    done = box.drain(link)
    assert (done.rows, done.dead) == (2, 2)


def test_a_constraint_that_no_row_satisfies_holds_the_stream(
    box: TestBox, hub: TestHub, link: Hub
) -> None:
    box.samples(1.0)
    box.drain_all(link)
    hub.ask("ALTER TABLE samples ADD CONSTRAINT odd CHECK (value < -100) NOT VALID")
    box.samples(2.0, 3.0)
    with pytest.raises(TableRefused, match='"odd"'):
        box.drain(link)
    assert letters(hub) == 0
    hub.ask("ALTER TABLE samples DROP CONSTRAINT odd")
    assert box.drain(link).rows == 2


def test_a_column_that_is_new_and_required_holds_the_stream(
    box: TestBox, hub: TestHub, link: Hub
) -> None:
    """Also for a drainer that read the catalog before it was added."""
    box.samples(1.0)
    box.drain_all(link)
    hub.ask("ALTER TABLE samples ADD COLUMN added integer NOT NULL DEFAULT 0")
    hub.ask("ALTER TABLE samples ALTER COLUMN added DROP DEFAULT")
    box.samples(2.0, 3.0)
    with pytest.raises(SchemaDrift, match=r"samples\.added requires a value"):
        box.drain(link)
    assert letters(hub) == 0
    hub.ask("ALTER TABLE samples ALTER COLUMN added SET DEFAULT 0")
    link.forget_tables()
    assert box.drain(link).rows == 2


def test_a_locked_table_is_named(
    box: TestBox, hub: TestHub, link: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sent together, the statements do not show which of them waits for the lock."""
    monkeypatch.setattr("edgepaas.sync.hub.connection.LOCK_TIMEOUT", 0.2)
    box.place("here")
    box.samples(1.0)
    with hub.link() as quick, locked(hub, "samples"), pytest.raises(TableRefused) as caught:
        box.drain(quick)
    assert (caught.value.refusal.table, caught.value.refusal.cause) == ("samples", Cause.LOCKED)
    done = box.drain_all(link)
    assert sum(one.rows for one in done) == 2


REVOKED = Refusal("samples", Cause.RIGHTS, "permission denied for table samples", "42501")


@pytest.mark.parametrize("rows", [0, 1])
def test_a_refused_table_is_rehearsed_until_it_takes_rows(
    box: TestBox, judged: TestHub, link: Hub, paths: Paths, rows: int
) -> None:
    """Also where no client wrote meanwhile, and where the table has no row to copy."""
    for _ in range(rows):
        box.samples(1.0)
    box.drain_all(link)
    add_refused(paths.refused_tables, [REVOKED])
    write_hold(paths.postgres_hold, REVOKED.text, 600)
    refused = RefusedTables(paths, document()["tables"], 600)
    judged.ask(RAISES.format(body="RAISE EXCEPTION 'nothing passes';"))
    judged.ask(ON_SAMPLES)
    for _ in range(2):
        with pytest.raises(TableRefused, match="nothing passes"):
            refused.rehearse(link)
    assert read_refused(paths.refused_tables)
    assert read_hold(paths.postgres_hold)
    judged.ask("DROP TRIGGER judge ON samples")
    refused.rehearse(link)
    assert read_refused(paths.refused_tables) == ()
    assert read_hold(paths.postgres_hold) is None
    assert judged.one("SELECT count(*) FROM samples") == rows
    assert refused.listed() == ()


def test_a_hold_of_another_cause_is_left_alone(hub: TestHub, link: Hub, paths: Paths) -> None:
    add_refused(paths.refused_tables, [REVOKED])
    write_hold(paths.postgres_hold, "its schema is of a later revision", 600)
    RefusedTables(paths, document()["tables"], 600).rehearse(link)
    assert read_refused(paths.refused_tables) == ()
    assert read_hold(paths.postgres_hold) is not None


def test_postgresql_is_held_while_a_table_is_listed(paths: Paths) -> None:
    """A box that is started meanwhile would serve from it and refuse every write again."""
    refused = RefusedTables(paths, {}, 600)
    refused.hold_on()
    assert read_hold(paths.postgres_hold) is None
    add_refused(paths.refused_tables, [REVOKED])
    RefusedTables(paths, {}, 600).hold_on()
    hold = read_hold(paths.postgres_hold)
    assert hold is not None
    assert hold.reason == REVOKED.text
