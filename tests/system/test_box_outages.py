# SPDX-License-Identifier: Apache-2.0
"""Alerts of a booted box that nobody can hear: kept for days, over power-offs, then all told."""

import contextlib
import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.service_process import until
from tests.system.appliance import ENV_FILE, Appliance
from tests.system.hub import DATABASE, Hub
from tests.system.network import Wire
from tests.system.outside import Outside, outside
from tests.system.roots import base_root

CLOCK = "/etc/edgepaas-clock"
#: Every process of the package sees the box's clocks so many seconds ahead as the file says:
#: the container shares the machine's.
AHEAD = f'''
import time


def _ahead(read, shifted=lambda *_: True):
    def clock(*which):
        try:
            with open("{CLOCK}") as file:
                ahead = float(file.read() or 0)
        except OSError:
            ahead = 0.0
        return read(*which) + (ahead if shifted(*which) else 0.0)

    return clock


time.time = _ahead(time.time)
time.clock_gettime = _ahead(time.clock_gettime, lambda which: which == time.CLOCK_BOOTTIME)
'''
HOUR = 3600.0
DAYS = 3


@pytest.fixture
def far_end(bootable: None) -> Iterator[Outside]:
    """A webhook and a mail server on another host."""
    wire = Wire("told", base_root("bookworm"))
    with contextlib.ExitStack() as undo:
        undo.callback(wire.destroy)
        wire.create()
        yield undo.enter_context(outside(wire))


@pytest.fixture
def box(installed: Appliance, far_end: Outside) -> Iterator[Appliance]:
    """A box that tells them."""
    edge = far_end.wire.edge
    with Appliance("told", installed.package, template=installed, namespace=edge) as box:
        far_end.configure(box)
        box.restart()
        yield box


def test_three_days_without_a_network_lose_no_alert(box: Appliance, far_end: Outside) -> None:
    """Killed, misconfigured, disk full, three days long; then a digest, and each of them once."""
    use_a_small_disk(box)
    run_ahead(box)
    assert "FAILED" not in box.sh("edgepaas alerts test")
    assert len(far_end.keys()) == 2, "one by each channel"
    settle(box)
    far_end.forget()
    far_end.wire.cut("drop")
    said = raise_one(box, "the door is open", "door", "warning")

    pid = box.main_pid()
    box.sh(f"kill -9 {pid}")
    box.wait_for_other_pid(pid)
    good = box.path(ENV_FILE).read_text()
    box.configure(BOTH_DB="false")  # a contradiction
    box.exec("systemctl", "restart", "edgepaas", check=False, timeout=90)
    wait_for_alert(box, "unit env")
    box.write(ENV_FILE, good)
    box.client.wait_ready()
    said |= three_days(box)
    box.sh("dd if=/dev/zero of=/var/lib/edgepaas/somebody bs=64k status=none || true")
    box.client.wait_ready(word="full")
    for number in range(3):
        said |= raise_one(box, f"said on a full disk, {number}", f"full {number}", "critical")
    wait_for_alert(box, "system:disk", 90)

    waiting = [entry for entry in conditions(box) if entry["undelivered"] or entry["sending"]]
    known = {entry["fingerprint"] for entry in waiting}
    assert {"unit serve", "unit env", "system:disk", *said} <= known
    assert far_end.keys() == []
    assert box.sh("ls /var/spool/edgepaas/alerts/corrupt") == ""
    far_end.forget(200, 200, 200, 200, 500)  # what the webhook takes no more goes by mail
    far_end.wire.heal()
    go_ahead(box, HOUR)  # the pauses between attempts are over
    deliver(box)
    wait_until_told(box)
    keys, texts = far_end.keys(), far_end.texts()
    print(f"{len(keys)} messages, {len(far_end.mails.mails)} by mail, of {len(waiting)} alerts")
    assert len(keys) == len(set(keys)), "each once by its key"
    assert keys[0].startswith("digest-"), "the digest comes first"
    assert f"no notification could be delivered for {DAYS} d" in texts[0]
    assert sum(key.startswith("digest-") for key in keys) == 1
    told = {key.rpartition("-")[0] for key in keys}
    assert [entry["message"] for entry in waiting if entry["id"] not in told] == []
    assert len(far_end.mails.mails) >= len(waiting) - 4
    for fingerprint, count in said.items():
        (entry,) = [entry for entry in waiting if entry["fingerprint"] == fingerprint]
        assert entry["count"] == count
        single = [text for text in texts[1:] if entry["message"] in text]
        assert len(single) == 1
        assert (f"({count} times)" in single[0]) == (count > 1)
        assert entry["message"] in texts[0], "the digest names it"
    box.sh("rm /var/lib/edgepaas/somebody")
    box.client.wait_ready(60, word="standalone")
    assert box.sh("ls /var/spool/edgepaas/alerts/dead /var/spool/edgepaas/alerts/corrupt "
                  "| grep json || true") == ""  # fmt: skip


