# SPDX-License-Identifier: Apache-2.0
"""The rules for Prometheus: valid, tested by promtool, and about metrics that exist."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from edgepaas.cli import COMMANDS
from edgepaas.outbox.forwarding_state import DECLARATIONS

REPOSITORY = Path(__file__).resolve().parents[2]
MONITORING = REPOSITORY / "packaging" / "monitoring"
#: The page's source, and the names of the metrics that it makes of declarations.
METRICS = (REPOSITORY / "edgepaas/web/views/metrics.py").read_text(encoding="utf-8") + "".join(
    f'"sync_{one.name}"' for one in DECLARATIONS if one.metric
)

Rule = dict[str, Any]


def rules(name: str) -> list[Rule]:
    groups = yaml.safe_load((MONITORING / name).read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


RECORDING, ALERTING = rules("recording.yml"), rules("alerting.yml")
needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not installed"
)


def tool(*command: str) -> str:
    """Run a tool that must be content; return what it printed."""
    done = subprocess.run(command, cwd=MONITORING, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@needs_promtool
@pytest.mark.parametrize(
    "arguments",
    [
        ("check", "rules", "recording.yml", "alerting.yml"),
        ("check", "config", "prometheus.yml"),
        ("test", "rules", "rules.test.yml"),
    ],
    ids=" ".join,
)
def test_promtool_is_content(arguments: tuple[str, ...]) -> None:
    assert "SUCCESS" in tool("promtool", *arguments)


@pytest.mark.skipif(shutil.which("amtool") is None, reason="amtool is not installed")
def test_amtool_is_content() -> None:
    assert "SUCCESS" in tool("amtool", "check-config", "alertmanager.yml")


@pytest.mark.parametrize("rule", ALERTING, ids=lambda rule: rule["alert"])
def test_an_alert_says_how_bad_it_is_what_happened_and_what_to_do(rule: Rule) -> None:
    assert rule["labels"]["severity"] in ("warning", "critical")
    assert set(rule["annotations"]) == {"summary", "action"}
    assert "instance" in rule["annotations"]["summary"]
    for command in re.findall(r"\bedgepaas ([a-z]+)", rule["annotations"]["action"]):
        assert command in COMMANDS


@pytest.mark.parametrize(
    "rule", [*RECORDING, *ALERTING], ids=lambda rule: rule.get("alert") or rule["record"]
)
def test_a_rule_asks_for_metrics_that_a_box_or_another_rule_gives(rule: Rule) -> None:
    """By the words of the page's source: a metric that is renamed there is noticed here."""
    recorded = {other["record"] for other in RECORDING}
    for name in re.findall(r"\b(?:[a-z_]+:)?edgepaas_[a-z0-9_]+(?::[a-z0-9_]+)?", rule["expr"]):
        if ":" in name:
            assert name in recorded
            continue
        word = name.removeprefix("edgepaas_")
        word = re.sub(r"_(total|bucket|count|sum|info)$", "", word)
        known = _words(word)
        assert any(f'"{form}"' in METRICS or f"_{form}" in METRICS for form in known), name


def _words(word: str) -> set[str]:
    """The ways in which the page's source may spell a name that is put together there."""
    forms = {word, f"edgepaas_{word}"}
    if match := re.fullmatch(r"sync_(\w+?)(?:_timestamp_seconds)?", word):
        forms |= {match[1], f"sync_{match[1]}"}
    if match := re.fullmatch(r"(\w+?)(_threshold)?(_used_ratio|_celsius)", word):
        forms |= {match[3].lstrip("_")}
    return forms


def test_every_alert_that_a_person_is_woken_for_is_tested() -> None:
    tests = yaml.safe_load((MONITORING / "rules.test.yml").read_text(encoding="utf-8"))["tests"]
    tested = {
        case["alertname"]
        for test in tests for case in test.get("alert_rule_test", []) if case["exp_alerts"]
    }  # fmt: skip
    critical = {rule["alert"] for rule in ALERTING if rule["labels"]["severity"] == "critical"}
    missing = critical - tested - {"EdgePaaSRowsLostByHub"}  # it is EdgePaaSDeadLetters' twin
    assert not missing
