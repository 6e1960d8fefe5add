# SPDX-License-Identifier: Apache-2.0
"""The verification gate: what keeps a box from saying that it is ready."""

import contextlib
import json
import socket
import sqlite3
import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
from sqlalchemy import MetaData

from edgepaas.alerts.conditions.raised_fingerprints import raised_fingerprints
from edgepaas.app import Application
from edgepaas.cli import main
from edgepaas.decision.contract import DatabaseContract
from edgepaas.decision.rehearsal_record import note_rehearsal
from edgepaas.doctor import data
from edgepaas.errors import EXIT_CONFIGURATION, EXIT_DONE, EXIT_FAILED, DatabaseUnavailable
from edgepaas.files.paths import Paths
from edgepaas.files.records import files_set_aside
from edgepaas.health import alerting
from edgepaas.health.checks import Check, CheckFailed, CheckResult, HealthBoard
from edgepaas.health.gate import accept_rehearsal, build_board, build_checks, verify
from edgepaas.health.state import StateBoard
from edgepaas.schema.at_head import SchemaState
from edgepaas.settings import Settings
from edgepaas.sync.losses.acknowledge import acknowledged_lost
from tests.support.boxes import FakeDatabase, contract

PLAIN = Application(name="plain", blueprints=lambda box: [])


def board_of(database: FakeDatabase, paths: Paths, **settings: str) -> HealthBoard:
    resolved = Settings.of(**settings)
    return build_board(build_checks(database, contract(paths), resolved, paths, PLAIN), resolved)


def fails(message: str) -> Callable[[], str]:
    def probe() -> str:
        raise CheckFailed(message)

    return probe


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def test_a_sound_box_passes(paths: Paths) -> None:
    """Database, disk and spool; an application without models has no schema to check."""
    report = verify(board_of(FakeDatabase(), paths), production=True)
    assert report.ok
    assert [result.name for result in report.results] == [
        *("database", "disk", "spool"),
        "alerts",
    ]
    assert report.summary() == "4 of 4 checks passed"


def test_a_check_that_is_late_is_waited_for_while_the_box_starts() -> None:
    """A busy processor is no reason to end; without patience, or for ever, nobody waits."""
    release, late = threading.Event(), []

    def probe() -> str:
        release.wait(30)
        return "at head"

    class Board(HealthBoard):
        def results(self) -> list[CheckResult]:
            found = super().results()
            if not found[0].answered:  # the gate was told, and the probe ends after that
                late.append(found[0].message)
                release.set()
            return found

    check = Check("schema", probe, keep=30.0)
    report = verify(Board([check], timeout=0.01), production=True, patience=30.0)
    assert report.ok
    assert late[0] == "no answer within 0.01 s"
    assert [result.message for result in report.results] == ["at head"]
    never = Check("schema", threading.Event().wait, keep=30.0)  # type: ignore[arg-type]
    for patience in (0.0, 0.3):
        report = verify(HealthBoard([never], timeout=0.01), production=True, patience=patience)
        assert report.summary() == "schema: no answer within 0.01 s"


def test_a_lost_database_fails_everywhere(paths: Paths) -> None:
    """No environment goes on without its database."""
    database = FakeDatabase()
    database.failure = DatabaseUnavailable("refused")
    for production in (True, False):
        report = verify(board_of(database, paths), production=production)
        assert not report.ok
        assert report.summary() == "database: refused"


def test_a_required_service_that_is_away_fails_production_and_warns_in_development(
    paths: Paths,
) -> None:
    """Production fails fast and says which; development goes on with a warning."""
    address = f"tcp://127.0.0.1:{closed_port()}"
    board = board_of(FakeDatabase(), paths, REQUIRED_SERVICES=f"broker={address}")
    strict = verify(board, production=True)
    assert not strict.ok
    assert "service broker" in strict.summary()
    assert address in strict.summary()
    lenient = verify(board, production=False)
    assert lenient.ok
    assert [result.name for result in lenient.warnings] == ["service broker"]
    assert "going on without" in lenient.summary()


def test_an_optional_service_that_is_away_is_a_warning_everywhere(paths: Paths) -> None:
    """Nothing depends on it."""
    address = f"tcp://127.0.0.1:{closed_port()}"
    board = board_of(FakeDatabase(), paths, OPTIONAL_SERVICES=f"cache={address}")
    assert verify(board, production=True).ok


def test_a_folder_that_cannot_be_written_fails(paths: Paths) -> None:
    """State and spool are where acknowledged data goes."""
    paths.spool.rmdir()
    report = verify(board_of(FakeDatabase(), paths), production=False)
    assert [result.name for result in report.failures] == ["spool"]


