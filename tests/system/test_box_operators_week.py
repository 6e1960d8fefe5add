# SPDX-License-Identifier: Apache-2.0
"""What an operator meets in the first week, on the booted box: broken, backed up, restored."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.service_process import until
from tests.system.appliance import ENV_FILE, Appliance
from tests.system.client import Writers

TREE = "/usr/share/edgepaas/lib/edgepaas"
BACKUP = "/root/box.backup"


@pytest.fixture(scope="module")
def box(installed: Appliance) -> Iterator[Appliance]:
    """One box for all tests of this file, each of which leaves it serving."""
    with Appliance("week", installed.package, template=installed) as box:
        box.client.wait_ready()
        yield box


def refused_with(box: Appliance, reason: str) -> None:
    """Wait for 503 with *reason* at the port, then see that nobody is kept waiting."""
    until(lambda: reason in str(box.client.state().get("reasons")), f"503 with {reason}")
    assert box.client.state()["status"] == 503
    answer = box.client.request("POST", "/api/v1/readings", {"value": 1}, timeout=60)
    assert answer.status == 503
    assert reason not in str(answer.body), "the reason may name paths: it is for probes"


def findings(box: Appliance) -> str:
    return box.exec("edgepaas", "doctor", check=False, timeout=120).stdout


def test_a_wrong_application_is_answered_with_the_reason_and_mended_by_its_setting(
    box: Appliance,
) -> None:
    """The port was silent between answers, and doctor advised to move it."""
    before = box.path(ENV_FILE).read_text()
    box.configure(EDGEPAAS_APP="nosuch:thing")
    box.exec("systemctl", "restart", "edgepaas", check=False, timeout=90)
    refused_with(box, "EDGEPAAS_APP=nosuch:thing")
    said = findings(box)
    assert re.search(r"FAIL  application .*nosuch.*\n +-> correct EDGEPAAS_APP", said)
    assert "set another PORT" not in said
    box.write(ENV_FILE, before)  # and no restart: the box sees it
    box.client.wait_ready()
    assert "the service ended" not in box.journal("-b", "-u", "edgepaas.service")


@pytest.mark.parametrize("module", ["web/__init__.py", "cli/__init__.py"])
def test_a_torn_package_is_answered_with_the_reason(box: Appliance, module: str) -> None:
    """Its own code, or the command itself."""
    file = f"{TREE}/{module}"
    whole = box.path(file).read_text()
    box.write(file, f"{whole}\ndef torn(\n")
    box.exec("systemctl", "restart", "edgepaas", check=False, timeout=90)
    refused_with(box, "--reinstall")
    box.write(file, whole)
    assert box.client.wait_ready()


def test_a_masked_stage_is_a_condition(box: Appliance) -> None:
    """It was ignored until a reboot."""
    box.exec("systemctl", "mask", "edgepaas-schema.service")
    try:
        until(lambda: "edgepaas-schema" in str(box.client.state().get("reasons")), "the reason")
        assert box.client.state()["state"] == "degraded"
        assert "systemctl unmask edgepaas-schema" in findings(box)
    finally:
        box.exec("systemctl", "unmask", "edgepaas-schema.service")
    box.client.wait_ready(120, word="standalone")


def test_a_stage_restarted_by_hand_raises_nothing(box: Appliance) -> None:
    """'systemctl restart edgepaas-env', and at once the restart that it was meant for."""
    box.exec("systemctl", "restart", "edgepaas-env", check=False)
    box.restart(word="standalone")
    listed = box.exec("edgepaas", "alerts", "list").stdout
    assert "unit env" not in listed and "critical" not in listed, listed


def test_a_box_is_backed_up_while_it_writes_wiped_and_restored(box: Appliance) -> None:
    """Its folders lie in the lower layer of an overlay, which lets none of them be renamed."""
    with Writers(box.writer, patient=True) as writers:
        writers.wait_for(30)
        before = set(writers.acknowledged)
        box.exec("edgepaas", "backup", BACKUP, timeout=120)
        writers.wait_for(10)
    assert "verified" in box.exec("edgepaas", "backup", "--verify", BACKUP).stdout
    box.exec("systemctl", "stop", "edgepaas.socket", "edgepaas", "edgepaas-sync")
    box.sh("rm -rf /var/lib/edgepaas/*")
    box.exec("edgepaas", "restore", "--yes", BACKUP, timeout=120)
    again = box.exec("edgepaas", "restore", "--yes", BACKUP, timeout=120)
    assert "restored" in again.stdout
    box.exec("systemctl", "start", "edgepaas.socket", "edgepaas")
    box.client.wait_ready(word="standalone")
    stored = box.writer.stored("load")  # its token came back, too
    assert len(stored) == len(set(stored))
    assert before <= set(stored) <= set(writers.acknowledged)
    assert "state-lost" not in box.exec("edgepaas", "alerts", "list").stdout
    assert Path(BACKUP).name not in box.sh("ls -a /var/lib/edgepaas")
