# SPDX-License-Identifier: Apache-2.0
"""A box that is rebooted, killed, hung and restarted under load keeps what it acknowledged."""

import collections
import os
import random
import time

import pytest

from tests.support.service_process import until
from tests.system.appliance import Appliance
from tests.system.client import Writers

#: How often the whole box is killed while it writes; `make soak` asks for more.
KILLS = 50 if os.environ.get("EDGEPAAS_SOAK") else 5
SEED = int(os.environ.get("EDGEPAAS_SEED", "3"))


def test_a_reboot_brings_the_service_and_the_data_back(appliance: Appliance) -> None:
    kept = [appliance.writer.write("press", float(value)) for value in range(20)]
    appliance.poweroff()
    appliance.boot()
    appliance.client.wait_ready(word="standalone")
    assert sorted(appliance.writer.stored("press")) == sorted(kept)
    assert appliance.sh("systemctl --failed --plain --no-legend --no-pager") == ""


def test_a_killed_service_comes_back_by_itself_with_every_acknowledged_reading(
    appliance: Appliance,
) -> None:
    """SIGKILL three times under writes; callers who wait in the socket's queue are served."""
    with Writers(appliance.writer, patient=True) as writers:
        for _ in range(3):
            writers.wait_for(30)
            pid = appliance.main_pid()
            appliance.sh(f"kill -9 {pid}")
            appliance.wait_for_other_pid(pid)
        writers.wait_for(10)
    assert_all_stored_once(appliance, writers)
    journal = appliance.journal("-b", "-u", "edgepaas.service", "-p", "err")
    assert "the service ended: signal (killed KILL)" in journal


def test_the_watchdog_ends_a_hung_service(appliance: Appliance) -> None:
    """SIGSTOP stands for a hang; the shorter watchdog is this test's, for the sake of time."""
    appliance.write(
        "/etc/systemd/system/edgepaas.service.d/test.conf", "[Service]\nWatchdogSec=4\n"
    )
    appliance.sh("systemctl daemon-reload")
    appliance.restart()
    kept = appliance.writer.write("press", 1.0)
    pid = appliance.main_pid()
    appliance.sh(f"kill -STOP {pid}")
    began = time.monotonic()
    appliance.wait_for_other_pid(pid, 60)
    print(f"hang to another process that is ready: {time.monotonic() - began:.1f} s")
    assert appliance.writer.stored("press") == [kept]
    assert "the service ended: watchdog" in appliance.journal("-b", "-p", "err")


def test_a_restart_under_load_fails_no_request(appliance: Appliance) -> None:
    """The socket stays open while the chain runs: callers wait, none is refused."""
    appliance.writer.write("load", 0.0)
    with Writers(appliance.writer) as writers:
        for _ in range(3):
            writers.wait_for(50)
            pid = appliance.main_pid()
            appliance.exec("systemctl", "restart", "edgepaas")
            assert appliance.main_pid() != pid
        writers.wait_for(50)
    print(f"{len(writers.acknowledged)} requests, the longest took {writers.longest:.2f} s")
    assert writers.failures == []


def test_a_kill_of_the_whole_box_during_writes_loses_nothing(appliance: Appliance) -> None:
    """Kills at random moments, in the boot chain too; the box comes up by itself each time."""
    moments = random.Random(SEED)
    waits = []
    with Writers(appliance.writer, patient=True, threads=3) as writers:
        for _ in range(KILLS):
            writers.wait_for(moments.randrange(1, 60), 120)
            time.sleep(moments.random() * 0.2)
            appliance.kill()
            if moments.random() < 0.3:  # once more, somewhere in the middle of the chain
                appliance.boot()
                time.sleep(moments.random() * 2)
                appliance.kill()
            began = time.monotonic()
            appliance.boot()
            appliance.client.wait_ready(word="standalone")
            waits.append(time.monotonic() - began)
    print(
        f"{KILLS} kills, {len(writers.acknowledged)} readings acknowledged, "
        f"ready at most {max(waits):.1f} s after power-on"
    )
    assert_all_stored_once(appliance, writers)
    assert len(waits) == KILLS
    assert writers.acknowledged


