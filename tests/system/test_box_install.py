# SPDX-License-Identifier: Apache-2.0
"""What an operator sees after ``apt install ./edgepaas.deb`` on a box without a network."""

import json
import os
import re
import time

import pytest

from tests.support.service_process import until
from tests.system.appliance import Appliance

ACTIVE = ("edgepaas.service", "edgepaas.socket", "edgepaas-alerts.path", "edgepaas-alerts.timer")
#: Ends by itself, content, on a box that has no PostgreSQL to forward rows to.
SYNC = "edgepaas-sync.service"
#: Runs for what was accepted, and ends; the timer asks the other whether it is to.
DELIVERY = "edgepaas-alerts.service"
DUE = "edgepaas-alerts-due.service"
STAGES = ("edgepaas-env.service", "edgepaas-dbdecide.service", "edgepaas-schema.service")


@pytest.fixture(scope="module")
def box(fresh: Appliance) -> Appliance:
    """The box that this module looks at."""
    return fresh


def test_an_offline_install_leads_to_a_ready_service(box: Appliance) -> None:
    """The figures are for the README; the limit is generous on a shared machine."""
    answer = box.client.get("/health/ready")
    assert answer.status == 200
    since = int(box.show("edgepaas.service", "ActiveEnterTimestampMonotonic"))
    first = int(box.show("edgepaas-env.service", "InactiveExitTimestampMonotonic"))
    memory = box.sh(f"grep VmRSS /proc/{box.main_pid()}/status").split()[1]
    size = box.sh("dpkg-query -W -f '${Installed-Size}' edgepaas")
    print(
        f"chain to ready {(since - first) / 1e6:.2f} s, {int(memory) / 1024:.0f} MiB resident, "
        f"package {box.package.stat().st_size / 1e6:.1f} MB, installed {int(size) / 1024:.1f} MiB"
    )
    assert 0 < since - first < 60e6


def test_every_place_that_names_the_state_says_the_same_word(box: Appliance) -> None:
    ready = box.client.get("/health/ready").body
    status_line = box.show("edgepaas.service", "StatusText")
    spoken = box.sh("edgepaas status")
    assert ready["state"] == "standalone"
    assert status_line.startswith(f"{ready['state']} since ")
    assert box.status()["state"] == ready["state"]
    assert re.search(rf"\b{ready['state']}\b", spoken)
    assert status_line in box.sh("systemctl status --no-pager edgepaas")


def test_the_status_line_names_the_build(box: Appliance) -> None:
    version = box.sh("edgepaas --version").split()[1]
    assert version in box.show("edgepaas.service", "StatusText")
    assert version in json.dumps(box.client.get("/").body)


def test_nothing_of_the_system_has_failed(box: Appliance) -> None:
    assert box.sh("systemctl --failed --plain --no-legend --no-pager") == ""
    assert box.exec("systemctl", "is-system-running").stdout.strip() == "running"
    for unit in ACTIVE:
        assert box.show(unit, "ActiveState") == "active"
    for unit in (*ACTIVE, SYNC):
        assert box.exec("systemctl", "is-enabled", unit).stdout.strip() == "enabled"
    for unit in (*STAGES, SYNC, DELIVERY, DUE):
        assert box.show(unit, "Result") == "success"
    for unit in (*STAGES, DELIVERY, DUE):
        assert box.exec("systemctl", "is-enabled", unit, check=False).stdout.strip() == "static"


def test_without_a_database_server_and_without_alerts_nothing_but_the_service_is_resident(
    box: Appliance,
) -> None:
    """Sync says that there is nothing to forward and ends; it is not started over and over."""
    said = box.journal("-b", "-u", SYNC)
    assert "no PostgreSQL" in said
    starts = said.count("Started edgepaas-sync")
    assert 1 <= starts <= 3, said
    # The timer may have started a delivery a moment ago: it ends, and leaves nothing.
    deadline = time.monotonic() + 60
    while (found := _beside_the_service(box)) and time.monotonic() < deadline:
        time.sleep(0.5)
    assert found == []


def _beside_the_service(box: Appliance) -> list[str]:
    """What runs of the box's besides its service: units, and processes."""
    units = [
        f"{unit} {box.show(unit, 'ActiveState')}"
        for unit in (SYNC, DELIVERY, DUE)
        if (box.show(unit, "ActiveState"), box.show(unit, "MainPID")) != ("inactive", "0")
    ]
    processes = box.sh("ps -eo user:20,args | grep ^edgepaas").splitlines()
    return units + [line for line in processes if "edgepaas serve" not in line]