def test_a_full_disk_is_a_warning_since_reading_still_works(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The box starts, in the state full."""
    usage = SimpleNamespace(total=1 << 30, used=1 << 30, free=4096)
    monkeypatch.setattr("edgepaas.health.disk.shutil.disk_usage", lambda folder: usage)
    report = verify(board_of(FakeDatabase(), paths), production=True)
    assert report.ok
    assert {result.consequence for result in report.warnings} == {"full"}


def test_only_what_is_named_a_service_is_forgiven_in_development() -> None:
    """An application's own required checks are not."""
    board = HealthBoard([Check("service x", fails("away")), Check("licence", fails("none"))])
    report = verify(board, production=False)
    assert [result.name for result in report.failures] == ["licence"]


@pytest.fixture
def decided(paths: Paths, capsys: pytest.CaptureFixture[str]) -> Path:
    """A box whose stages before the service have run."""
    for stage in ("env", "dbdecide", "schema"):
        assert main([stage]) == EXIT_DONE
    capsys.readouterr()
    return paths.state


def test_verify_prints_each_check_and_exits_with_0(
    decided: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command judges from the contracts, like the service."""
    assert main(["verify"]) == EXIT_DONE
    out = capsys.readouterr().out
    for name in ("database", "schema", "disk", "spool", "verification"):
        assert f"\n{name}" in f"\n{out}"
    assert "at head" in out


def test_verify_writes_json_and_exits_with_1_when_the_gate_is_shut(
    decided: Path,
    paths: Paths,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A program gets each check; the exit status is the verdict."""
    paths.spool.rmdir()
    assert main(["verify", "--json"]) == EXIT_FAILED
    document = json.loads(capsys.readouterr().out)
    assert document["ok"] is False
    assert {check["name"]: check["ok"] for check in document["checks"]} == {
        "database": True,
        "schema": True,
        "disk": True,
        "spool": False,
        "alerts": True,
    }


def test_verify_without_contracts_names_the_stage_that_is_missing(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """No traceback, and the way out."""
    assert main(["verify"]) == EXIT_CONFIGURATION
    assert "edgepaas env" in capsys.readouterr().err


def test_a_file_in_quarantine_leaves_the_box_ready_and_degraded(paths: Paths) -> None:
    """Until somebody takes it away; it is named with the way out."""
    folder = paths.quarantine / "000001.edgepaas.db"
    folder.mkdir(parents=True)
    (folder / "edgepaas.db").touch()
    resolved = Settings.of(HEALTH_CACHE="0")
    board = build_board(
        build_checks(FakeDatabase(), contract(paths), resolved, paths, PLAIN), resolved
    )
    report = verify(board, production=True)
    assert report.ok
    assert [result.name for result in report.warnings] == ["quarantine"]
    states = StateBoard(contract(paths), latest=board.latest)
    states.phase = "running"
    assert states.state().state == "degraded"
    assert str(folder) in states.state().reasons[0]
    (folder / "edgepaas.db").unlink()
    board.forget()
    board.results()
    assert states.state().state == "standalone"


def test_a_setting_that_cannot_be_read_is_no_green_box(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite served as 'standalone', and no row ever left: a default stood for the address."""
    monkeypatch.setenv("DATABASE_URL", "postgresql://u:geheim@hub:99999/db")
    for stage in ("env", "dbdecide", "schema"):
        assert main([stage]) == EXIT_DONE
    resolved = Settings.of(HEALTH_CACHE="0")
    decided = DatabaseContract.read(paths.db_contract)
    assert decided.db_state == "standalone"
    board = build_board(build_checks(FakeDatabase(), decided, resolved, paths, PLAIN), resolved)
    report = verify(board, production=True)
    assert report.ok
    states = StateBoard(decided, latest=board.latest)
    states.phase = "running"
    assert states.state().state == "degraded"
    assert "no row leaves this box" in " ".join(states.state().reasons)
    assert "geheim" not in " ".join(states.state().reasons)
    monkeypatch.delenv("DATABASE_URL")
    assert main(["env"]) == EXIT_DONE
    board.forget()
    board.results()
    assert states.state().state == "standalone"


def test_a_unit_that_is_masked_is_said(
    paths: Paths, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The chain passed over a masked stage, and went on with its last contract until a reboot."""
    folder = tmp_path / "units"
    folder.mkdir()
    monkeypatch.setattr("edgepaas.health.gate._SYSTEMD", folder)
    monkeypatch.setattr(
        "edgepaas.health.gate.no_unit_masked", partial(alerting.no_unit_masked, (folder,))
    )
    resolved = Settings.of(HEALTH_CACHE="0")
    board = build_board(
        build_checks(FakeDatabase(), contract(paths), resolved, paths, PLAIN), resolved
    )
    assert board.result("units").ok
    for unit in ("edgepaas-dbdecide.service", "edgepaas-sync.service"):
        (folder / unit).symlink_to("/dev/null")
        board.forget()
        result = board.result("units")
        assert not result.ok
        assert f"unmask {'edgepaas-dbdecide.service'}" in result.message
        assert unit in result.message
        assert verify(board, production=True).ok


def test_verify_logs_and_alerts_what_fails(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever runs it from a script does not read the table."""
    monkeypatch.setenv("ENV", "production")
    monkeypatch.setenv("LOG_FILE", str(paths.logs / "box.log"))
    monkeypatch.setenv("REQUIRED_SERVICES", f"broker=tcp://127.0.0.1:{closed_port()}")
    for stage in ("env", "dbdecide", "schema"):
        assert main([stage]) == EXIT_DONE
    assert main(["verify"]) == EXIT_FAILED
    assert "service:broker" in raised_fingerprints(paths, "service:")
    assert "verification failed" in (paths.logs / "box.log").read_text()


def test_a_state_file_that_was_set_aside_leaves_the_box_ready_and_degraded(paths: Paths) -> None:
    """Until somebody takes it away; it is named with the way out."""
    paths.acknowledged.write_text("torn")
    assert acknowledged_lost(paths) == 0
    (aside,) = files_set_aside(paths.state)
    resolved = Settings.of(HEALTH_CACHE="0")
    board = build_board(
        build_checks(FakeDatabase(), contract(paths), resolved, paths, PLAIN), resolved
    )
    report = verify(board, production=True)
    assert report.ok
    assert [result.name for result in report.warnings] == ["state files"]
    states = StateBoard(contract(paths), latest=board.latest)
    states.phase = "running"
    assert states.state().state == "degraded"
    assert aside.name in states.state().reasons[0]
    assert data.state_files(paths)[0].level == "warn"
    aside.unlink()
    assert data.state_files(paths)[0].level == "ok"


def test_tables_that_fit_without_being_at_head_leave_the_box_ready_and_degraded(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A migration failed; the service works all the same."""
    state = SchemaState(False, "at 0001; its tables fit", fits=True)
    monkeypatch.setattr("edgepaas.schema.at_head.schema_at_head", lambda *_: state)
    application = Application(name="shop", migrations=paths.state, blueprints=lambda box: [])
    resolved = Settings.of()
    checks = build_checks(FakeDatabase(), contract(paths), resolved, paths, application)
    report = verify(build_board(checks, resolved), production=True)
    assert report.ok
    assert [result.message for result in report.warnings] == ["at 0001; its tables fit"]
    assert report.warnings[0].consequence == "degraded"


def test_a_box_with_a_hub_says_how_many_rows_wait(paths: Paths) -> None:
    """Counted in the file for as long as the drainer has not reported."""
    with contextlib.closing(sqlite3.connect(paths.sqlite)) as connection:
        connection.execute("CREATE TABLE notes AS SELECT 1 AS id")
        connection.commit()
    decided = contract(paths, hub_url="postgresql://hub/db", db_state="fallback")
    checks = build_checks(FakeDatabase(), decided, Settings.of(), paths, PLAIN)
    result = build_board(checks, Settings.of()).result("forwarding")
    assert result.ok
    assert result.message == "edgepaas sync has not reported yet; 1 rows wait"


def test_a_schema_behind_a_slow_link_is_given_the_time_of_a_login(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At 200 ms a round trip its questions take longer than a check usually may."""
    application = Application(name="modelled", models=MetaData, migrations=paths.state)
    resolved = Settings.of(HEALTH_TIMEOUT="2", DB_CONNECT_TIMEOUT="3")

    def patience() -> float:
        checks = build_checks(FakeDatabase(), contract(paths), resolved, paths, application)
        found = next(check for check in checks if check.name == "schema")
        assert callable(found.timeout)
        return found.timeout()

    for dialect, seconds in (("sqlite", 2.0), ("postgresql", 5.0)):
        monkeypatch.setattr(FakeDatabase, "dialect", dialect)
        assert patience() == seconds
    monkeypatch.setattr(FakeDatabase, "longest_ping", 8.0)
    assert patience() > 16.0


def test_after_a_hand_back_the_gate_asks_postgres_nothing_again(paths: Paths) -> None:
    """Writes wait for it; what the rehearsal found a moment ago is kept as a check's result is."""
    asked: list[str] = []

    def probe(name: str) -> str:
        asked.append(name)
        return "asked"

    def board() -> HealthBoard:
        names = ("database", "schema", "disk")
        return HealthBoard([Check(name, partial(probe, name)) for name in names])

    url = "postgresql://hub/db"
    primary = contract(
        paths, db_state="primary", database_url=url, hub_url=url, final_db_mode="try_postgres"
    )
    assert not accept_rehearsal(board(), primary, paths)
    note_rehearsal(paths, url, ["alembic_version_telemetry 0002"])
    found = board()
    assert accept_rehearsal(found, primary, paths)
    assert verify(found, production=True).ok
    assert asked == ["disk"]
    found.forget()
    assert verify(found, production=True).ok
    assert sorted(asked) == ["database", "disk", "disk", "schema"]
    assert not accept_rehearsal(board(), replace(primary, database_url=f"{url}2"), paths)
    assert not accept_rehearsal(board(), replace(primary, final_db_mode="postgres_only"), paths)
