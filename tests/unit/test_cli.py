# SPDX-License-Identifier: Apache-2.0
"""The command line: teaches, names what is wrong, and ends with the status that scripts expect."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from edgepaas import cli
from edgepaas.build import build_version
from edgepaas.cli import COMMANDS, main
from edgepaas.errors import DecideAgain
from edgepaas.files.paths import Paths


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main([name, "--help"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith(f"usage: edgepaas {name}")
    assert len(text.split()) > 30, "a help text that teaches is longer than that"


def test_the_overview_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"\n  {name} " in text for name in COMMANDS)


def test_no_command_is_a_usage_error() -> None:
    assert main([]) == 2


def test_an_unknown_command_suggests_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["statsu"]) == 2
    assert "did you mean 'status'" in capsys.readouterr().err


def test_an_unknown_verb_suggests_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["token", "creat"])
    assert end.value.code == 2
    assert "did you mean 'create'?" in capsys.readouterr().err


@pytest.mark.parametrize("asked", [["status"], ["token", "create"]], ids=" ".join)
def test_help_explains_a_command_as_its_option_does(
    asked: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    texts = []
    for words in (["help", *asked], [*asked, "--help"]):
        with pytest.raises(SystemExit) as end:
            main(words)
        assert end.value.code == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1] != ""


def test_help_of_an_unknown_command_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["help", "statsu"]) == 2
    assert "did you mean 'status'" in capsys.readouterr().err


def test_the_version_is_that_of_the_build(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"edgepaas {build_version()}\n"


def test_an_expected_failure_is_one_line_and_its_exit_status(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: list[str]) -> int:
        raise DecideAgain("the database went away")

    monkeypatch.setattr(cli, "_dispatch", fail)
    assert main(["serve"]) == 75
    assert capsys.readouterr().err == "edgepaas: the database went away\n"


def test_a_reader_that_leaves_ends_the_command_quietly() -> None:
    process = subprocess.run(
        ["sh", "-c", f"{sys.executable} -m edgepaas --help | head -n 1"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert process.stderr == ""


def test_the_dispatcher_imports_next_to_nothing() -> None:
    """Every stage of the chain is a process start, and pays for what this module imports."""
    code = "import sys, edgepaas.cli; print(','.join(sys.modules))"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    heavy = {"logging", "json", "sqlite3", "ssl", "sqlalchemy", "flask", "pg8000", "socket"}
    assert heavy.isdisjoint(result.stdout.split(","))


@pytest.mark.parametrize("stage", ["env", "dbdecide"])
def test_a_stage_whose_output_cannot_be_written_does_its_work(stage: str, paths: Paths) -> None:
    """The console's disk may be the one that is full."""
    assert main(["env"]) == 0
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "edgepaas", stage]
        result = subprocess.run(command, stdout=full, check=False)
    assert result.returncode == 0
    assert (paths.db_contract if stage == "dbdecide" else paths.env_contract).is_file()


def test_a_table_that_cannot_be_written_is_a_failure(paths: Paths) -> None:
    """There the output is the work."""
    assert paths.runtime.is_dir()
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "edgepaas", "settings", "--json"]
        result = subprocess.run(
            command, stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert result.returncode == 1
    assert "No space left" in result.stderr


def test_a_failure_is_an_error_to_the_journal_too(tmp_path: Path) -> None:
    """What stands in for the journal is told by its device and inode, as systemd tells it."""
    journal = tmp_path / "journal"
    with journal.open("w") as stream:
        status = os.fstat(stream.fileno())
        subprocess.run(
            [sys.executable, "-m", "edgepaas", "dbdecide"],
            env={**os.environ, "JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"},
            stderr=stream,
            check=False,
        )
    assert journal.read_text().startswith("<3>edgepaas: ")
