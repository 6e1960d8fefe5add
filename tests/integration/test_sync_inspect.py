# SPDX-License-Identifier: Apache-2.0
"""``edgepaas sync conflicts|dead-letters|status|acknowledge`` on a real PostgreSQL."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from edgepaas.files.paths import Paths
from edgepaas.outbox import ledger, strictness
from edgepaas.sync import status as sync_status
from edgepaas.sync.losses.acknowledge import acknowledged_lost
from tests.support.both_sides import BothSides

_WHEN = "2026-01-01T00:00:00.000000Z"
#: Longer than PostgreSQL's column; a file of the releases before strictness takes it.
POISON = "u" * 60


class Bench(BothSides):
    """Whose rows a person has to see to."""

    def reading(self, number: int, unit: str = "C") -> str:
        """Insert a reading as a foreign writer would; returns its id."""
        key = f"00000000-0000-7000-8000-{number:012d}"
        self.connection.execute(
            "INSERT INTO readings (id, device_id, device, metric, value, unit, recorded_at, "
            "received_at) VALUES (?, ?, 'press', 'heat', ?, ?, ?, ?)",
            (key, key, float(number), unit, _WHEN, _WHEN),
        )
        return key

    def sync(self, *arguments: str) -> int:
        """Run ``edgepaas sync ARGUMENTS``."""
        return self.command("sync", *arguments)

    def listed(self, kind: str, *more: str) -> list[dict[str, Any]]:
        assert self.sync(kind, "list", "--json", *more) == 0
        found: list[dict[str, Any]] = json.loads(self.said)
        return found


@pytest.fixture
def bench(paths: Paths, postgres_url: str, capsys: pytest.CaptureFixture[str]) -> Iterator[Bench]:
    with Bench.opened(paths, postgres_url, capsys) as found:
        strictness.drop(found.connection)
        yield found


def test_a_dead_letter_is_listed_shown_retried_and_discarded(bench: Bench) -> None:
    """Each with its exit status; a retry that is refused again says why and goes on waiting."""
    assert bench.sync("dead-letters") == 0
    assert "no dead letters wait" in bench.said
    first, second = bench.reading(1, POISON), bench.reading(2, POISON)
    bench.reading(3)
    bench.drain()
    found = bench.listed("dead-letters")
    assert [one["key"] for one in found] == [first, second]
    assert bench.sync("dead-letters") == 0
    assert f"readings {first}" in bench.said
    assert "22001" in bench.said
    shortened = found[0]["id"][:13]
    assert bench.sync("dead-letters", "show", shortened) == 0
    assert POISON in bench.said
    assert bench.sync("dead-letters", "retry", shortened, "--yes") == 1
    assert "refused" in bench.said
    assert len(bench.listed("dead-letters")) == 2
    bench.hub.query("ALTER TABLE readings ALTER COLUMN unit TYPE varchar(100)")
    bench.hub.forget_tables()
    assert bench.sync("dead-letters", "retry", shortened, "--yes") == 0
    assert bench.sync("dead-letters", "discard", "all", "--yes", "--json") == 0
    assert json.loads(bench.said) == {"discarded": 1, "problems": []}
    assert bench.listed("dead-letters") == []
    states = [one["state"] for one in bench.listed("dead-letters", "--all")]
    assert states == ["retried", "discarded"]
    values = bench.hub.query("SELECT value FROM readings ORDER BY value")
    assert [int(row[0]) for row in values] == [1, 3]
    assert bench.command("audit", "--deep") == 0


def test_nothing_is_acted_on_without_a_yes(bench: Bench) -> None:
    """Where nobody can be asked, it has to be said on the command line."""
    bench.reading(1, POISON)
    bench.drain()
    assert bench.sync("dead-letters", "discard", "all") == 2
    assert "--yes" in bench.said
    assert len(bench.listed("dead-letters")) == 1


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (("dead-letters", "show", "ffffffff"), 1, "there is no dead letter ffffffff"),
        (("conflicts", "settle", "ffffffff", "--yes"), 1, "there is no conflict ffffffff"),
        (("conflicts", "show"), 2, "takes an id"),
        (("conflicts", "list", "x"), 2, "takes no id"),
    ],
)
def test_a_wrong_id_is_named(
    bench: Bench, arguments: tuple[str, ...], status: int, said: str
) -> None:
    assert bench.sync(*arguments) == status
    assert said in bench.said


def test_a_conflict_is_listed_with_both_values_and_settled(bench: Bench) -> None:
    """The same fact with other content: the hub's stays, the box's is kept."""
    key = bench.reading(7)
    bench.hub.query(
        "INSERT INTO readings (id, device_id, device, metric, value, unit, recorded_at, "
        "received_at) VALUES ($1::text::uuid, $1::text::uuid, 'press', 'heat', 8, 'C', "
        "$2::text::timestamptz, now())",
        key,
        _WHEN,
    )
    bench.drain()
    (found,) = bench.listed("conflicts")
    assert found["key"] == key
    assert bench.sync("conflicts", "show", found["id"]) == 0
    assert "value" in bench.said
    assert "7" in bench.said
    assert "8" in bench.said
    assert bench.listed("conflicts", "--every-node") == [found]
    assert bench.sync("conflicts", "settle", "all", "--yes") == 0
    assert "1 settled" in bench.said
    assert bench.listed("conflicts") == []
    assert bench.listed("conflicts", "--all")[0]["state"] == "settled"


def test_another_boxs_are_shown_only_when_asked_for(bench: Bench) -> None:
    bench.reading(1, POISON)
    bench.drain()
    bench.hub.query("UPDATE sync_dead_letters SET node_id = gen_random_uuid()")
    assert bench.listed("dead-letters") == []
    assert len(bench.listed("dead-letters", "--every-node")) == 1


def test_the_status_is_for_people_and_programs(bench: Bench) -> None:
    """0 while all is well, 1 where somebody is needed; the ledger beside it."""
    bench.reading(1)
    assert bench.sync("status") == 1  # no drainer runs
    assert "edgepaas sync does not run" in bench.said
    values = {"state": "held", "hub": "away", "reason": "refused", "rows_waiting": 1}
    sync_status.write(bench.paths, sync_status.stamped(values, 1_700_000_000.0))
    assert bench.sync("status") == 0
    assert "held: refused" in bench.said
    assert "accepted 1, delivered 0, pending 1" in bench.said
    assert bench.sync("status", "--json") == 0
    assert json.loads(bench.said)["forwarding"]["rows_waiting"] == 1


def test_lost_rows_are_acknowledged_by_their_number(bench: Bench) -> None:
    ledger.add(bench.connection, "hub_lost", 4)
    assert bench.sync("acknowledge") == 0
    assert acknowledged_lost(bench.paths) == 4
