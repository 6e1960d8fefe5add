# SPDX-License-Identifier: Apache-2.0
"""Hostile conditions: the box comes up, or says what is wrong, and never loops in silence."""

import os
import sqlite3
import time
from pathlib import Path

import pytest

from tests.support.service_process import until
from tests.system.appliance import ENV_FILE, Appliance

#: A clock of 1970 for one unit: the container shares the machine's clock.
OLD_CLOCK = """
import time
_real = time.time
time.time = lambda: _real() % 86400
time.time_ns = lambda: int(time.time() * 1e9)
_gmtime = time.gmtime
time.gmtime = lambda seconds=None: _gmtime(time.time() if seconds is None else seconds)
"""


@pytest.fixture
def box(appliance: Appliance) -> Appliance:
    """A box of the test's own, ready."""
    return appliance


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(os.urandom(65536), id="random bytes"),
        pytest.param(b"\xff\xfe" + "ENV=development\r\n".encode("utf-16-le"), id="UTF-16"),
        pytest.param(b"PORT=seventy\nTHREADS=\nUSE_SQLITE=perhaps\nHOST=no host\n", id="nonsense"),
        pytest.param(b"=" * 1_000_000 + b"\n" + b"A" * 1_000_000, id="endless lines"),
        pytest.param(None, id="missing"),
    ],
)
def test_whatever_the_file_of_settings_holds_the_box_starts(
    box: Appliance, content: bytes | None
) -> None:
    path = box.path(ENV_FILE)
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    box.sh("systemctl daemon-reload")
    box.exec("systemctl", "restart", "edgepaas.socket", "edgepaas", check=False, timeout=90)
    assert box.client.wait_ready()["state"] == "standalone"


@pytest.mark.parametrize("content", [b"garbage", None])
def test_a_ruined_file_of_settings_does_not_open_the_box(
    box: Appliance, content: bytes | None
) -> None:
    """Without a readable ENV an installed box is in production: a write needs a token."""
    path = box.path(ENV_FILE)
    path.unlink() if content is None else path.write_bytes(content)
    box.restart()
    reading = {"device": "d", "metric": "m", "value": 1}
    assert box.client.request("POST", "/api/v1/readings", reading).status == 401


def test_a_directory_in_the_place_of_the_file_of_settings(box: Appliance) -> None:
    box.path(ENV_FILE).unlink()
    box.path(ENV_FILE).mkdir()
    assert box.restart()["state"] == "standalone"
    assert "edgepaas.env" in box.journal("-b", "-u", "edgepaas-env", "-p", "warning")


def test_a_taken_port_is_named_and_had_as_soon_as_it_is_free(box: Appliance) -> None:
    box.sh("systemctl stop edgepaas.service edgepaas.socket")
    box.sh("systemd-run --unit=squatter python3 -m http.server 8080")
    until(lambda: ":8080 " in box.sh("ss -Hltn"), "the other program", 60)
    box.exec("systemctl", "start", "edgepaas", check=False, timeout=90)
    told = "PORT=8080: no socket was handed down"
    until(lambda: told in box.journal("-b", "-u", "edgepaas.service"), told, 90)
    time.sleep(8)  # a busy loop would say it many times more
    assert "Address already in use" in box.journal("-b", "-u", "edgepaas.socket")
    assert box.journal("-b", "-u", "edgepaas.service").count(told) < 8
    box.sh("systemctl stop squatter")
    assert box.client.wait_ready(60)["state"] == "standalone"
    assert box.show("edgepaas.socket", "ActiveState") == "active"


