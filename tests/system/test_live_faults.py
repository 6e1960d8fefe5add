# SPDX-License-Identifier: Apache-2.0
"""A whole box that loses its power, its clock and its space: nothing acknowledged is lost.

Real processes on a disk of tests/support/disk_faults.c; no booted box.
"""

import contextlib
import json
import os
import random
import shutil
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.support.checker import Complaint, check, summary
from tests.support.disk_faults import Disk
from tests.support.history import History
from tests.support.hub_database import HubDatabase
from tests.support.live_box import Clients, LiveBox
from tests.support.relay import Relay
from tests.support.service_process import until
from tests.system.conftest import REQUIRED

SOAK = bool(os.environ.get("EDGEPAAS_SOAK"))
SEED = int(os.environ.get("EDGEPAAS_SEED", "6"))
ROUNDS = 50 if SOAK else 3
FLAPPING = 600.0 if SOAK else 60.0
DAY = 86400.0


@pytest.fixture(autouse=True)
def _compiler() -> None:
    """Skip, or fail where nothing may be skipped, without a C compiler."""
    if shutil.which("cc") is None:
        (pytest.fail if REQUIRED else pytest.skip)("cc is not installed (Debian: gcc, libc6-dev)")


def _has_failed_more(disk: Disk, times: int) -> bool:
    """Whether syncs and writes have failed more than so many *times*."""
    return disk.sync_failures + disk.full_failures > times


@contextlib.contextmanager
def box_on_a_disk(
    folder: Path, relay: Relay, hub: HubDatabase, *weak: str, **settings: str
) -> Iterator[tuple[LiveBox, Disk]]:
    """A local-first box, not started, all of whose files lie on a disk that fails when told."""
    state = folder / "home" / "state"
    state.mkdir(parents=True)
    disk = Disk(folder / "disk", scope=state, seed=SEED)
    url = relay.reroute(hub.url)
    settings = {"DATABASE_URL": url, "USE_SQLITE": "true"} | settings
    box = LiveBox(folder, weak=weak, environ=disk.environ(), **settings)
    assert box.paths.state == state
    try:
        yield box, disk
    finally:
        box.close()


def rounds_of_power_cuts(
    folder: Path, hub: HubDatabase, *weak: str, rounds: int, torn: float = 0.5
) -> list[Complaint]:
    """Write, with the hub away in every other round, and cut the power at a random moment."""
    history, chance = History(), random.Random(SEED)
    surprises: list[str] = []
    with (
        Relay(hub.server.port, seed=SEED) as relay,
        box_on_a_disk(folder, relay, hub, *weak) as (box, disk),
    ):
        for number in range(rounds):
            (relay.cut if number % 2 == 0 else relay.heal)()
            box.start()
            name = f"round{number}-"
            with Clients(box.port, history, seed=number, name=name).writing() as clients:
                clients.wait_for(chance.randint(30, 150))
                time.sleep(chance.random() * 0.2)
                box.kill_everything()
                clients.stop()
            surprises += clients.surprises
            disk.power_cut(torn=torn)
            shutil.rmtree(box.paths.runtime)
        relay.heal()
        box.start()
        box.wait_drained()
        found = hub.witness.look()
        print(f"{rounds} power cuts, {disk.syncs} syncs: {summary(history, found)}")
        assert surprises == []
        if not weak:
            status, text = box.run("audit")
            assert status == 0, text
        return check(history, found, streams=1 if not weak else None)


def test_power_cuts_lose_double_and_reorder_nothing(
    tmp_path: Path, hub_database: HubDatabase
) -> None:
    assert rounds_of_power_cuts(tmp_path, hub_database, rounds=ROUNDS) == []


@pytest.mark.parametrize("weak", ["synchronous-normal", "synchronous-off"])
def test_power_cuts_of_a_build_that_syncs_less_are_found_out(
    tmp_path: Path, hub_database: HubDatabase, weak: str
) -> None:
    complaints = rounds_of_power_cuts(tmp_path, hub_database, weak, rounds=2, torn=0.0)
    assert "lost" in {complaint.kind for complaint in complaints}


def test_a_clock_that_jumps_back_and_forth_changes_nothing(
    tmp_path: Path, hub_database: HubDatabase
) -> None:
    """Ten days back, ten years on, in the middle of batches and across a restart."""
    history = History()
    with (
        Relay(hub_database.server.port, seed=SEED) as relay,
        box_on_a_disk(tmp_path, relay, hub_database) as (box, disk),
    ):
        box.start()
        with Clients(box.port, history, seed=SEED).writing() as clients:
            for jump in (-10 * DAY, 0.0, 3650 * DAY, -10 * DAY):
                clients.wait_for(40)
                relay.cut()
                clients.wait_for(40)
                disk.jump_clock(jump)
                clients.wait_for(40)
                relay.heal()
                until(lambda: box.waiting() < 50, "rows that go home", 30)
            box.kill("serve")
            disk.jump_clock(3650 * DAY)
            clients.wait_for(40)
        box.wait_drained()
        found = hub_database.witness.look()
        print(summary(history, found))
        assert clients.surprises == []
        assert check(history, found) == []


def test_a_build_that_measures_pauses_by_the_wall_clock_is_found_out(
    tmp_path: Path, hub_database: HubDatabase
) -> None:
    """The clock goes back by days during a pause: rows are held for so many days."""
    with (
        Relay(hub_database.server.port, seed=SEED) as relay,
        box_on_a_disk(tmp_path, relay, hub_database, "wall-clock") as (box, disk),
    ):
        relay.cut()
        box.start()
        with Clients(box.port, History(), seed=SEED).writing() as clients:
            clients.wait_for(40)
        until(lambda: "cannot be delivered" in box.output(), "rows that are held")
        time.sleep(5)  # the pauses grow to seconds
        for days in (10, 20, 30, 40):  # one jump may fall between two of them
            disk.jump_clock(-days * DAY)
            time.sleep(0.4)
        relay.heal()
        with pytest.raises(AssertionError, match="in vain for an empty queue"):
            box.wait_drained(8)


