# SPDX-License-Identifier: Apache-2.0
"""The unit files: the order of the boot chain, and what keeps a box from dying of it."""

import itertools
import re
from pathlib import Path

import pytest

from edgepaas.supervisor.sidecars import PAUSE, SIDECARS
from edgepaas.supervisor.stage_processes import CHAIN, START_LIMITS

UNITS = Path(__file__).resolve().parents[2] / "systemd"
STAGES = CHAIN[:-1]


class Unit:
    """A unit file: the values of each (section, key), in the order in which they are given."""

    def __init__(self, name: str) -> None:
        self._values: dict[tuple[str, str], list[str]] = {}
        self.sections: list[str] = []
        text = (UNITS / name).read_text(encoding="utf-8").replace("\\\n", " ")
        for line in text.splitlines():
            if line.startswith("["):
                self.sections.append(line.strip("[]"))
            elif "=" in line and not line.startswith("#"):
                key, _, value = line.partition("=")
                self._values.setdefault((self.sections[-1], key), []).append(value)

    def get(self, section: str, key: str) -> str:
        """Return a value that is given once; "" when it is not given."""
        return " ".join(self._values.get((section, key), []))

    def words(self, section: str, key: str) -> list[str]:
        """Return the words of a list, over all lines of it."""
        return self.get(section, key).split()


def unit_of(verb: str) -> str:
    """Return the name of the unit that runs a stage."""
    return "edgepaas.service" if verb == "serve" else f"edgepaas-{verb}.service"


@pytest.mark.parametrize("verb", CHAIN)
def test_each_stage_of_the_chain_has_a_unit_that_runs_it(verb: str) -> None:
    command = Unit(unit_of(verb)).words("Service", "ExecStart")
    assert command[command.index("/usr/bin/edgepaas") + 1] == verb
    assert Unit(unit_of(verb)).words("Service", "ExecStopPost")[-1] == verb


def test_the_units_run_in_the_order_in_which_edgepaas_up_runs_the_stages() -> None:
    for earlier, later in itertools.pairwise(CHAIN):
        assert unit_of(earlier) in Unit(unit_of(later)).words("Unit", "After")
    for number, verb in enumerate(CHAIN):
        after = Unit(unit_of(verb)).words("Unit", "After")
        assert not set(after) & {unit_of(later) for later in CHAIN[number:]}


def test_only_the_service_pulls_the_stages_in_and_requires_none() -> None:
    """With Requires= one failed stage leaves the service dead for good on systemd 252."""
    service = Unit("edgepaas.service")
    assert {unit_of(stage) for stage in STAGES} <= set(service.words("Unit", "Wants"))
    for path in UNITS.glob("*.service"):
        unit = Unit(path.name)
        for key in ("Requires", "BindsTo", "Requisite", "Upholds"):
            assert not unit.get("Unit", key), path.name
        beside = ("edgepaas-sync.service", "edgepaas-alerts.service")
        assert not unit.get("Unit", "PartOf") or path.name in beside
        if path.name != "edgepaas.service":
            assert not unit.get("Unit", "Wants")


@pytest.mark.parametrize("verb", STAGES)
def test_a_stage_runs_afresh_each_time_and_has_a_time_limit(verb: str) -> None:
    stage = Unit(unit_of(verb))
    assert stage.get("Service", "Type") == "oneshot"
    assert not stage.get("Service", "RemainAfterExit")
    assert "Install" not in stage.sections
    assert stage.get("Service", "TimeoutStartSec")


@pytest.mark.parametrize("verb", CHAIN)
def test_edgepaas_up_has_the_time_limits_of_the_units(verb: str) -> None:
    assert float(Unit(unit_of(verb)).get("Service", "TimeoutStartSec")) == START_LIMITS[verb]


@pytest.mark.parametrize("name", [*map(unit_of, CHAIN), "edgepaas.socket", "edgepaas-sync.service"])
def test_nothing_gives_up_for_good(name: str) -> None:
    assert Unit(name).get("Unit", "StartLimitIntervalSec") == "0"


def test_pid_1_reads_no_file_that_the_service_can_replace() -> None:
    """It would read it as root: a link at run/env would show the service any file's content."""
    for path in UNITS.glob("*.service"):
        unit = Unit(path.name)
        assert unit.get("Service", "EnvironmentFile") == "", path.name
        assert unit.get("Service", "LoadCredential") == "", path.name
    service = Unit("edgepaas.service")
    assert service.get("Service", "SuccessExitStatus") == "75"
    assert service.get("Service", "Restart") == "always"


def test_the_service_has_more_time_to_stop_than_its_drain_takes() -> None:
    from edgepaas.settings import SETTINGS

    stop = int(Unit("edgepaas.service").get("Service", "TimeoutStopSec"))
    assert stop > float(SETTINGS["STOP_TIMEOUT"].default)


def test_a_unit_that_ended_may_wait_as_long_as_its_back_off_takes() -> None:
    """TimeoutStopSec= bounds ExecStopPost= too, where the back-off is slept."""
    ended = (UNITS / "ended").read_text(encoding="utf-8")
    stages = [int(number) for number in re.findall(r"wait_longer (\d+) [03]", ended)]
    (service,) = (int(number) for number in re.findall(r"wait_longer (\d+) 1", ended))
    assert stages
    for verb in CHAIN:
        stop = int(Unit(unit_of(verb)).get("Service", "TimeoutStopSec"))
        assert stop > (service if verb == "serve" else max(stages))


def test_what_runs_beside_the_service_in_edgepaas_up_has_a_unit_that_runs_it() -> None:
    for name, *options in SIDECARS:
        unit = Unit(f"edgepaas-{name}.service")
        command = unit.words("Service", "ExecStart")
        assert command[: 2 + len(options[:1])] == ["/usr/bin/edgepaas", name, *options[:1]]


def test_the_drainer_comes_after_the_stages_of_each_round_and_requires_none() -> None:
    """After the schema stage, which may have to swap the file; started by each round."""
    sync = Unit("edgepaas-sync.service")
    assert sync.words("Unit", "After") == [unit_of("schema")]
    assert not sync.get("Unit", "Wants")
    assert "edgepaas-sync.service" in Unit("edgepaas.service").words("Unit", "Wants")
    assert "edgepaas-sync.service" not in Unit("edgepaas.service").words("Unit", "After")
    assert sync.words("Unit", "PartOf") == ["edgepaas.service"]


def test_the_drainer_starts_again_on_75_and_failure_but_not_when_it_has_nothing_to_do() -> None:
    """Exit status 0 means that there is no hub: starting again would only spin."""
    sync = Unit("edgepaas-sync.service")
    assert sync.get("Service", "Restart") == "on-failure"
    assert sync.get("Service", "RestartForceExitStatus") == "75"
    assert sync.get("Service", "SuccessExitStatus") == "75"
    assert float(sync.get("Service", "RestartSec")) >= PAUSE


@pytest.mark.parametrize("verb", (*CHAIN, "sync"))
def test_every_unit_shares_the_folders_and_keeps_them(verb: str) -> None:
    unit = Unit(unit_of(verb))
    assert unit.get("Service", "User") == "edgepaas"
    for kind in ("Runtime", "State", "Logs"):
        assert unit.get("Service", f"{kind}Directory") == "edgepaas"
        mode = unit.get("Service", f"{kind}DirectoryMode")
        assert mode == ("0711" if kind == "Runtime" else "0700")
    assert unit.get("Service", "RuntimeDirectoryPreserve") == "yes"
