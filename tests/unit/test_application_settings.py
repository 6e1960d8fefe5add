# SPDX-License-Identifier: Apache-2.0
"""Settings that an application declares: the platform's sources, errors and listing for them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from edgepaas.app import settings as declare
from edgepaas.cli import main
from edgepaas.errors import ConfigurationError
from edgepaas.files.paths import Paths
from edgepaas.hosting.loading import load_application
from edgepaas.settings import Settings
from edgepaas.settings.own import own_settings
from edgepaas.settings.resolve import Resolution, resolve

NOTES = """\
from edgepaas.app import Application
from edgepaas.app.settings import integer, text

application = Application(
    name="notes",
    wsgi=lambda box: None,
    settings=(
        integer("NOTES_MAX", 1000, 1, 5000, "The most notes that are kept."),
        text("NOTES_KEY", "", "The key of the archive.", secret=True),
    ),
)
"""
OWN = own_settings(
    (
        declare.integer("NOTES_MAX", 1000, 1, 5000, "The most notes that are kept."),
        declare.text("NOTES_KEY", "", "The key of the archive.", secret=True),
    )
)


@pytest.fixture
def notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An application with settings of its own, as EDGEPAAS_APP names it."""
    folder = tmp_path / "modules"
    folder.mkdir()
    (folder / "own_notes.py").write_text(NOTES)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("EDGEPAAS_APP", "own_notes:application")
    return "own_notes:application"


def resolved(
    folder: Path, *, environ: dict[str, str] | None = None, file: str = "", secret: str = ""
) -> Resolution:
    """Resolve with the notes' settings declared; *secret* is what Vault holds for NOTES_MAX."""
    (folder / "edgepaas.env").write_text(file)
    credentials = folder / "credentials"
    credentials.mkdir(exist_ok=True)
    return resolve(
        environ or {},
        folder / "edgepaas.env",
        credentials,
        vault=lambda _: {"notes_max": secret},
        declare=lambda _: (OWN, ()),
    )


VAULT = "VAULT__ENABLED=1\nVAULT__TOKEN=t\nVAULT__URL=http://127.0.0.1:8200\n"


def test_they_have_the_sources_of_the_platforms(tmp_path: Path) -> None:
    """Environment, file and Vault, the highest first; NAME_FILE; the default."""
    file = f"NOTES_MAX=20\n{VAULT}"
    of = {"environ": {"NOTES_MAX": "10"}, "file": file, "secret": "30"}
    every = resolved(tmp_path, **of)  # type: ignore[arg-type]
    assert every.settings.integer("NOTES_MAX") == 10
    assert every.provenance["NOTES_MAX"].source == "environment"
    assert resolved(tmp_path, file=file, secret="30").settings.integer("NOTES_MAX") == 20
    assert resolved(tmp_path, file=VAULT, secret="30").settings.integer("NOTES_MAX") == 30
    (tmp_path / "key").write_text("from a file\n")
    pointed = resolved(tmp_path, file=f"NOTES_KEY_FILE={tmp_path}/key\n")
    assert pointed.settings.text("NOTES_KEY") == "from a file"
    default = resolved(tmp_path)
    assert default.settings.integer("NOTES_MAX") == 1000
    assert default.provenance["NOTES_MAX"].source == "default"
    assert [resolution.findings for resolution in (every, pointed, default)] == [[], [], []]


def test_a_value_that_cannot_be_read_is_reported_and_takes_the_default(tmp_path: Path) -> None:
    result = resolved(tmp_path, file="NOTES_MAX=many\n")
    assert result.settings.integer("NOTES_MAX") == 1000
    assert result.settings.is_unreadable("NOTES_MAX")
    [finding] = result.findings
    assert finding.names == ("NOTES_MAX",)
    assert "'many' is not a whole number" in finding.message
    assert "1000 is used; allowed: a whole number from 1 to 5000" in finding.message


def test_the_contract_carries_them_to_stages_that_load_no_application(tmp_path: Path) -> None:
    given = {"NOTES_MAX": "10", "NOTES_KEY": "hush"}
    resolved(tmp_path, environ=given).settings.write(tmp_path / "env")
    settings = Settings.read(tmp_path / "env")
    assert settings.own == {"NOTES_MAX", "NOTES_KEY"}
    assert settings.integer("NOTES_MAX") == 10
    assert settings.is_given("NOTES_MAX")
    assert "hush" in settings.secrets()
    assert settings.contract() == Settings.read(tmp_path / "env").contract()


