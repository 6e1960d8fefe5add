"""The verification gate: what keeps a box from saying that it is ready."""

import json
import socket
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from edgepaas.application import Application
from edgepaas.cli import main
from edgepaas.errors import EXIT_CONFIGURATION, EXIT_DONE, EXIT_FAILED, DatabaseUnavailable
from edgepaas.files.paths import Paths
from edgepaas.health.checks import Check, CheckFailed, HealthBoard
from edgepaas.health.gate import build_board, build_checks, verify
from edgepaas.settings import Settings
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
    assert [result.name for result in report.results] == ["database", "disk", "spool"]
    assert report.summary() == "3 of 3 checks passed"


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
    }


def test_verify_without_contracts_names_the_stage_that_is_missing(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """No traceback, and the way out."""
    assert main(["verify"]) == EXIT_CONFIGURATION
    assert "edgepaas env" in capsys.readouterr().err
