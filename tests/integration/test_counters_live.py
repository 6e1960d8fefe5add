# SPDX-License-Identifier: Apache-2.0
"""A counter of a whole box, whose PostgreSQL is gone between one increment and the next."""

from pathlib import Path

from tests.support.live_box import LiveBox, request
from tests.support.postgres_server import PostgresServer
from tests.support.relay import Relay
from tests.support.service_process import until


def hit(box: LiveBox, times: int) -> None:
    """Count until *times* hits were acknowledged; what is not answered 201 was not stored."""
    done = 0

    def once() -> bool:
        nonlocal done
        status, _ = request(box.port, "POST", "/counters/door", {})
        done += status == 201
        return done == times

    until(once, f"{times} acknowledged hits", 90)


def test_increments_of_primary_and_fallback_add_up(
    tmp_path: Path, postgres: PostgresServer
) -> None:
    """Five while PostgreSQL serves, which is gone at once then; six while SQLite serves."""
    name = postgres.create_database()
    with (
        Relay(postgres.port) as relay,
        LiveBox(
            tmp_path / "box",
            DATABASE_URL=relay.reroute(postgres.url(name)),
            EDGEPAAS_APP="tests.support.counting:application",
            POSTGRES_HOLD="1",
            # The file's copy is the one that the box's own start made: the increments reach it
            # late.
            MIRROR_INTERVAL="3600",
        ) as box,
    ):
        box.wait_state("primary")
        hit(box, 5)
        relay.cut()
        box.wait_state("fallback", limit=90)
        hit(box, 6)
        relay.heal()
        box.wait_state("primary", limit=120)
        box.wait_drained(limit=90)
        assert postgres.execute("SELECT hits FROM counters", name) == [[11]]
        hit(box, 1)
        assert postgres.execute("SELECT hits FROM counters", name) == [[12]]
        status, text = box.run("audit")
        assert status == 0, text
    postgres.drop_database(name)