def test_a_full_disk_refuses_writes_with_507_and_recovers_by_itself(box: Appliance) -> None:
    """The state folder on a small file system of its own, filled by somebody else."""
    box.sh(
        "systemctl stop edgepaas.service edgepaas.socket && "
        "mount -t tmpfs -o size=32m,mode=0700 tmpfs /var/lib/edgepaas && "
        "chown edgepaas: /var/lib/edgepaas"
    )
    box.configure(DISK_MIN_FREE="1MiB", DISK_THRESHOLD="100")
    box.sh("systemctl start edgepaas.socket edgepaas")
    box.client.wait_ready()
    box._token = ""  # the tokens were in the folder that is hidden now
    kept = box.writer.write("press", 1.0)
    box.sh("dd if=/dev/zero of=/var/lib/edgepaas/somebody bs=64k status=none || true")
    answers = []
    for value in range(60):
        readings = [
            {"device": "press", "metric": "m", "value": value + n / 1000} for n in range(500)
        ]
        answers.append(
            box.writer.request("POST", "/api/v1/readings", {"readings": readings}).status
        )
        if answers[-1] != 201:
            break
    assert answers[-1] == 507
    assert box.writer.get("/api/v1/readings?limit=1").status == 200
    box.client.wait_ready(20, word="full")
    box.exec("systemctl", "restart", "edgepaas", check=False, timeout=90)
    box.client.wait_ready(60, word="full")
    box.sh("rm /var/lib/edgepaas/somebody")
    box.client.wait_ready(60, word="standalone")
    box.writer.write("press", 2.0)
    assert kept in box.writer.stored("press")


def test_a_read_only_var_is_said_in_one_line(box: Appliance) -> None:
    box.sh("systemctl stop edgepaas.service edgepaas.socket && sync")
    box.sh("mount --bind /var /var && mount -o remount,ro,bind /var")
    box.exec("systemctl", "start", "edgepaas.socket", "edgepaas", check=False, timeout=90)

    def said_or_served() -> bool:
        said = box.journal("-b", "-u", "edgepaas*", "-p", "warning")
        told = "ead-only file system" in said or "not writable" in said
        return told or box.client.state().get("status") == 200

    assert until(said_or_served, "a box that says it, or that serves", 60)
    box.sh("umount -l /var || mount -o remount,rw,bind /var")
    box.client.wait_ready(120, word="standalone")


def test_a_corrupt_sqlite_file_is_put_aside_and_the_box_is_up(box: Appliance) -> None:
    box.writer.write("press", 1.0)
    box.sh("systemctl stop edgepaas.service edgepaas.socket")
    database = box.path("/var/lib/edgepaas/edgepaas.db")
    with database.open("r+b") as file:
        file.write(b"this is no database" * 400)
    box.sh("systemctl start edgepaas.socket edgepaas")
    box.client.wait_ready()
    quarantined = list(box.path("/var/lib/edgepaas/quarantine").iterdir())
    assert quarantined
    assert "quarantine" in box.journal("-b", "-u", "edgepaas-schema", "-p", "warning")
    assert box.writer.write("press", 2.0) in box.writer.stored("press")


def test_a_box_without_a_machine_id_and_without_any_network_starts(box: Appliance) -> None:
    box.poweroff()
    box.path("/etc/machine-id").unlink()
    box.path("/etc/resolv.conf").unlink(missing_ok=True)
    box.boot()
    assert box.client.wait_ready()["state"] == "standalone"


def test_a_clock_of_1970_keeps_nothing_from_starting(box: Appliance) -> None:
    """Injected into every Python process of the package; systemd's own clock stays right."""
    package = box.path("/usr/share/edgepaas/lib/edgepaas/__init__.py")
    package.write_text(package.read_text() + OLD_CLOCK)
    assert box.restart()["state"] in ("standalone", "degraded")
    system = box.client.get("/health/system").body
    assert system["clock"]["trusted"] is False
    assert "1970" in system["clock"]["message"]
    written = box.writer.write("press", 1.0)
    assert written in box.writer.stored("press")


def test_lost_folders_are_made_again(box: Appliance) -> None:
    """An operator's rm -rf of state, logs and spool: a fresh box, not a dead one."""
    box.sh("systemctl stop edgepaas.service edgepaas.socket")
    box.sh("rm -rf /var/lib/edgepaas /var/log/edgepaas /run/edgepaas")
    box.sh("systemctl start edgepaas.socket edgepaas")
    assert box.client.wait_ready()["state"] == "standalone"
    assert integrity(box.path("/var/lib/edgepaas/edgepaas.db")) == "ok"


def integrity(database: Path) -> str:
    """Return what SQLite's quick_check says of the file."""
    connection = sqlite3.connect(f"file:{database}?mode=ro", uri=True)
    try:
        return str(connection.execute("PRAGMA quick_check").fetchone()[0])
    finally:
        connection.close()
