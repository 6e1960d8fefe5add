# SPDX-License-Identifier: Apache-2.0
"""``edgepaas drill outage``: passes on the build as it is, fails on one that loses rows."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from edgepaas.cli import main
from edgepaas.drill.count import RowCounts
from edgepaas.drill.outage import SITUATIONS, DrillReport, Step
from edgepaas.files.paths import Paths
from edgepaas.service.instance_locks import claim_serving
from tests.support.postgres_server import PostgresServer

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 240.0


def drill(url: str, home: Path, *options: str, pythonpath: str = str(ROOT)) -> Any:
    """Start a drill with as little writing as will do."""
    environ = dict(os.environ) | {
        "DATABASE_URL": url,
        "EDGEPAAS_HOME": str(home),
        "PYTHONPATH": pythonpath,
    }
    # A test run in the background has SIGINT ignored, and so has what it starts.
    command = ["env", "--default-signal=INT", sys.executable, "-m", "edgepaas", "drill", "outage"]
    command += ["--seconds", "0.3", *options]
    return subprocess.Popen(
        command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finished(process: Any) -> tuple[int, dict[str, Any], str]:
    """Return its exit status, its document, and what it said meanwhile."""
    printed, said = process.communicate(timeout=LIMIT)
    assert printed, said
    return process.returncode, json.loads(printed), said


def drills_on(postgres: PostgresServer) -> list[str]:
    """Every database of a drill on the test server."""
    found = [str(name) for (name,) in postgres.execute("SELECT datname FROM pg_database")]
    return [name for name in found if name.startswith("edgepaas_drill_")]


def processes_of(home: Path) -> list[int]:
    """Every process whose box lies below *home*."""
    wanted = f"EDGEPAAS_HOME={home}/".encode()
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                environ = (folder / "environ").read_bytes().split(b"\0")
            except OSError:
                continue
            found += [int(folder.name)] if any(one.startswith(wanted) for one in environ) else []
    return found


@dataclass
class Two:
    """What a drill found on the build as it is, and on one that loses rows."""

    sound: tuple[int, dict[str, Any], str]
    weak: tuple[int, dict[str, Any], str]
    homes: tuple[Path, Path]


@pytest.fixture(scope="module")
def two(postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Two:
    """Both at the same time: they wait more than they work."""
    site = tmp_path_factory.mktemp("site")
    (site / "sitecustomize.py").write_text(
        f"import sys\nsys.path.insert(0, {str(ROOT)!r})\n"
        "from tests.support import weaken\nweaken.install(['forgetful'])\n",
        encoding="utf-8",
    )
    homes = (tmp_path_factory.mktemp("sound"), tmp_path_factory.mktemp("weak"))
    sound = drill(postgres.url(), homes[0], "--json", "--only", "silent")
    weak = drill(
        postgres.url(), homes[1], "--json", "--only", "refused", pythonpath=f"{site}:{ROOT}"
    )
    return Two(finished(sound), finished(weak), homes)


def test_a_sound_build_passes(two: Two) -> None:
    """Silence, a killed service, a killed drainer: every acknowledged reading once, in order."""
    status, report, said = two.sound
    assert status == 0, said
    assert report["passed"]
    figures = report["figures"]
    assert figures["acknowledged"] == figures["in_postgres"] > 10
    assert {figures[name] for name in ("lost", "doubled", "invented", "out_of_order")} == {0}
    assert report["audit"]["adds_up"]
    assert report["audit"]["complete"]
    assert report["audit"]["box"]["accepted"] > 0
    assert [step["name"] for step in report["steps"]] == ["start", "silent", "drained", "count"]


def test_a_build_that_loses_rows_on_their_way_fails(two: Two) -> None:
    """The same build but for a drain that leaves rows out; the ledger sees it, too."""
    status, report, said = two.weak
    assert status == 1, said
    assert not report["passed"]
    assert report["figures"]["lost"] > 0
    assert report["audit_status"] == 1
    assert report["audit"]["discrepancies"]


def test_nothing_is_left_behind(two: Two, postgres: PostgresServer) -> None:
    """No database, no process, no folder, passed or not."""
    assert drills_on(postgres) == []
    for home in two.homes:
        assert processes_of(home) == []
        assert [entry.name for entry in (home / "state" / "drill").iterdir()] == ["lock"]


def test_ctrl_c_in_the_middle_clears_everything_away(
    postgres: PostgresServer, postgres_url: str, tmp_path: Path
) -> None:
    process = drill(postgres_url, tmp_path, "--only", "refused")
    deadline = time.monotonic() + LIMIT
    while not processes_of(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=LIMIT)
    assert process.returncode == 128 + signal.SIGINT
    assert drills_on(postgres) == []
    assert processes_of(tmp_path) == []
    assert [entry.name for entry in (tmp_path / "state" / "drill").iterdir()] == ["lock"]


def test_what_a_killed_drill_left_is_cleared_by_the_next_one(
    postgres: PostgresServer, postgres_url: str, tmp_path: Path
) -> None:
    """Database, folder and processes, before it begins."""
    killed = drill(postgres_url, tmp_path, "--only", "refused")
    deadline = time.monotonic() + LIMIT
    while not (drills_on(postgres) and processes_of(tmp_path)) and time.monotonic() < deadline:
        time.sleep(0.05)
    killed.kill()
    killed.communicate(timeout=LIMIT)
    left = set(drills_on(postgres))
    assert left
    again = drill(postgres_url, tmp_path, "--only", "refused")
    while left & set(drills_on(postgres)) and time.monotonic() < deadline:
        time.sleep(0.05)
    again.send_signal(signal.SIGTERM)
    again.communicate(timeout=LIMIT)
    assert drills_on(postgres) == []
    assert processes_of(tmp_path) == []


def test_a_box_that_serves_is_left_in_peace(
    paths: Paths, postgres_url: str, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Its clients would feel it."""
    monkeypatch.setenv("DATABASE_URL", postgres_url)
    held = claim_serving(paths)
    assert held is not None
    try:
        assert main(["drill", "outage"]) == 1
    finally:
        os.close(held)
    assert "--beside-the-service" in capsys.readouterr().err


def test_without_a_postgres_there_is_nothing_to_drill_against(
    paths: Paths, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["drill", "outage"]) == 78
    assert "DATABASE_URL" in capsys.readouterr().err


SOUND = RowCounts(acknowledged=5, in_postgres=5)


@pytest.mark.parametrize(
    ("changes", "passed"),
    [
        ({}, True),
        ({"steps": []}, False),
        ({"steps": [Step("home", False, 1.0, "")]}, False),
        ({"counts": RowCounts()}, False),
        ({"counts": SOUND + RowCounts(lost=1)}, False),
        ({"counts": SOUND + RowCounts(doubled=1)}, False),
        ({"counts": SOUND + RowCounts(invented=1)}, False),
        ({"counts": SOUND + RowCounts(out_of_order=1)}, False),
        ({"audit_status": 1}, False),
        ({"audit_status": 2}, False),
        ({"problems": ["500"]}, False),
    ],
)
def test_it_passes_only_when_everything_does(changes: dict[str, Any], passed: bool) -> None:
    sound: dict[str, Any] = {
        "steps": [Step(name, True, 1.0, "") for name in SITUATIONS],
        "counts": SOUND,
        "audit_status": 0,
    }
    assert DrillReport(**{**sound, **changes}).passed is passed
