# SPDX-License-Identifier: Apache-2.0
"""The same package on Debian 13: systemd 257 and Python 3.13."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.service_process import until
from tests.system.appliance import ENV_FILE, Appliance
from tests.system.client import Writers
from tests.system.roots import base_root


@pytest.fixture(scope="module")
def box(package: Path) -> Iterator[Appliance]:
    """A Debian 13 with the package installed offline."""
    try:
        base_root("trixie")
    except (RuntimeError, subprocess.TimeoutExpired) as error:
        pytest.skip(f"no root of Debian 13 can be had: {str(error)[-300:]}")
    with Appliance("trixie", package, suite="trixie") as installed:
        installed.install()
        yield installed


def test_the_package_serves_on_debian_13(box: Appliance) -> None:
    assert box.client.get("/health/ready").body["state"] == "standalone"
    assert box.status()["state"] == "standalone"
    assert box.show("edgepaas.service", "StatusText").startswith("standalone since ")
    assert box.sh("systemctl --failed --plain --no-legend --no-pager") == ""


def test_a_start_of_a_running_service_skips_the_stages(box: Appliance) -> None:
    before = box.contract()["DB_GENERATION"], box.main_pid()
    box.exec("systemctl", "start", "edgepaas")
    assert (box.contract()["DB_GENERATION"], box.main_pid()) == before


def test_a_new_decision_runs_the_chain_again_and_fails_no_request(box: Appliance) -> None:
    """Exit status 75, a kill and a restart, each under load."""
    with Writers(box.writer) as writers:
        writers.wait_for(20)
        for command in ("edgepaas dbdecide", "systemctl restart edgepaas"):
            pid = box.main_pid()
            box.sh(command)
            box.wait_for_other_pid(pid)
            writers.wait_for(20)
    assert writers.failures == []
    pid = box.main_pid()
    box.sh(f"kill -9 {pid}")
    box.wait_for_other_pid(pid)
    assert not set(writers.acknowledged) - set(box.writer.stored("load"))


def test_a_failed_stage_is_tried_again_and_heals(box: Appliance) -> None:
    good = box.path(ENV_FILE).read_text()
    starts = box.starts()
    box.configure(BOTH_DB="false")
    box.exec("systemctl", "restart", "edgepaas", check=False, timeout=90)
    until(
        lambda: box.journal("-b", "-u", "edgepaas-env").count("BOTH_DB") >= 2,
        "it to be tried again",
        90,
    )
    assert box.starts() == starts
    box.write(ENV_FILE, good)
    box.client.wait_ready(60, word="standalone")