def test_a_contract_of_an_older_build_is_completed(tmp_path: Path) -> None:
    """The service has every setting that its application declares."""
    Settings.of().write(tmp_path / "env")
    assert Settings.read(tmp_path / "env").declared(OWN).integer("NOTES_MAX") == 1000
    narrower = own_settings((declare.integer("NOTES_MAX", 5, 1, 9, "Fewer."),))
    resolved(tmp_path, environ={"NOTES_MAX": "10"}).settings.write(tmp_path / "env")
    assert Settings.read(tmp_path / "env").declared(narrower).integer("NOTES_MAX") == 5


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("PORT", "its setting PORT is the platform's: choose another name"),
        ("HOME", "its setting HOME is the system's: choose another name"),
        ("LD_PRELOAD", "its setting LD_PRELOAD is the system's: choose another name"),
        ("NOTIFY_SOCKET", "its setting NOTIFY_SOCKET is the system's: choose another name"),
        ("notes_max", "'notes_max' cannot be set"),
        ("MQTT__HOST", "'MQTT__HOST' cannot be set"),
        ("APP_KEY", "'APP_KEY' cannot be set"),
        ("EDGEPAAS_MAX", "'EDGEPAAS_MAX' cannot be set"),
        ("KEY_FILE", "'KEY_FILE' cannot be set"),
    ],
)
def test_a_name_that_is_taken_or_could_not_be_set_is_refused_when_it_is_loaded(
    name: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = f"named_{name.lower()}"
    (tmp_path / f"{module}.py").write_text(NOTES.replace("NOTES_MAX", name))
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigurationError, match=says) as caught:
        load_application(f"{module}:application")
    assert str(caught.value).startswith(f"EDGEPAAS_APP={module}:application: its setting ")


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ((declare.flag("A", "true", "One."), declare.flag("A", "true", "Two.")), "declared twice"),
        ((declare.integer("A", 9, 1, 5, "Too large."),), "is out of range; allowed: a whole"),
        ((declare.seconds("A", "1min", 1, 90, "In minutes."),), "is to be written '60'"),
    ],
)
def test_a_wrong_declaration_is_refused(settings: tuple[declare.Setting, ...], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        own_settings(settings)


def test_the_environment_stage_writes_them_and_the_command_lists_them(
    notes: str, paths: Paths, capsys: pytest.CaptureFixture[str]
) -> None:
    paths.env_file.parent.mkdir(parents=True, exist_ok=True)
    paths.env_file.write_text("NOTES_MAX=17\nNOTES_KEY=hush\n")
    assert main(["env"]) == 0
    assert Settings.read(paths.env_contract).integer("NOTES_MAX") == 17
    capsys.readouterr()
    assert main(["settings", "--json"]) == 0
    listed = {entry["name"]: entry for entry in json.loads(capsys.readouterr().out)["settings"]}
    assert listed["NOTES_MAX"]["section"] == f"Application {notes}"
    assert listed["NOTES_MAX"]["value"] == "17"
    assert listed["NOTES_MAX"]["source"] == f"{paths.env_file} line 1"
    assert listed["NOTES_KEY"]["value"] == "****"
    assert main(["settings"]) == 0
    assert "The most notes that are kept." in capsys.readouterr().out
    assert main(["env", "--explain"]) == 0
    shown = capsys.readouterr().out
    assert "NOTES_MAX" in shown
    assert "hush" not in shown


def test_an_application_that_cannot_be_loaded_does_not_keep_the_stage_from_its_work(
    paths: Paths, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The stages after it end with the reason; the settings of the box are there for them."""
    monkeypatch.setenv("EDGEPAAS_APP", "no_such_module:application")
    assert main(["env"]) == 0
    assert Settings.read(paths.env_contract).text("EDGEPAAS_APP") == "no_such_module:application"
    assert main(["env", "--explain"]) == 0
    assert "settings of the application's own are not read" in capsys.readouterr().out


def test_the_stage_stays_lean_though_it_asks_the_application(paths: Paths) -> None:
    """It looks for the entry point itself, and the application imports no framework."""
    heavy = ("importlib.metadata", "flask", "sqlalchemy", "marshmallow", "requests", "pg8000")
    code = (
        "import sys\nfrom edgepaas.cli import main\nstatus = main(['env'])\n"
        f"print([status, *(name for name in {heavy!r} if name in sys.modules)])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "EDGEPAAS_HOME": paths.home},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "[0]"
    assert "READINGS_MAX" in Settings.read(paths.env_contract).own
