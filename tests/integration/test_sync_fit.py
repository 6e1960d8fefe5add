# SPDX-License-Identifier: Apache-2.0
"""Tables of the hub that would change what is sent: nothing is sent until they are mended."""

from collections.abc import Iterator

import pytest

from edgepaas.sync.errors import SchemaDrift
from edgepaas.sync.hub.connection import Hub
from tests.support.forwarding import TestBox, TestHub
from tests.support.weaken import weakened

VALUE = 1234567.0625123456


def letters(hub: TestHub) -> int:
    return int(hub.one("SELECT count(*) FROM sync_dead_letters"))


def drop_key(hub: TestHub, table: str) -> None:
    name = hub.one(
        f"SELECT conname FROM pg_constraint WHERE conrelid = '{table}'::regclass AND contype = 'p'"
    )
    hub.ask(f"ALTER TABLE {table} DROP CONSTRAINT {name}")


@pytest.fixture
def cleared(hub: TestHub) -> Iterator[TestHub]:
    """The hub; what a test made beside its tables is gone afterwards."""
    yield hub
    hub.ask("DROP DOMAIN IF EXISTS rough CASCADE")


@pytest.mark.parametrize("known", [False, True], ids=["before", "after-the-catalog-was-read"])
@pytest.mark.parametrize("narrower", ["real", "numeric(9,1)", "integer"])
def test_a_narrowed_column_holds_the_stream_and_changes_no_value(
    box: TestBox, hub: TestHub, link: Hub, narrower: str, known: bool
) -> None:
    """Also for a drainer that read the catalog before: it would have rounded each value."""
    if known:
        box.samples(1.0)
        box.drain_all(link)
    hub.ask(f"ALTER TABLE samples ALTER COLUMN value TYPE {narrower}")
    box.samples(VALUE)
    with pytest.raises(SchemaDrift, match=r"samples does not fit: the column \"value\"") as caught:
        box.drain(link)
    said = f"is {narrower}, not double precision: values would be rounded"
    assert said in str(caught.value)
    assert (letters(hub), hub.one("SELECT count(*) FROM samples")) == (0, int(known))
    hub.ask("ALTER TABLE samples ALTER COLUMN value TYPE double precision")
    link.forget_tables()
    box.drain_all(link)
    assert hub.one("SELECT max(value) FROM samples") == VALUE
    assert box.adds_up(hub)["pending"] == 0


@pytest.mark.parametrize(
    ("statements", "said"),
    [
        (["ALTER TABLE samples ALTER COLUMN text TYPE varchar(49)"], "longer texts"),
        (["ALTER TABLE samples ALTER COLUMN text TYPE char(50)"], "padded or cut"),
        (["ALTER TABLE samples SET UNLOGGED"], "UNLOGGED"),
        (["CREATE RULE nothing AS ON INSERT TO samples DO INSTEAD NOTHING"], "rules"),
        (["CREATE DOMAIN rough AS numeric(9,1)",
          "ALTER TABLE samples ALTER COLUMN value TYPE rough"], "numeric(9,1)"),
    ],
    ids=["shorter", "padded", "unlogged", "rule", "domain"],
)  # fmt: skip
def test_a_table_that_takes_less_holds_the_stream(
    box: TestBox, cleared: TestHub, link: Hub, statements: list[str], said: str
) -> None:
    for statement in statements:
        cleared.ask(statement)
    box.samples(1.0)
    with pytest.raises(SchemaDrift) as caught:
        box.drain(link)
    assert said in str(caught.value)
    assert (letters(cleared), cleared.one("SELECT count(*) FROM samples")) == (0, 0)
    cleared.ask("DROP RULE IF EXISTS nothing ON samples")


def test_a_column_that_takes_no_null_makes_dead_letters_of_such_rows_alone(
    box: TestBox, hub: TestHub, link: Hub
) -> None:
    """The others go home, as they did before there was a look at the catalog; none is lost."""
    hub.ask("ALTER TABLE samples ALTER COLUMN text SET NOT NULL")
    box.samples(1.0, text="a")
    box.samples(2.0)
    box.samples(3.0, text="c")
    box.drain_all(link)
    assert hub.one("SELECT count(*) FROM samples") == 2
    assert letters(hub) == 1
    counted = box.adds_up(hub)
    assert (counted["dead"], counted["pending"]) == (1, 0)


def test_a_table_without_its_key_holds_the_stream(box: TestBox, hub: TestHub, link: Hub) -> None:
    """Each repetition would be another row."""
    drop_key(hub, "samples")
    box.samples(1.0)
    with pytest.raises(SchemaDrift, match="key"):
        box.drain(link)
    hub.ask("ALTER TABLE samples ADD PRIMARY KEY (id) DEFERRABLE")
    link.forget_tables()
    with pytest.raises(SchemaDrift, match="key"):
        box.drain(link)
    assert hub.one("SELECT count(*) FROM samples") == 0


def test_a_table_that_takes_more_fits(box: TestBox, hub: TestHub, link: Hub) -> None:
    """Another release may have widened it."""
    hub.ask("ALTER TABLE samples ALTER COLUMN text TYPE text, ADD COLUMN more integer")
    hub.ask("ALTER TABLE places ALTER COLUMN first TYPE bigint")
    box.samples(1.0, text="x" * 50)
    box.place("a", first=2**31 - 1)
    assert sum(one.rows for one in box.drain_all(link)) == 2
    assert box.adds_up(hub)["dead"] == 0


def test_a_table_of_which_nothing_waits_keeps_nobody_waiting(
    box: TestBox, hub: TestHub, link: Hub
) -> None:
    drop_key(hub, "sensors")
    box.samples(1.0, 2.0)
    assert box.drain(link).rows == 2


def test_a_build_that_trusts_the_catalog_as_it_was_read_rounds_and_is_found_out(
    box: TestBox, hub: TestHub, link: Hub
) -> None:
    box.samples(1.0)
    box.drain_all(link)
    hub.ask("ALTER TABLE samples ALTER COLUMN value TYPE real")
    box.samples(VALUE)
    with weakened("catalog-as-read"):
        box.drain(link)
    assert hub.one("SELECT max(value)::float8 FROM samples") != VALUE
