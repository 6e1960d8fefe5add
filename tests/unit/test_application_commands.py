# SPDX-License-Identifier: Apache-2.0
"""An application's own sub-commands: ``edgepaas APPLICATION COMMAND``."""

import os
from pathlib import Path

import pytest

from edgepaas.cli import main, privileges
from edgepaas.files.paths import Paths
from edgepaas.hosting import commands, loading

NOTES = """\
from edgepaas.app import Application
from edgepaas.app.commands import Command, print_json
from edgepaas.app.errors import EdgePaaSError


def add_arguments(parser):
    parser.add_argument("file")
    parser.epilog = "exit status: 0 done"


def run(arguments):
    if arguments.file == "nothing":
        raise EdgePaaSError("there is no file nothing; name another")
    print_json({"imported": arguments.file})
    return 0


application = Application(
    name="notes",
    wsgi=lambda box: None,
    commands=(
        Command("import", "import notes", run, add_arguments, description="Import notes."),
        Command("list", "list notes", lambda arguments: 3, needs_service_user=False),
        Command("tidy", "tidy notes", lambda arguments: None, needs_service_user=False),
    ),
)
"""


@pytest.fixture
def notes(paths: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A box whose EDGEPAAS_APP names an application with commands, in its file of settings."""
    folder = tmp_path / "modules"
    folder.mkdir()
    (folder / "commanding_notes.py").write_text(NOTES)
    monkeypatch.syspath_prepend(folder)
    paths.env_file.parent.mkdir(parents=True, exist_ok=True)
    paths.env_file.write_text("EDGEPAAS_APP=commanding_notes:application\n")
    # As an ordinary user: root lists and loads what is installed, see below.
    monkeypatch.setattr(os, "geteuid", lambda: 1000)


@pytest.mark.usefixtures("notes")
def test_a_command_is_found_by_the_applications_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["notes", "import", "a.txt"]) == 0
    assert '"imported": "a.txt"' in capsys.readouterr().out
    assert main(["notes", "list"]) == 3
    assert main(["notes", "tidy"]) == 0  # it returns nothing, so it has done its work
    assert "there is no command" not in capsys.readouterr().err


@pytest.mark.usefixtures("notes")
def test_the_help_lists_them_beside_the_installed_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    said = capsys.readouterr().out
    assert "commands of applications:" in said
    assert "notes import         import notes" in said
    assert "telemetry import     import readings from a CSV file" in said
    with pytest.raises(SystemExit) as ended:
        main(["notes", "import", "--help"])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    assert said.startswith("usage: edgepaas notes import")
    assert "Import notes." in said
    assert "exit status: 0 done" in said


@pytest.mark.usefixtures("notes")
def test_an_expected_failure_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["notes", "import", "nothing"]) == 1
    assert capsys.readouterr().err == "edgepaas: there is no file nothing; name another\n"


@pytest.mark.usefixtures("notes")
@pytest.mark.parametrize("arguments", [["notes"], ["notes", "export"], ["notes", "import"]])
def test_a_wrong_command_line_is_a_usage_error(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "usage: edgepaas notes" in capsys.readouterr().err


@pytest.mark.usefixtures("notes")
def test_another_name_is_no_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["note", "import"]) == 2
    assert "there is no command 'note'" in capsys.readouterr().err


@pytest.mark.usefixtures("notes")
def test_root_imports_nothing_that_the_service_could_have_written(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It becomes the service's user before the module that EDGEPAAS_APP names is imported."""
    order: list[str] = []
    load = loading.load_application

    def become(command: str) -> None:
        order.append(f"becomes the service's user for {command}")

    def noted(name: str) -> object:
        order.append(f"loads {name}")
        return load(name)

    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(privileges, "become_service_user", become)
    monkeypatch.setattr(loading, "load_application", noted)
    monkeypatch.setattr(commands, "load_application", noted)
    assert main(["notes", "list"]) == 3
    assert order == ["becomes the service's user for notes", "loads commanding_notes:application"]
    order.clear()
    assert main(["--help"]) == 0
    assert order == ["loads telemetry"]
    assert "notes" not in capsys.readouterr().out


@pytest.mark.usefixtures("notes")
def test_a_command_for_the_service_user_is_refused_to_others(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """``needs_service_user``: as the platform's own commands are."""
    asked: list[str] = []

    def become(command: str) -> None:
        asked.append(command)
        if command == "notes import":
            raise privileges.NotAllowed("run it as root")

    monkeypatch.setattr(privileges, "become_service_user", become)
    assert main(["notes", "import", "a.txt"]) == 1
    assert "run it as root" in capsys.readouterr().err
    assert asked == ["notes", "notes import"]
    assert main(["notes", "list"]) == 3
    assert asked[2:] == ["notes"]


def test_one_that_cannot_be_loaded_has_a_line_that_says_why(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEPAAS_APP", "no_such_module:application")
    listed = dict(commands.overview(paths, trusted_only=False))
    assert "no module no_such_module" in listed["no_such_module:application"]
    assert "no_such_module:application" not in dict(commands.overview(paths, trusted_only=True))


@pytest.mark.usefixtures("notes")
def test_one_that_is_called_as_a_command_of_the_platform_is_reported(paths: Paths) -> None:
    """``edgepaas NAME`` is the platform's then."""
    listed = dict(commands.overview(paths, trusted_only=False, taken={"notes"}))
    assert listed["notes"] == "is a command of the platform: rename the application"
    assert "notes import" not in listed
