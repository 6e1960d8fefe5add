# SPDX-License-Identifier: Apache-2.0
"""The units of alerting, and the one script that raises an alert for every other unit."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from edgepaas.alerts.spool.checksummed_json import read_checksummed
from edgepaas.files.locks import held
from edgepaas.files.paths import Paths
from edgepaas.service.crash_loop import CrashLoop

ROOT = Path(__file__).resolve().parents[2]
UNITS = ROOT / "systemd"


def unit(name: str) -> str:
    return (UNITS / name).read_text(encoding="utf-8")


def test_the_timer_starts_it_only_when_there_is_something_to_do_and_says_nothing_else() -> None:
    """A line each minute that there is nothing to do would fill the journal."""
    due = unit("edgepaas-alerts-due.service")
    assert re.findall(r"^Condition\w+=(\|.*)$", due, flags=re.MULTILINE) == [
        "|/var/spool/edgepaas/alerts/waiting",
        "|/run/edgepaas/spool/alerts/waiting",
        "|!/run/edgepaas/alerts.json",
    ]
    assert "OnSuccess=edgepaas-alerts.service" in due
    assert "LogLevelMax=notice" in due
    assert "Unit=edgepaas-alerts-due.service" in unit("edgepaas-alerts.timer")
    for name in ("edgepaas-alerts.service", "edgepaas-alerts-due.service"):
        assert "Type=oneshot" in unit(name)
        assert "[Install]" not in unit(name)
        assert "StartLimitIntervalSec=0" in unit(name)
    assert "Condition" not in unit("edgepaas-alerts.service")
    assert "LogLevelMax" not in unit("edgepaas-alerts.service")


def test_an_accepted_alert_starts_it_and_so_does_the_clock() -> None:
    assert "DirectoryNotEmpty=/var/spool/edgepaas/alerts/new" in unit("edgepaas-alerts.path")
    # OnUnitInactiveSec= would end with the first start that a condition skips.
    assert "OnCalendar=minutely" in unit("edgepaas-alerts.timer")
    for name in ("edgepaas-alerts.path", "edgepaas-alerts.timer"):
        assert "[Install]" in unit(name)
        assert f"enable {name}" in unit("edgepaas.preset")


def test_its_sandbox_is_that_of_the_other_units() -> None:
    def sandbox(name: str) -> str:
        return unit(name).partition("NoNewPrivileges")[2]

    assert sandbox("edgepaas-alerts.service") == sandbox("edgepaas-env.service")


class TestEnded:
    """``systemd/ended`` with its two paths of an installed box turned to this test's."""

    @pytest.fixture
    def ended(self, paths: Paths, tmp_path: Path) -> Path:
        command = tmp_path / "edgepaas"
        command.write_text(
            f'#!/bin/sh\nEDGEPAAS_HOME={paths.home} exec {sys.executable} -m edgepaas "$@"\n'
        )
        command.chmod(0o755)
        script = tmp_path / "ended"
        text = unit("ended").replace("/usr/bin/edgepaas", str(command))
        script.write_text(text.replace("/var/spool/edgepaas/alerts", str(paths.alerts)))
        return script

    def run(self, script: Path, paths: Paths, verb: str, result: str, status: str) -> str:
        found = subprocess.run(
            ["/bin/sh", str(script), verb],
            env={
                "PATH": os.environ["PATH"],
                "RUNTIME_DIRECTORY": str(paths.runtime),
                "SERVICE_RESULT": result,
                "EXIT_CODE": "exited",
                "EXIT_STATUS": status,
            },
            cwd=ROOT,
            check=True,
            capture_output=True,
            text=True,
        )
        return found.stdout

    def alerts(self, paths: Paths) -> list[tuple[str, str]]:
        new = paths.alerts / "new"
        found = [read_checksummed(path) for path in sorted(new.iterdir())] if new.is_dir() else []
        return [(entry["what"], entry["fingerprint"]) for entry in found]

    @pytest.mark.parametrize(
        ("verb", "result", "status"),
        [
            ("env", "exit-code", "78"),
            ("schema", "timeout", "TERM"),
            ("serve", "oom-kill", "KILL"),
            ("sync", "exit-code", "1"),
        ],
    )
    def test_a_unit_that_failed_raises_an_alert_and_resolves_it_when_it_ends_well(
        self, ended: Path, paths: Paths, verb: str, result: str, status: str
    ) -> None:
        for contract in (paths.env_contract, paths.db_contract):
            contract.touch()
        assert "journalctl -u edgepaas" in self.run(ended, paths, verb, result, status)
        assert self.alerts(paths) == [("raised", f"unit {verb}")]
        self.run(ended, paths, verb, "success", "0")
        # The service's own end says nothing of whether it is well: it resolves it when ready.
        over = [] if verb == "serve" else [("resolved", f"unit {verb}")]
        assert self.alerts(paths)[1:] == over

    def test_a_stage_that_was_skipped_under_a_running_service_raises_none(
        self, ended: Path, paths: Paths
    ) -> None:
        """'systemctl restart edgepaas-env', and at once a restart: the service was gone by then."""
        for contract in (paths.env_contract, paths.db_contract):
            contract.touch()
        (condition,) = re.findall(
            r"ExecCondition=/bin/sh -c '(.*?)'\n", unit("edgepaas-env.service"), re.DOTALL
        )
        condition = condition.replace("\\\n", "").replace("/run/edgepaas", str(paths.runtime))
        with held(paths.serving_lock):
            assert subprocess.run(["/bin/sh", "-c", condition], check=False).returncode == 1
        self.run(ended, paths, "env", "exec-condition", "")
        assert self.alerts(paths) == []
        assert paths.env_contract.exists()
        assert subprocess.run(["/bin/sh", "-c", condition], check=False).returncode == 0
        # Once more, without the condition having run at all: its sandbox could not be made.
        assert "sandbox" in self.run(ended, paths, "env", "exec-condition", "")
        assert self.alerts(paths) == [("raised", "unit env")]

    @pytest.mark.parametrize("verb", ["schema", "serve", "sync"])
    def test_deciding_again_raises_none(self, ended: Path, paths: Paths, verb: str) -> None:
        for contract in (paths.env_contract, paths.db_contract):
            contract.touch()
        self.run(ended, paths, verb, "success", "75")
        assert self.alerts(paths) == []

    def test_a_service_that_answered_for_a_stage_that_failed_is_no_failure_of_its_own(
        self, ended: Path, paths: Paths
    ) -> None:
        """Seen on a box: for 20 s after each answer nobody was at the port, and a false alert."""
        for number in range(4):  # rounds of the chain; none waits, since nobody answers then
            for contract in (paths.env_contract, paths.db_contract):
                contract.touch()
            assert "waiting" not in self.run(ended, paths, "schema", "exit-code", "78")
            assert not paths.db_contract.exists()
            CrashLoop(paths.crash_loop, clock=lambda: 1000.0).failed()
            counted = (paths.runtime / "chain-failures").stat().st_mtime + 1 + number
            os.utime(paths.crash_loop, (counted, counted))
            assert self.run(ended, paths, "serve", "exit-code", "1") == ""
        assert set(self.alerts(paths)) == {("raised", "unit schema")}
        # One that ends before it can answer is one, and waits by this script; but not where
        # 'unloadable' has answered in its place.
        os.utime(paths.crash_loop, (1.0, 1.0))
        for _ in range(3):
            (paths.runtime / "answered").touch()
            assert "waiting" not in self.run(ended, paths, "serve", "exit-code", "1")
        assert "the service ended" in self.run(ended, paths, "serve", "exit-code", "1")

    def test_it_fails_no_unit_when_no_alert_can_be_raised(self, ended: Path, paths: Paths) -> None:
        (ended.parent / "edgepaas").unlink()
        assert "no alert could be raised" in self.run(ended, paths, "sync", "signal", "SEGV")