def test_a_disk_that_stops_syncing_and_one_that_is_full_recover_by_themselves(
    tmp_path: Path, hub_database: HubDatabase
) -> None:
    """Nobody restarts anything: with the disk well again writes are taken, and go home."""
    history = History()
    with (
        Relay(hub_database.server.port, seed=SEED) as relay,
        box_on_a_disk(tmp_path, relay, hub_database) as (box, disk),
    ):
        box.start()
        with Clients(box.port, history, seed=SEED).writing() as clients:
            clients.wait_for(40)
            troubles: tuple[tuple[Callable[[], None], Callable[[], None]], ...] = (
                (partial(disk.fail_syncs, times=None), disk.mend),
                (disk.fill, disk.free),
            )
            for fail, mend in troubles:
                fail()
                failed = disk.sync_failures + disk.full_failures
                until(partial(_has_failed_more, disk, failed + 3), "failures")
                time.sleep(2)
                mend()
                clients.wait_for(40, 90)
        box.wait_drained()
        found = hub_database.witness.look()
        print(f"{summary(history, found)}; surprises {clients.surprises[:3]}")
        assert {text.split(": ")[1][:3] for text in clients.surprises} <= {"507"}
        assert check(history, found) == []


def test_a_file_system_that_is_full_refuses_writes_and_takes_them_again(
    tmp_path: Path, hub_database: HubDatabase
) -> None:
    """A real one, of 24 MiB, filled by somebody else's file."""
    if os.geteuid() != 0:
        pytest.skip("mounting a file system needs root")
    home = tmp_path / "home"
    home.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=24m,mode=0700", "tmpfs", str(home)]
    subprocess.run(mount, check=True)
    history = History()
    try:
        with (
            LiveBox(
                tmp_path, DATABASE_URL=hub_database.url, USE_SQLITE="true", DISK_MIN_FREE="0"
            ) as box,
            Clients(box.port, history, seed=SEED).writing() as clients,
        ):
            clients.wait_for(40)
            fill = home / "somebody-else"
            with contextlib.suppress(OSError), fill.open("wb", buffering=0) as file:
                while True:
                    file.write(bytes(4096))
            until(lambda: clients.surprises, "a refusal", 60)
            time.sleep(2)
            fill.unlink()
            clients.wait_for(40, 90)
            clients.stop()
            box.wait_drained()
            found = hub_database.witness.look()
            print(f"{summary(history, found)}; {len(clients.surprises)} refused with 507")
            assert {text.split(": ")[1][:3] for text in clients.surprises} == {"507"}
            assert check(history, found) == []
    finally:
        subprocess.run(["umount", "--lazy", str(home)], check=True)


def test_a_link_that_flaps_brings_everything_home(
    tmp_path: Path, hub_database: HubDatabase
) -> None:
    """There for two seconds, gone for two; half of the answers to COMMIT are cut besides."""
    history = History()
    with (
        Relay(hub_database.server.port, seed=SEED) as relay,
        LiveBox(
            tmp_path,
            DATABASE_URL=relay.reroute(hub_database.url),
            USE_SQLITE="true",
            SYNC_BATCH="200",
        ) as box,
        Clients(box.port, history, seed=SEED, pause=0.02).writing() as clients,
    ):
        relay.commit_cut, relay.only = 0.5, "sync"
        relay.flap(2.0)
        time.sleep(FLAPPING)
        relay.calm()
        clients.stop()
        box.wait_drained(120)
        found = hub_database.witness.look()
        print(f"{relay.cuts} of {relay.commits} commits cut: {summary(history, found)}")
        assert clients.surprises == []
        assert relay.cuts > 3
        assert check(history, found) == []


def test_a_sync_that_takes_its_time_holds_up_writers_alone(
    tmp_path: Path, hub_database: HubDatabase
) -> None:
    """Probes and readers are answered; the writers are, once the disk has done its work."""
    with (
        Relay(hub_database.server.port, seed=SEED) as relay,
        box_on_a_disk(tmp_path, relay, hub_database) as (box, disk),
    ):
        relay.cut()
        box.start()
        wait_ready(box)
        answers: list[int] = []

        def write(number: int) -> None:
            body = {"device": f"press-{number}", "metric": "temperature", "value": 1.0}
            answers.append(ask(box, "POST", "/api/v1/readings", body))

        writers = [threading.Thread(target=write, args=(number,)) for number in range(20)]
        before = disk.syncs
        disk.hold_syncs()
        try:
            for writer in writers:
                writer.start()
            until(lambda: disk.syncs > before, "a sync that waits")
            for _ in range(20):
                assert ask(box, "GET", "/health/live") == 200
                assert ask(box, "GET", "/api/v1/devices?limit=1") == 200
            assert answers == [], "nothing is acknowledged that is not on the disk"
        finally:
            disk.hold_syncs(False)
        for writer in writers:
            writer.join(60)
        assert answers == [201] * 20


def wait_ready(box: LiveBox) -> None:
    until(lambda: ask(box, "GET", "/health/ready") == 200, "readiness")


def ask(box: LiveBox, method: str, path: str, body: object = None) -> int:
    """Send one request to *box*; 0 where there is no answer."""
    data = None if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/json"}
    address = f"http://127.0.0.1:{box.port}{path}"
    request = urllib.request.Request(address, data, headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0