def test_the_journal_holds_nothing_to_be_ashamed_of(box: Appliance) -> None:
    """No traceback, and nothing that the sandbox refused."""
    journal = box.journal("-b", "-u", "edgepaas*")
    for word in ("Traceback", "Operation not permitted", "Permission denied", "EPERM"):
        assert word not in journal
    assert box.journal("-b", "-u", "edgepaas*", "-p", "warning") == ""


def test_the_journal_carries_priorities(box: Appliance) -> None:
    """A line of level INFO is not an error in the journal, and no prefix is left in its text."""
    lines = box.journal("-b", "-u", "edgepaas.service", "-o", "json").splitlines()
    entries = [json.loads(line) for line in lines]
    info = [entry for entry in entries if "level=INFO" in str(entry["MESSAGE"])]
    assert info
    assert {entry["PRIORITY"] for entry in info} == {"6"}
    assert not [entry for entry in entries if str(entry["MESSAGE"]).startswith("<")]


def test_starting_a_running_service_again_disturbs_nothing(box: Appliance) -> None:
    """The stages are pulled in by a start; under a running service they skip themselves."""
    before = box.contract()["DB_GENERATION"], box.main_pid()
    box.exec("systemctl", "start", "edgepaas")
    box.exec("systemctl", "start", "edgepaas-env", "edgepaas-dbdecide", "edgepaas-schema")
    assert (box.contract()["DB_GENERATION"], box.main_pid()) == before
    assert box.client.get("/health/ready").status == 200


def test_reload_reads_the_log_level_again_and_keeps_the_process(box: Appliance) -> None:
    pid = box.main_pid()
    box.exec("systemctl", "reload", "edgepaas")
    assert box.main_pid() == pid
    # 'reload' sends a signal: systemd is content when it is sent.
    until(lambda: "reloaded" in box.journal("-b", "-u", "edgepaas.service"), "a reload", 60)
    assert box.show("edgepaas.service", "StatusText").startswith("standalone since ")


def test_psutil_works_inside_the_sandbox(box: Appliance) -> None:
    """CPU, memory and disk have figures: /proc and /sys are not hidden from the unit."""
    answer = box.client.get("/health/system")
    assert answer.status in (200, 503)
    for name in ("cpu", "memory", "disk"):
        assert 0 <= answer.body[name]["value"] <= 100


def test_the_units_are_valid_and_tightly_sandboxed(box: Appliance) -> None:
    verified = box.exec(
        "systemd-analyze", "verify", "--man=no", *ACTIVE, SYNC, *STAGES, check=False
    )
    assert (verified.returncode, verified.stderr.strip()) == (0, "")
    for unit in ("edgepaas.service", SYNC, DELIVERY, DUE, *STAGES):
        path = f"/lib/systemd/system/{unit}"
        printed = box.exec("systemd-analyze", "security", "--offline=true", path).stdout
        level = re.search(r"exposure level for .*: ([0-9.]+)", printed)
        assert level is not None
        assert float(level[1]) <= 1.5, printed


def test_the_sandboxed_service_holds_itself_to_one_core(box: Appliance) -> None:
    """The filter of system calls lets it; its stages and what runs beside it stay free."""
    threads = box.sh(
        f"for task in /proc/{box.main_pid()}/task/*; do grep Cpus_allowed_list $task/status; done"
    )
    allowed = {line.split()[1] for line in threads.splitlines()}
    if os.cpu_count() == 1:
        assert allowed == {"0"}
    else:
        assert len(allowed) == 1
        assert allowed.pop().isdigit()
        assert "held to core" in box.journal("-b", "-u", "edgepaas.service")


def test_host_and_port_of_the_settings_reach_the_socket(box: Appliance) -> None:
    kept = box.path("/etc/edgepaas/edgepaas.env").read_text()
    try:
        box.configure(PORT="9099", HOST="127.0.0.1")
        box.sh("systemctl daemon-reload && systemctl stop edgepaas edgepaas.socket")
        box.sh("systemctl start edgepaas.socket edgepaas")
        client = box.client
        client.port = 9099
        assert client.wait_ready()["state"] == "standalone"
        assert "127.0.0.1:9099" in box.show("edgepaas.socket", "Listen")
        assert box.status()["state"] == "standalone", "any user finds the port"
    finally:
        box.write("/etc/edgepaas/edgepaas.env", kept)
        box.sh("systemctl daemon-reload && systemctl stop edgepaas edgepaas.socket")
        box.sh("systemctl start edgepaas.socket edgepaas")
        box.client.wait_ready()