def test_a_failing_stage_stops_what_follows_and_is_tried_again(appliance: Appliance) -> None:
    """A contradiction in the settings: nothing starts on a stale contract; mended, it heals."""
    good = appliance.path("/etc/edgepaas/edgepaas.env").read_text()
    starts = appliance.starts()
    appliance.configure(BOTH_DB="false")  # in production, without a DATABASE_URL
    appliance.exec("systemctl", "restart", "edgepaas", check=False, timeout=90)
    until(
        lambda: appliance.journal("-b", "-u", "edgepaas-env").count("BOTH_DB") >= 2,
        "it to be tried again",
        90,
    )
    status = "systemctl status --no-pager edgepaas-env || true"
    until(lambda: "BOTH_DB" in appliance.sh(status), "systemctl status to say why", 90)
    until(lambda: "BOTH_DB" in str(appliance.client.state()), "the port to say why", 90)
    assert appliance.sh("ls /run/edgepaas/env /run/edgepaas/db.env 2>/dev/null || true") == ""
    assert appliance.starts() == starts
    appliance.write("/etc/edgepaas/edgepaas.env", good)
    appliance.client.wait_ready(60, word="standalone")  # without anybody's restart


def test_a_crash_loop_backs_off_and_never_gives_up(appliance: Appliance) -> None:
    """An application that cannot be imported: the pauses grow, and mended it starts."""
    good = appliance.path("/etc/edgepaas/edgepaas.env").read_text()
    appliance.configure(EDGEPAAS_APP="no.such.module:application")
    appliance.exec("systemctl", "restart", "edgepaas", check=False, timeout=90)
    assert appliance.attempts(3) < 12, "a busy loop"
    assert "no.such.module" in appliance.journal("-b", "-p", "err")
    appliance.write("/etc/edgepaas/edgepaas.env", good)
    appliance.exec("systemctl", "reset-failed")
    appliance.restart(word="standalone")


@pytest.mark.parametrize("unit", ["edgepaas-dbdecide", "edgepaas"])
def test_a_sandbox_that_cannot_be_made_is_said_and_is_no_busy_loop(
    appliance: Appliance, unit: str
) -> None:
    """A kernel may lack what a directive asks for; systemd then starts nothing of the unit."""
    drop_in = f"/etc/systemd/system/{unit}.service.d/broken.conf"
    appliance.write(drop_in, "[Service]\nInaccessiblePaths=/nonexistent\n")
    appliance.exec("systemctl", "daemon-reload")
    starts = appliance.starts()
    appliance.exec("systemctl", "restart", "edgepaas", check=False, timeout=90)
    assert appliance.attempts(3) < 15, "a busy loop"
    assert "starts again" in appliance.journal("-b", "-p", "err") or "started again" in (
        appliance.journal("-b", "-p", "err")
    )
    assert appliance.starts() == starts
    if unit == "edgepaas-dbdecide":
        assert appliance.sh("ls /run/edgepaas/db.env 2>/dev/null || true") == ""
    appliance.exec("rm", drop_in)
    appliance.exec("systemctl", "daemon-reload")
    appliance.client.wait_ready(90, word="standalone")  # without anybody's restart


def assert_all_stored_once(appliance: Appliance, writers: Writers) -> None:
    """Every acknowledged reading is there, none twice, none that nobody sent."""
    appliance.client.wait_ready()
    stored = collections.Counter(appliance.writer.stored(writers.device))
    lost = set(writers.acknowledged) - set(stored)
    assert not lost, f"{len(lost)} of {len(writers.acknowledged)} acknowledged readings are lost"
    assert not [name for name, count in stored.items() if count > 1]
