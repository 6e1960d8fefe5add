# SPDX-License-Identifier: Apache-2.0
"""What a person reads at a terminal is in the zone of TZ, with its offset; all else is UTC."""

import ast
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from edgepaas.alerts import raise_alert
from edgepaas.files.local_time import people_time, zone_named
from edgepaas.files.paths import Paths
from tests.support.in_process import edgepaas_here
from tests.support.one_box import chain_runs

ROOT = Path(__file__).resolve().parents[2]
BERLIN = "Europe/Berlin"


@pytest.mark.parametrize(
    ("zone", "value", "shown"),
    [
        ("UTC", "2026-01-31T12:00:00Z", "2026-01-31 12:00:00 +00:00"),
        (BERLIN, "2026-01-31T12:00:00Z", "2026-01-31 13:00:00 +01:00"),
        (BERLIN, "2026-07-31T12:00:00.123456+00:00", "2026-07-31 14:00:00 +02:00"),
        ("Asia/Kathmandu", "2026-01-31 12:00:00", "2026-01-31 17:45:00 +05:45"),
        ("America/St_Johns", datetime(2026, 1, 31, 12, tzinfo=UTC), "2026-01-31 08:30:00 -03:30"),
        # The hour that comes twice is told apart by its offset.
        (BERLIN, "2026-10-25T00:30:00Z", "2026-10-25 02:30:00 +02:00"),
        (BERLIN, "2026-10-25T01:30:00Z", "2026-10-25 02:30:00 +01:00"),
        (BERLIN, "0001-01-01T00:00:00Z", "0001-01-01 00:53:28 +00:53"),
        ("America/New_York", "0001-01-01T00:00:00Z", "0001-01-01 00:00:00 +00:00"),
        (BERLIN, "never", "never"),
        (BERLIN, "", ""),
        (BERLIN, None, ""),
        ("No/Where", "2026-01-31T12:00:00Z", "2026-01-31 12:00:00 +00:00"),
    ],
)
def test_a_time_is_shown_with_its_offset(zone: str, value: object, shown: str) -> None:
    """Summer and winter, odd offsets, either end of time, what is none."""
    if zone not in {"No/Where", "UTC"} and zone_named(zone) is UTC:
        pytest.skip("no database of zones here")
    assert people_time(zone_named(zone))(value) == shown


def test_without_contracts_it_is_utc(paths: Paths) -> None:
    """As for a user who may not read them."""
    assert people_time()("2026-01-31T12:00:00Z") == "2026-01-31 12:00:00 +00:00"


def test_commands_print_it_and_json_stays_utc(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tokens, alerts, and what was written down are one moment in both forms."""
    monkeypatch.setenv("TZ", "Asia/Kathmandu")
    assert chain_runs() == 0
    if zone_named("Asia/Kathmandu") is UTC:
        pytest.skip("no database of zones here")
    assert edgepaas_here("token", "create", "press").returncode == 0
    raise_alert("a test", fingerprint="test")
    assert edgepaas_here("alerts", "deliver").returncode in {0, 1}
    cases: list[tuple[tuple[str, ...], Callable[[Any], str]]] = [
        (("token", "list"), lambda found: found[0]["created_at"]),
        (("alerts", "list", "--all"), lambda found: found["conditions"][0]["since_time"]),
        (("alerts", "history"), lambda found: found[-1]["time"]),
    ]
    for words, place in cases:
        text, document = edgepaas_here(*words), edgepaas_here(*words, "--json")
        moment = datetime.fromisoformat(place(json.loads(document.stdout)))
        assert not moment.utcoffset(), words
        assert people_time(zone_named("Asia/Kathmandu"))(moment) in text.stdout, words
        assert "+05:45" in text.stdout


def test_no_command_makes_local_times_of_its_own() -> None:
    """One place decides how a person reads a time."""
    for path in sorted((ROOT / "edgepaas" / "cli").rglob("*.py")):
        called = {
            node.func.attr
            for node in ast.walk(ast.parse(path.read_bytes()))
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
        }
        assert not called & {"astimezone", "localtime"}, path