@pytest.mark.parametrize("how", ["poweroff", "kill"])
def test_what_waits_when_the_power_goes_is_told_after_the_next_boot(
    box: Appliance, far_end: Outside, how: str
) -> None:
    """Nobody raises anything after the boot: the timer alone has what waits told."""
    settle(box)
    far_end.forget()
    far_end.wire.cut("link")
    messages = ["it broke, 0", "it broke, 1", "it broke, 2", "and that, a moment ago"]
    for number, message in enumerate(messages[:3]):
        raise_one(box, message, f"broken {number}", "critical")
    wait_for_attempt(box)
    raise_one(box, messages[3], "broken 3", "warning")
    box.poweroff() if how == "poweroff" else box.kill()
    assert far_end.keys() == []
    far_end.wire.heal()
    began = time.monotonic()
    box.boot()
    far_end.wait_for_texts(*messages)  # by e-mail where the webhook still has a pause
    print(f"all told {time.monotonic() - began:.0f} s after power-on")
    wait_until_told(box)
    keys = far_end.keys()
    assert len(keys) == len(set(keys))
    for message in messages:
        assert len([text for text in far_end.texts() if message in text]) == 1
    # The deliverer that had it told may be about to end; no other may follow it.
    until(
        lambda: (
            box.show("edgepaas-alerts.service", "MainPID") == "0"
            and "edgepaas alerts" not in box.sh("ps -eo args")
        ),
        "the deliverer ends",
        60,
    )


def test_an_outage_of_postgresql_is_told_and_told_over_and_every_row_comes_home(
    installed: Appliance, hub: Hub
) -> None:
    """The far end of the same wire: the server stops, the receivers do not."""
    hub.wire.heal()
    hub.execute(f"DROP DATABASE IF EXISTS {DATABASE} WITH (FORCE)", "postgres")
    hub.execute(f"CREATE DATABASE {DATABASE}", "postgres")
    with (
        outside(hub.wire) as far_end,
        Appliance("home", installed.package, template=installed, namespace=hub.wire.edge) as box,
    ):
        box.write("/etc/edgepaas/hub.pem", hub.authority, 0o644)
        far_end.configure(
            box, DATABASE_URL=hub.url, DB_SSLROOTCERT="/etc/edgepaas/hub.pem", HANDBACK_AFTER="3",
            POSTGRES_HOLD="3", ALERT_TIMEOUT="20",  # its wire is whole: nothing goes by e-mail
        )  # fmt: skip
        box.restart(word="primary")
        kept = {box.writer.write("press", float(number)) for number in range(10)}
        hub.stop(crash=True)
        box.client.wait_ready(60, word="fallback")
        kept |= {box.writer.write("press", float(number)) for number in range(10, 60)}
        for fingerprint in ("database-lost", "database-fallback"):
            far_end.wait_for(fingerprint, "raised")
        memory = sync_memory(box)
        hub.start()
        began = time.monotonic()
        box.client.wait_ready(90, word="primary")
        back = time.monotonic() - began
        print(f"handed back {back:.1f} s after PostgreSQL was back; sync had {memory:.0f} MiB, "
              f"has {sync_memory(box):.0f} MiB")  # fmt: skip
        assert max(memory, sync_memory(box)) <= 40
        assert {str(row[0]) for row in hub.execute("SELECT id::text FROM readings")} == kept
        audited = box.exec("edgepaas", "audit", check=False)
        assert audited.returncode == 0, audited.stdout + audited.stderr
        for fingerprint in ("database-lost", "database-fallback"):
            far_end.wait_for(fingerprint, "resolved")
        assert_clean_journal(box)
        box.sh("systemctl stop edgepaas")
        box.wait_for_state("edgepaas-sync.service", "inactive")
        box.sh("systemctl start edgepaas")
        box.client.wait_ready(60, word="primary")
        box.wait_for_state("edgepaas-sync.service", "active")


# -- what the tests do to a box, and ask it --


