# SPDX-License-Identifier: Apache-2.0
"""``edgepaas telemetry import`` at its edges: interrupted, on another port, on another's box."""

import io
from pathlib import Path
from typing import Any

import pytest

from edgepaas.cli import main
from edgepaas.files.paths import Paths
from edgepaas.telemetry.importer.delivery import HttpSender

SAMPLE = Path(__file__).resolve().parents[1] / "support" / "stepping_clock.csv"
COMMAND = ["telemetry", "import", str(SAMPLE), "--device", "d", "--metric", "m", "--batch", "10"]


@pytest.fixture
def senders(monkeypatch: pytest.MonkeyPatch) -> list[HttpSender]:
    """The senders that were made; each accepts two batches and is interrupted in the third."""
    made: list[HttpSender] = []
    sent: list[int] = []

    def send(self: HttpSender, readings: list[dict[str, Any]]) -> tuple[int, int]:
        if self not in made:
            made.append(self)
        if len(sent) == 2:
            raise KeyboardInterrupt
        sent.append(len(readings))
        return len(readings), 0

    monkeypatch.setattr(HttpSender, "__call__", send)
    monkeypatch.setattr(HttpSender, "deleted_ids", lambda self, device, metrics: frozenset())
    return made


def test_an_interrupted_import_says_where_it_was_and_how_to_go_on(
    senders: list[HttpSender], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(COMMAND) == 130
    error = capsys.readouterr().err
    assert "interrupted" in error
    assert f"20 of 45 readings are stored (up to line 21 of {SAMPLE})" in error
    assert "run the same command again" in error


def test_the_box_is_found_on_the_port_of_its_contract(
    senders: list[HttpSender], paths: Paths
) -> None:
    from edgepaas.settings import Settings

    main(COMMAND)
    Settings.of(PORT="9000").write(paths.env_contract)
    main(COMMAND)
    assert [sender._base for sender in senders] == [
        "http://127.0.0.1:8080",
        "http://127.0.0.1:9000",
    ]


@pytest.mark.parametrize(
    "options", [["--batch", "0"], ["--batch", "many"], ["--patience", "-1"], ["--patience", "nan"]]
)
def test_a_number_out_of_range_is_a_usage_error(
    options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*COMMAND, *options]) == 2
    assert f"edgepaas: {' '.join(options)}: a " in capsys.readouterr().err


@pytest.mark.parametrize("command", [["telemetry"], ["telemetry", "import"], ["token"]])
def test_the_help_names_the_exit_statuses(
    command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main([*command, "--help"])
    assert "exit status: 0 done, 1 failed, 2 usage" in capsys.readouterr().out


def test_a_dash_is_standard_input(
    senders: list[HttpSender], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(SAMPLE.read_bytes())))
    assert main([*COMMAND[:2], "-", *COMMAND[3:]]) == 130
    assert "up to line 21 of standard input" in capsys.readouterr().err


def test_a_token_file_that_is_not_there_is_told_in_words(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main([*COMMAND, "--token-file", "/nonexistent"]) == 1
    error = capsys.readouterr().err
    assert "--token-file /nonexistent: cannot be read: No such file or directory; " in error
    assert "Errno" not in error


@pytest.mark.parametrize("content", [b"", b"one two\n", b"\xff\xfe", b"one\ntwo\n"])
def test_a_file_that_holds_no_token_is_named(
    tmp_path: Path, content: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "token"
    file.write_bytes(content)
    assert main([*COMMAND, "--token-file", str(file)]) == 1
    assert f"--token-file {file}" in capsys.readouterr().err
