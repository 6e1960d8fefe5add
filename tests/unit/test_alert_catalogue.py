# SPDX-License-Identifier: Apache-2.0
"""The alert catalogue is complete: what is raised stands in it, and each check has a function."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from edgepaas.alerts import catalogue
from edgepaas.alerts.catalogue import CATALOGUE, DISK_BUDGET, SETTING, SYNC_FORK, UNIT, find_entry
from edgepaas.alerts.catalogue_checks import CHECKS
from edgepaas.alerts.catalogue_entry import CatalogueEntry
from edgepaas.alerts.spool.quota import OVERFLOW
from edgepaas.cli import main
from edgepaas.files.paths import Paths
from edgepaas.health.state import StateBoard
from edgepaas.service.watches.condition_checks import ServiceChecks
from edgepaas.settings import Settings
from edgepaas.timing.task_registry import FINGERPRINT_PREFIX
from tests.support.telemetry_box import contract_for

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "edgepaas"

#: Where an alert may be raised beside the catalogue, and why.
BESIDE = {
    "alerts": "raises what its callers ask for",
    "app": "an application's alerts have fingerprints of its own",
    "telemetry": "an application",
    "service/watches/conditions.py": "takes fingerprints from the entries of what it watches",
    "service/run.py": "hands both to the registry of tasks: task:*, or an application's own",
}
#: Checks that are asked elsewhere than in the service's review, and by whom; each is tried
#: by a scenario of test_alerts_end_by_themselves.
ASKED_ELSEWHERE = {"settings-in-order", "watched-and-well"}


@cache
def modules() -> tuple[tuple[str, ast.Module], ...]:
    return tuple(
        (str(path.relative_to(PACKAGE)), ast.parse(path.read_text(encoding="utf-8")))
        for path in sorted(PACKAGE.rglob("*.py"))
    )


def is_beside(name: str) -> bool:
    return any(name == place or name.startswith(f"{place}/") for place in BESIDE)


def test_the_platform_raises_and_resolves_through_the_catalogue_alone() -> None:
    found = [
        f"{name}: {alias.name}"
        for name, tree in modules()
        if not is_beside(name)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module == "edgepaas.alerts"
        for alias in node.names
        if alias.name in ("raise_alert", "resolve_alert")
    ]
    assert not found


def test_every_entry_is_used_and_every_use_is_an_entry() -> None:
    used: set[str] = set()
    for _, tree in modules():
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module == "edgepaas.alerts.catalogue":
                used |= {alias.name for alias in node.names}
    entries = {name for name, one in vars(catalogue).items() if isinstance(one, CatalogueEntry)}
    assert entries - used == {"TASK"}  # raised by the registry of tasks, which lies below
    assert catalogue.TASK.prefix == FINGERPRINT_PREFIX
    assert {vars(catalogue)[name].pattern for name in entries} == {e.pattern for e in CATALOGUE}


def test_no_fingerprint_is_two_entries() -> None:
    for entry in CATALOGUE:
        fingerprint = entry.pattern.replace("*", "x")
        assert [one.pattern for one in CATALOGUE if one.covers(fingerprint)] == [entry.pattern]
        assert find_entry(fingerprint) is entry


def test_each_check_is_named_described_and_asked(paths: Paths) -> None:
    named = {entry.check for entry in CATALOGUE if entry.check}
    assert named == set(CHECKS)
    checks = ServiceChecks(
        paths, Settings.of(), contract_for(paths, None), lambda: None,
        StateBoard(contract_for(paths, None)),
    ).by_name()  # fmt: skip
    assert set(checks) | ASKED_ELSEWHERE == named
    assert not set(checks) & ASKED_ELSEWHERE


@pytest.mark.parametrize("entry", CATALOGUE, ids=lambda entry: entry.pattern)
def test_each_entry_says_what_happened_and_what_to_do_in_whole_sentences(
    entry: CatalogueEntry,
) -> None:
    for text in (entry.what_happened, entry.what_to_do):
        assert text.endswith(".")
        assert text[0].isupper() or text[0] == "'"


def test_what_is_not_in_the_catalogue_is_an_error() -> None:
    with pytest.raises(ValueError, match="fit together"):
        SYNC_FORK.raise_alert("it happened", subject="x")
    with pytest.raises(ValueError, match="fit together"):
        SETTING.raise_alert("it is wrong")
    with pytest.raises(ValueError, match="never info"):
        DISK_BUDGET.raise_alert("it is full", severity="info")


def test_the_units_raise_under_the_name_that_the_catalogue_has() -> None:
    script = (ROOT / "systemd/ended").read_text(encoding="utf-8")
    fingerprint = re.search(r'--fingerprint "([^"]+)"', script)
    severity = re.search(r"alert --severity (\w+)", script)
    assert fingerprint is not None
    assert severity is not None
    assert fingerprint[1].replace("$verb", "*") == UNIT.pattern
    assert severity[1] == UNIT.severity


def test_what_the_spool_has_no_room_for_is_counted_under_its_entry() -> None:
    assert catalogue.ALERTS_WITHOUT_ROOM.pattern == OVERFLOW


def test_the_page_of_the_documents_is_what_the_catalogue_says(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["alerts", "catalogue", "--markdown"]) == 0
    written = (ROOT / "docs/alerts.md").read_text(encoding="utf-8")
    assert written == capsys.readouterr().out, (
        "docs/alerts.md is behind the catalogue: run 'edgepaas alerts catalogue --markdown "
        "> docs/alerts.md'"
    )