def use_a_small_disk(box: Appliance) -> None:
    """State and spool on one small file system, which is easily filled."""
    box.sh(
        "systemctl stop edgepaas.service edgepaas.socket edgepaas-alerts.path\n"
        "mkdir /mnt/small; mount -t tmpfs -o size=48m,mode=0755 tmpfs /mnt/small\n"
        "for folder in lib spool; do\n"
        "  install -d -o edgepaas -g edgepaas -m 0700 /mnt/small/$folder\n"
        "  mount --bind /mnt/small/$folder /var/$folder/edgepaas\n"
        "done\n"
    )
    box.configure(DISK_MIN_FREE="1MiB")
    box.sh("systemctl start edgepaas-alerts.path edgepaas.socket edgepaas.service")
    box.client.wait_ready()


def run_ahead(box: Appliance) -> None:
    """Have the package's clocks run ahead from now on, by 0 s at first."""
    package = box.path("/usr/share/edgepaas/lib/edgepaas/__init__.py")
    box.write(CLOCK, "0", 0o644)
    package.write_text(package.read_text() + AHEAD)
    box.restart()


def go_ahead(box: Appliance, seconds: float) -> None:
    """Let *seconds* pass."""
    passed = float(box.path(CLOCK).read_text())
    box.path(CLOCK).write_text(str(passed + seconds))


def three_days(box: Appliance) -> dict[str, int]:
    """Let them pass, in steps; returns how often each thing was said."""
    said: dict[str, int] = {}
    for step in range(DAYS * 4):
        go_ahead(box, 6 * HOUR)
        for fingerprint in ("pump", f"valve {step // 3}"):
            raise_one(box, f"{fingerprint} is stuck", fingerprint, "warning")
            said[fingerprint] = said.get(fingerprint, 0) + 1
        deliver(box)
    return said


def raise_one(box: Appliance, message: str, fingerprint: str, severity: str) -> dict[str, int]:
    """Raise an alert, which is accepted; returns that it was said once."""
    box.exec(
        "edgepaas",
        "alert",
        "--quiet",
        "--severity",
        severity,
        "--fingerprint",
        fingerprint,
        message,
    )
    return {fingerprint: 1}


def deliver(box: Appliance) -> None:
    """Have a run of the deliverer, as the timer does it, and wait for its end."""
    box.exec("systemctl", "start", "edgepaas-alerts.service", timeout=200)


def conditions(box: Appliance) -> list[dict[str, Any]]:
    """Return what is known of each alert."""
    found: list[dict[str, Any]] = json.loads(box.sh("edgepaas alerts list --all --json"))[
        "conditions"
    ]
    return found


def wait_for_alert(box: Appliance, fingerprint: str, limit: float = 60.0) -> None:
    """Wait until something is known under *fingerprint*."""
    deadline = time.monotonic() + limit
    while fingerprint not in {entry["fingerprint"] for entry in conditions(box)}:
        if time.monotonic() > deadline:
            raise TimeoutError(f"nothing was raised as {fingerprint} within {limit:g} s")
        time.sleep(1)


def wait_for_attempt(box: Appliance, limit: float = 60.0) -> None:
    """Wait until it was tried in vain to tell something."""
    deadline = time.monotonic() + limit
    while not any(entry["sending"] and entry["sending"]["attempts"] for entry in conditions(box)):
        if time.monotonic() > deadline:
            raise TimeoutError(f"nobody tried to tell anything within {limit:g} s")
        time.sleep(1)


def settle(box: Appliance) -> None:
    """Wait until everybody was told of what the boot and the restarts had to say."""
    deliver(box)
    wait_until_told(box)


def wait_until_told(box: Appliance, limit: float = 120.0) -> None:
    """Wait until nothing waits to be told."""
    deadline = time.monotonic() + limit
    while left := [entry for entry in conditions(box) if entry["undelivered"] or entry["sending"]]:
        if time.monotonic() > deadline:
            raise TimeoutError(f"not told after {limit:g} s: {left}")
        time.sleep(1)


def sync_memory(box: Appliance) -> float:
    """Return what sync has resident, in MiB."""
    box.wait_for_state("edgepaas-sync.service", "active")
    pid = box.show("edgepaas-sync.service", "MainPID")
    return int(box.sh(f"grep VmRSS /proc/{pid}/status").split()[1]) / 1024


def assert_clean_journal(box: Appliance) -> None:
    """No traceback, and nothing that a sandbox refused."""
    journal = box.journal("-b", "-u", "edgepaas*")
    for word in ("Traceback", "Operation not permitted", "Permission denied", "EPERM"):
        assert word not in journal
