# SPDX-License-Identifier: Apache-2.0
"""PostgreSQL on another host: present, away in every way at boot, and lost while serving."""

import threading
import time
from collections.abc import Iterator

import pytest

from tests.system.appliance import Appliance
from tests.system.client import Writers
from tests.system.hub import DATABASE, PORT, Hub
from tests.system.network import HUB

#: DECISION_DEADLINE, and what a busy machine adds to it.
DECISION_BOUND = 10.0 + 5.0


@pytest.fixture
def box(installed: Appliance, hub: Hub) -> Iterator[Appliance]:
    """A box whose PostgreSQL is the hub, over TLS that is verified; it serves from there."""
    hub.wire.heal()
    hub.execute(f"DROP DATABASE IF EXISTS {DATABASE} WITH (FORCE)", "postgres")
    hub.execute(f"CREATE DATABASE {DATABASE}", "postgres")
    with Appliance("box", installed.package, template=installed, namespace=hub.wire.edge) as box:
        box.write("/etc/edgepaas/hub.pem", hub.authority, 0o644)
        box.configure(DATABASE_URL=hub.url, DB_SSLROOTCERT="/etc/edgepaas/hub.pem")
        box.restart(word="primary")
        yield box
        hub.wire.heal()


def test_a_database_on_another_host_serves_as_primary(box: Appliance, hub: Hub) -> None:
    ready = box.client.get("/health/ready").body
    assert (ready["state"], ready["mode"]) == ("primary", "primary")
    written = box.writer.write("press", 1.0)
    assert hub.execute("SELECT id::text FROM readings") == [[written]]
    contract = box.contract()
    assert contract["FINAL_DB_MODE"] == "try_postgres"
    assert hub.server.password not in str(ready)


@pytest.mark.parametrize("how", ["refused", "reject", "drop", "link", "dns"])
def test_a_database_that_is_away_at_boot_leaves_sqlite_in_the_stated_bound(
    box: Appliance, hub: Hub, how: str
) -> None:
    """Stopped, refused or dropped by a firewall, the cable out, or no name resolution."""
    if how == "dns":
        address = hub.url.replace(f"{HUB}:{PORT}", f"hub.example:{PORT}")
        box.configure(DATABASE_URL=address)
        box.write("/etc/resolv.conf", f"nameserver {HUB}\n")
    box.poweroff()
    if how == "refused":
        hub.stop()
    else:
        hub.wire.cut("drop" if how == "dns" else how)  # type: ignore[arg-type]
    try:
        box.boot()
        ready = box.client.wait_ready(word="fallback")
        took = decision_seconds(box)
        print(f"{how}: decided after {took:.1f} s: {box.contract()['DB_REASON']}")
        assert took < DECISION_BOUND
        assert box.contract()["DB_FALLBACK"] == "true"
        assert box.status()["state"] == "fallback"
        assert box.show("edgepaas.service", "StatusText").startswith("fallback since ")
        assert ready["reasons"]
        kept = box.writer.write("press", 2.0)
        page = box.client.get("/api/v1/readings?device=press")
        assert [item["id"] for item in page.body["items"]] == [kept]
        assert page.body["partial"] is True
    finally:
        hub.wire.heal()
        if how == "refused":
            hub.start()


@pytest.mark.parametrize("how", ["crash", "drop", "reset", "link"])
def test_losing_the_database_while_serving_leads_to_sqlite_in_seconds(
    box: Appliance, hub: Hub, how: str
) -> None:
    """Clients see 503 with Retry-After, or wait; every acknowledged reading is in one of both."""
    with Writers(box.writer, patient=True) as writers:
        writers.wait_for(40)
        began = time.monotonic()
        if how == "crash":
            hub.stop(crash=True)
        else:
            hub.wire.cut(how)  # type: ignore[arg-type]
        box.client.wait_ready(60, word="fallback")
        took = time.monotonic() - began
        writers.wait_for(40)
    box.client.wait_ready(word="fallback")
    seen = sorted({failure.partition(" {")[0] for failure in writers.failures})
    print(
        f"{how}: SQLite served after {took:.1f} s; the longest request took "
        f"{writers.longest:.1f} s; {len(writers.failures)} were asked to come again: {seen}"
    )
    hub.wire.heal()
    if how == "crash":
        hub.start()
    on_the_hub = {str(row[0]) for row in hub.execute("SELECT id::text FROM readings")}
    in_the_box = set(box.writer.stored("load"))
    lost = set(writers.acknowledged) - on_the_hub - in_the_box
    assert not lost
    assert on_the_hub
    assert in_the_box
    assert not [failure for failure in writers.failures if failure.startswith(("500", "502"))]


def test_a_database_that_returns_serves_again_after_a_restart(box: Appliance, hub: Hub) -> None:
    """A hold keeps a flapping server out for a while; then a new decision takes it."""
    box.configure(HANDBACK_AFTER="2")
    box.restart(word="primary")
    hub.stop(crash=True)
    box.client.wait_ready(60, word="fallback")
    hub.start()
    deadline = time.monotonic() + 60
    while box.restart()["state"] != "primary":
        assert time.monotonic() < deadline, box.contract()["DB_REASON"]
        time.sleep(1)


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(
            "DO $$ BEGIN UPDATE alembic_version_telemetry SET version_num = '9999'; "
            "ALTER TABLE readings DROP COLUMN unit; END $$",
            id="unknown revision",
        ),
        pytest.param(
            f"ALTER DATABASE {DATABASE} SET default_transaction_read_only = on", id="read-only"
        ),
    ],
)
def test_a_database_that_the_chain_cannot_use_after_all_leaves_sqlite(
    box: Appliance, hub: Hub, spoil: str
) -> None:
    """A stage that finds it unusable holds it off; the chain decides again, by itself."""
    hub.execute(spoil)
    box.exec("systemctl", "restart", "edgepaas", check=False, timeout=90)
    ready = box.client.wait_ready(60, word="fallback")
    print(f"{box.contract()['DB_REASON']}; {ready['reasons']}")
    written = box.writer.write("press", 1.0)
    assert written in box.writer.stored("press")
    assert box.sh("systemctl --failed --plain --no-legend --no-pager") == ""


def test_a_database_that_is_late_delays_nothing_but_the_decision(box: Appliance, hub: Hub) -> None:
    """The network comes up while the box decides: found within the decision's retries."""
    box.poweroff()
    hub.wire.cut("link")
    late = threading.Timer(3.0, hub.wire.heal)
    late.start()
    box.boot()
    box.client.wait_ready(word="primary")
    late.join()
    took = decision_seconds(box)
    print(f"the network came 3 s late: decided after {took:.1f} s")
    assert took < DECISION_BOUND


def decision_seconds(box: Appliance) -> float:
    """Return how long the decision took at the last boot."""
    exits, starts = (
        int(box.show("edgepaas-dbdecide.service", f"ExecMain{name}TimestampMonotonic"))
        for name in ("Exit", "Start")
    )
    return (exits - starts) / 1e6
