# SPDX-License-Identifier: Apache-2.0
"""``edgepaas telemetry import`` into a served box: counted back exactly, never doubled."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from edgepaas.cli import main
from edgepaas.files.paths import Paths
from edgepaas.web.access.tokens import TokenStore
from tests.support.machine_readings import SOME
from tests.support.second_application import application as notes
from tests.support.telemetry_box import STEPPING_CLOCK, open_box, serving


@pytest.fixture(params=["sqlite", "postgresql"])
def address(request: pytest.FixtureRequest, paths: Paths) -> Iterator[str]:
    """Where a box listens, on each database."""
    url = None if request.param == "sqlite" else request.getfixturevalue("postgres_url")
    with open_box(paths, url) as (app, _box), serving(app) as served:
        yield served


def run_import(address: str, file: Path, *options: str) -> int:
    what = ["--device", "machine", "--metric", "temperature", "--url", address]
    return main(["telemetry", "import", str(file), *what, *options])


def read_back(address: str, **query: Any) -> list[dict[str, Any]]:
    """Every reading, page by page."""
    found: list[dict[str, Any]] = []
    query = {"limit": 1000, **query}
    with requests.Session() as session:
        while True:
            answer = session.get(f"{address}/api/v1/readings", params=query, timeout=60)
            answer.raise_for_status()
            page = answer.json()
            found += page["items"]
            if page["next_cursor"] is None:
                return found
            query["cursor"] = page["next_cursor"]


def lines_of(file: Path) -> list[tuple[str, float]]:
    """What the file says, read by nothing of ours."""
    rows = (line.split(",") for line in file.read_text().splitlines()[1:])
    return sorted((time.replace(" ", "T") + "Z", float(value)) for time, value in rows)


def said_by(readings: list[dict[str, Any]]) -> list[tuple[str, float]]:
    return sorted((reading["recorded_at"], reading["value"]) for reading in readings)


def test_a_file_in_which_the_clock_steps_back_is_stored_whole_and_once(
    address: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_import(address, STEPPING_CLOCK, "--unit", "°F", "--batch", "7") == 0
    assert "45 readings: 45 stored, 0 there already" in capsys.readouterr().out
    found = read_back(address, device="machine", metric="temperature")
    assert said_by(found) == lines_of(STEPPING_CLOCK)
    assert {reading["unit"] for reading in found} == {"°F"}
    assert run_import(address, STEPPING_CLOCK, "--unit", "°F", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["accepted"], report["duplicates"]) == (0, 45)
    assert len(read_back(address)) == 45


def test_weeks_of_readings_are_counted_back_exactly(
    address: str, machine_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Thousands of readings, of which 12 share their time with another one of a different value."""
    for accepted in (SOME, 0):
        assert run_import(address, machine_file, "--json") == 0
        report = json.loads(capsys.readouterr().out)
        assert (report["accepted"], report["duplicates"]) == (accepted, SOME - accepted)
        found = read_back(address)
        assert said_by(found) == lines_of(machine_file)
        assert len({reading["id"] for reading in found}) == SOME


def test_a_bad_row_is_named_and_nothing_is_sent(
    address: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "bad.csv"
    file.write_text(STEPPING_CLOCK.read_text() + "2014-01-07 08:00:00,warm\n")
    assert run_import(address, file) == 1
    assert "line 47: value 'warm'" in capsys.readouterr().err
    assert read_back(address) == []
    assert run_import(address, file, "--skip-bad") == 0
    assert "1 row left out" in capsys.readouterr().out
    assert len(read_back(address)) == 45


def test_a_box_that_wants_a_token_gets_the_one_in_the_file(
    paths: Paths, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with open_box(paths, ENV="production") as (app, _box), serving(app) as address:
        assert run_import(address, STEPPING_CLOCK) == 1
        refusal = capsys.readouterr().err
        assert "401" in refusal
        assert ".;" not in refusal
        assert "--token-file" in refusal
        token_file = tmp_path / "token"
        _, secret = TokenStore(paths.tokens).create("importer", read_only=False)
        token_file.write_text(secret + "\n")
        assert run_import(address, STEPPING_CLOCK, "--token-file", str(token_file)) == 0


def test_on_the_box_itself_root_and_the_service_need_no_token(
    paths: Paths, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["telemetry", "import", str(STEPPING_CLOCK), "--device", "d", "--metric", "m"]
    with open_box(paths, ENV="production") as (app, _box), serving(app) as address:
        paths.address.write_text(f"{address}\n")
        assert main(given) == 0
        assert main([*given, "--url", address]) == 1, "another address is shown no token"
        kept = paths.local_token.read_text()
        paths.local_token.unlink()  # as for a user who may not read it
        assert main(given) == 1
        assert "run it as root on the box itself (sudo)" in capsys.readouterr().err
        paths.local_token.write_text(kept[:-2] + "x\n")
        assert main(given) == 1


def test_a_box_that_runs_something_else_is_told_apart(
    paths: Paths, capsys: pytest.CaptureFixture[str]
) -> None:
    with open_box(paths, application=notes) as (app, _box), serving(app) as address:
        assert run_import(address, STEPPING_CLOCK) == 1
    assert f"telemetry does not run on {address}: it answered 404" in capsys.readouterr().err


def test_a_metric_that_the_box_refuses_is_told_with_its_reason(
    address: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_import(address, STEPPING_CLOCK, "--metric", " ") == 1
    error = capsys.readouterr().err
    assert "line 2: metric: Not blank" in error
    assert "0 of 45 readings are stored" in error


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--timezone", "Mars/Olympus"], "--timezone Mars/Olympus"),
        (["--token-file", "/nonexistent"], "--token-file /nonexistent"),
        (["--url", "box"], "--url box"),
        (
            ["--time-column", "when"],
            "no column 'when' in the header, which has 'timestamp', 'value'; ",
        ),
    ],
)
def test_a_wrong_option_is_named(
    options: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_import("http://127.0.0.1:1", STEPPING_CLOCK, *options) != 0
    assert expected in capsys.readouterr().err


def test_a_box_that_is_away_is_waited_for_and_then_named(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run_import("http://127.0.0.1:1", STEPPING_CLOCK, "--patience", "0.5") == 1
    error = capsys.readouterr().err
    assert "waiting for the box: no answer" in error
    assert "0 of 45 readings are stored" in error
