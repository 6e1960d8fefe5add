# SPDX-License-Identifier: Apache-2.0
"""``edgepaas telemetry export``: every reading once, or a status that says that it is not so."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from edgepaas.cli import main
from edgepaas.files.paths import Paths
from edgepaas.telemetry.exporter import pages
from tests.support.telemetry_box import open_box, serving


@pytest.fixture
def address(paths: Paths) -> Iterator[str]:
    with open_box(paths) as (app, _box), serving(app) as served:
        yield served


def post(address: str, readings: list[dict[str, Any]]) -> None:
    requests.post(f"{address}/api/v1/readings", json=readings, timeout=60).raise_for_status()


@pytest.fixture
def filled(address: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(pages, "_PAGE", 7)
    post(
        address,
        [
            {
                "device": f"d{n % 2}",
                "metric": "m, with a comma" if n % 3 else 'a "quoted" one',
                "value": n / 3,
                "unit": None if n % 5 else "°C",
                "recorded_at": f"2026-01-{1 + n % 28:02}T12:00:00Z",
            }
            for n in range(40)
        ],
    )
    return address


def export(address: str, *words: str) -> int:
    return main(["telemetry", "export", *words, "--url", address])


def all_of(address: str) -> list[dict[str, Any]]:
    answer = requests.get(f"{address}/api/v1/readings?limit=1000", timeout=60).json()
    found: list[dict[str, Any]] = answer["items"]
    return found


def test_both_forms_hold_every_reading_once(filled: str, tmp_path: Path) -> None:
    wanted = all_of(filled)
    assert len(wanted) == 40
    assert export(filled, str(tmp_path / "all.ndjson")) == 0
    lines = (tmp_path / "all.ndjson").read_text().splitlines()
    assert [json.loads(line) for line in lines] == wanted
    assert export(filled, str(tmp_path / "all.csv")) == 0
    with (tmp_path / "all.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["value"]) for row in rows] == [one["value"] for one in wanted]
    assert [row["metric"] for row in rows] == [one["metric"] for one in wanted]
    assert [row["unit"] or None for row in rows] == [one["unit"] for one in wanted]
    assert export(filled, str(tmp_path / "all.csv")) == 2, "never over a file that is there"


def test_filters(filled: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert export(filled, "--device", "d1", "--from", "2026-01-10", "--format", "ndjson") == 0
    said = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    of_d1 = [one for one in all_of(filled) if one["device"] == "d1"]
    assert said == [one for one in of_d1 if one["recorded_at"] >= "2026-01-10"]
    assert export(filled, "--to", "2026-01-02") == 0
    assert capsys.readouterr().out.count("2026-01-01T12") == 2
    assert export(filled, "--from", "yesterday") == 1
    assert "422" in capsys.readouterr().err


def test_what_fails_leaves_no_file_and_no_zero(
    filled: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = pages.ReadingPages._attempt
    calls: list[str] = []

    def attempt(self: pages.ReadingPages, address: str) -> Any:
        calls.append(address)
        return (None, "no answer (cut)") if len(calls) > 2 else real(self, address)

    monkeypatch.setattr(pages.ReadingPages, "_attempt", attempt)
    assert export(filled, str(tmp_path / "cut.csv"), "--patience", "0") == 1
    assert "gave no readings" in capsys.readouterr().err
    assert list(tmp_path.glob("*.csv")) == []
    assert list(tmp_path.glob(".*.new")) == []


def test_a_page_that_fails_for_a_moment_is_asked_for_again(
    filled: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = pages.ReadingPages._attempt
    calls: list[str] = []

    def attempt(self: pages.ReadingPages, address: str) -> Any:
        calls.append(address)
        return real(self, address) if len(calls) % 2 else (None, "answered 503 (a moment)")

    monkeypatch.setattr(pages.ReadingPages, "_attempt", attempt)
    monkeypatch.setattr(pages, "_FIRST_PAUSE", 0.001)
    assert export(filled, "--format", "ndjson") == 0
    said = capsys.readouterr()
    assert [json.loads(line) for line in said.out.splitlines()] == all_of(filled)
    assert "waiting for the box" in said.err


def test_a_box_without_its_postgres_does_not_pass_off_a_part_as_the_whole(
    filled: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = pages.ReadingPages._page
    monkeypatch.setattr(
        pages.ReadingPages, "_page", lambda self, address: {**real(self, address), "partial": True}
    )
    assert export(filled) == 1
    assert "--partial" in capsys.readouterr().err
    assert export(filled, "--partial") == 0
    assert "40 readings exported; more of them may be in PostgreSQL" in capsys.readouterr().err
