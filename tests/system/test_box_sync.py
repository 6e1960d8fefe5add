# SPDX-License-Identifier: Apache-2.0
"""A booted box whose PostgreSQL comes and goes: readings, all of them home in the end."""

import json
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.service_process import until
from tests.system.appliance import Appliance
from tests.system.client import Writers
from tests.system.hub import DATABASE, Hub

READINGS = 22_695
SEED = 7


@pytest.fixture
def box(installed: Appliance, hub: Hub) -> Iterator[Appliance]:
    """A box that serves from the hub and hands back to it quickly."""
    hub.wire.heal()
    hub.execute(f"DROP DATABASE IF EXISTS {DATABASE} WITH (FORCE)", "postgres")
    hub.execute(f"CREATE DATABASE {DATABASE}", "postgres")
    with Appliance("sync", installed.package, template=installed, namespace=hub.wire.edge) as box:
        box.write("/etc/edgepaas/hub.pem", hub.authority, 0o644)
        box.configure(
            DATABASE_URL=hub.url, DB_SSLROOTCERT="/etc/edgepaas/hub.pem", HANDBACK_AFTER="2",
            POSTGRES_HOLD="2", HANDBACK_PER_HOUR="3600", HANDBACK_ROWS="100000", RATE_LIMIT="0",
        )  # fmt: skip
        box.restart(word="primary")
        yield box
        hub.wire.heal()


def test_readings_all_come_home_while_the_link_is_cut_at_random(
    box: Appliance, hub: Hub, machine_file: Path
) -> None:
    """Imported through the API over cuts of every kind; the ledger adds up, PostgreSQL serves."""
    box.copy_in(machine_file, "/root/readings.csv")
    token = box.exec("edgepaas", "token", "create", "importer").stdout.strip()
    box.write("/root/token", token, 0o600)
    chance, over = random.Random(SEED), threading.Event()
    cuts: list[str] = []

    def spoil() -> None:
        while not over.wait(chance.uniform(0.5, 2.0)):
            how = chance.choice(["drop", "reset", "link", "reject"])
            cuts.append(how)
            hub.wire.cut(how)  # type: ignore[arg-type]
            over.wait(chance.uniform(0.5, 5.0))
            hub.wire.heal()

    spoiler = threading.Thread(target=spoil)
    spoiler.start()
    try:
        began = time.monotonic()
        printed = box.exec(
            "edgepaas", "telemetry", "import", "/root/readings.csv", "--device", "machine",
            "--metric", "temperature", "--token-file", "/root/token", "--batch", "100", "--json",
            timeout=300,
        )  # fmt: skip
        took = time.monotonic() - began
    finally:
        over.set()
        spoiler.join()
        hub.wire.heal()
    returned = time.monotonic()
    box.client.wait_ready(90, word="primary")
    back = time.monotonic() - returned
    print(f"imported in {took:.0f} s over {len(cuts)} cuts ({', '.join(cuts)}), handed back "
          f"{back:.1f} s after the last one: {printed.stdout[-300:]}")  # fmt: skip
    assert cuts
    counted = hub.execute(
        "SELECT count(*), count(DISTINCT id), count(DISTINCT device) FROM readings"
    )
    assert counted == [[READINGS, READINGS, 1]]
    audited = box.exec("edgepaas", "audit", "--json", check=False)
    assert audited.returncode == 0, audited.stdout + audited.stderr
    assert json.loads(audited.stdout)
    assert hub.execute("SELECT count(*) FROM sync_dead_letters") == [[0]]
    assert "edgepaas-sync.service" not in box.sh("systemctl --failed --plain --no-legend")


def test_an_outage_ends_with_every_write_on_the_hub(box: Appliance, hub: Hub) -> None:
    """Lost and handed back under writes: seconds for each, and not one reading is missing."""
    with Writers(box.writer, patient=True, pause=0.02) as writers:
        writers.wait_for(20)
        lost = time.monotonic()
        hub.wire.cut("drop")
        box.client.wait_ready(60, word="fallback")
        taken = time.monotonic() - lost
        writers.wait_for(40)
        hub.wire.heal()
        healed = time.monotonic()
        box.client.wait_ready(90, word="primary")
        back = time.monotonic() - healed
        writers.wait_for(20)
    print(f"SQLite after {taken:.1f} s, handed back after {back:.1f} s, longest request "
          f"{writers.longest:.1f} s, {len(writers.failures)} asked to come again")  # fmt: skip
    stored = {str(row[0]) for row in hub.execute("SELECT id::text FROM readings")}
    assert set(writers.acknowledged) <= stored
    assert len(stored) <= len(writers.acknowledged) + len(writers.failures)


def test_sync_that_is_killed_comes_back_and_a_reboot_goes_on_where_it_was(
    box: Appliance, hub: Hub
) -> None:
    """Rows wait over a power-off; after the boot the box drains them and hands back."""
    hub.wire.cut("link")
    box.client.wait_ready(60, word="fallback")
    kept = {box.writer.write("press", float(value)) for value in range(20)}
    pid = until(lambda: int(box.show("edgepaas-sync.service", "MainPID")), "sync to run", 60)
    box.sh(f"kill -9 {pid}")
    box.kill()
    box.boot()
    box.client.wait_ready(60)
    kept |= {box.writer.write("press", float(value)) for value in range(20, 40)}
    hub.wire.heal()
    box.client.wait_ready(90, word="primary")
    assert {str(row[0]) for row in hub.execute("SELECT id::text FROM readings")} == kept
