# SPDX-License-Identifier: Apache-2.0
"""Loading an application: what is named in EDGEPAAS_APP, and what goes wrong with it."""

import importlib
import logging
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Column, MetaData, String, Table

from edgepaas.app import Application, BoxState
from edgepaas.database.model import new_metadata
from edgepaas.errors import EXIT_CONFIGURATION, ConfigurationError, DatabaseUnavailable
from edgepaas.files.paths import Paths
from edgepaas.hosting.loading import load_application, metadata_of
from edgepaas.hosting.refusal import as_application_error
from edgepaas.telemetry.models import Model
from tests.support.boxes import make_box


class Holder:
    """What somebody took for a MetaData."""


_MODEL = (
    "from edgepaas.app.models import new_model_base\n"
    "from sqlalchemy.orm import Mapped, mapped_column\n"
    "Model = new_model_base()\n"
    "class Thing(Model{}):\n"
    "    __tablename__ = 'things'\n"
    "    id: Mapped[int] = mapped_column(primary_key=True)\n"
)
_BROKEN = {
    "broken_application": "raise RuntimeError('no licence file')\n",
    "unreadable_application": "# fine\ndef x(:\n",
    "needy_application": "import no_such_library\n",
    "leaving_application": "import sys\nsys.exit('enough')\n",
    "wrong_keyword": (
        "from edgepaas.app import Application\nx = Application(name='x', metadata=None)\n"
    ),
    "kindless": _MODEL.format(""),
    "serial": _MODEL.format(", kind='facts'"),
}


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module with applications of all kinds in it, importable by its name."""
    (tmp_path / "some_applications.py").write_text(
        "from edgepaas.app import Application\n"
        "class Holder:\n"
        "    good = Application(name='nested', wsgi=lambda box: None)\n"
        "good = Application(name='good', blueprints=lambda box: [])\n"
        "empty = Application(name='empty')\n"
        "text = 'not an application'\n"
    )
    for name, text in _BROKEN.items():
        (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    return "some_applications"


def test_an_installed_application_is_found_by_its_name() -> None:
    """The entry point group is searched first."""
    assert load_application(" telemetry ").name == "telemetry"


def test_an_application_is_found_as_module_and_attribute(module: str) -> None:
    """An application needs no entry point, and may lie in a class."""
    assert load_application(f"{module}:good").name == "good"
    assert load_application(f"{module}:Holder.good").name == "nested"


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("telemtry", "installed: .*telemetry"),
        ("", "there is no such application"),
        (":", "there is no such application"),
        ("some_applications", "there is no such application"),
        ("some_applications:nothing", "has no attribute nothing; name empty or good"),
        ("no_such_module:x", "no module no_such_module, .* in the current folder /"),
        ("broken_application:x", r"no licence file \(.*broken_application.py, line 1\)"),
        ("unreadable_application:x", r"SyntaxError: .*unreadable_application.py, line 2\)"),
        ("needy_application:x", "No module named 'no_such_library'"),
        ("leaving_application:x", "ended the process with 'enough'"),
        ("wrong_keyword:x", r"unexpected keyword argument 'metadata', did you mean models=\?"),
        ("kindless:x", r"table things has no kind: .*kindless.py, line 4\)"),
        ("serial:x", r"things.id is a serial key, .*serial.py, line 4\)"),
        ("some_applications:text", "that is a str"),
        ("some_applications:empty", "neither blueprints nor a WSGI callable"),
        ("..:x", "cannot be loaded"),
    ],
)
def test_what_cannot_be_loaded_names_the_setting_and_the_way_out(
    module: str, name: str, says: str
) -> None:
    """Every failure is one configuration error, never a traceback of its own."""
    with pytest.raises(ConfigurationError, match=says) as caught:
        load_application(name)
    assert f"EDGEPAAS_APP={name}" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == EXIT_CONFIGURATION


def test_a_traceback_is_logged_for_developers_alone(
    module: str, caplog: pytest.LogCaptureFixture
) -> None:
    """At DEBUG; the one line says so."""
    with caplog.at_level(logging.DEBUG), pytest.raises(ConfigurationError, match="LOG_LEVEL=DEBUG"):
        load_application("broken_application:x")
    assert [record.levelname for record in caplog.records if record.exc_info] == ["DEBUG"]


def test_a_module_in_the_current_folder_is_found_after_all_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a WSGI server finds it; a file there never takes a library's place."""
    text = "from edgepaas.app import Application\n"
    (tmp_path / "only_here.py").write_text(text + "x = Application(name='here', wsgi=print)\n")
    (tmp_path / "json.py").write_text("raise RuntimeError('the wrong json')\n")
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.chdir(tmp_path)
    assert load_application("only_here:x").name == "here"
    assert sys.path[-1] == str(tmp_path)


def test_a_current_folder_that_is_gone_holds_no_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was deleted under the process."""
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(ConfigurationError, match="no module not_here"):
        load_application("not_here:x")


@pytest.mark.parametrize(
    ("models", "says"),
    [
        (Holder, "models is a Holder, not SQLAlchemy's MetaData: write models=Model.metadata"),
        (lambda: importlib.import_module("no_such_library"), "No module named 'no_such_library'"),
        (new_metadata, "things has no kind"),
    ],
)
def test_models_that_cannot_be_used_are_told_in_one_line(
    models: Any, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever stage asks for them first."""

    def given() -> Any:
        found = models()
        if isinstance(found, MetaData):
            Table("things", found, Column("id", String, primary_key=True))
        return found

    application = Application(name="x", models=given, wsgi=lambda box: None)  # type: ignore[arg-type,return-value]
    monkeypatch.setitem(sys.modules, "held_here", types.SimpleNamespace(x=application))
    with pytest.raises(ConfigurationError, match=says) as caught:
        _ = metadata_of(load_application("held_here:x"))
    assert str(caught.value).startswith("EDGEPAAS_APP=held_here:x: its models cannot be used: ")


def test_what_the_box_says_itself_is_not_blamed_on_the_application() -> None:
    """A database that is lost while an application starts is no configuration."""
    with (
        pytest.raises(DatabaseUnavailable),
        as_application_error(Application(name="x"), "its blueprints"),
    ):
        raise DatabaseUnavailable("lost")


def test_authors_have_one_import_for_their_models() -> None:
    """And it costs nothing before they use it."""
    code = (
        "import sys, edgepaas.app\n"
        "before = 'sqlalchemy' in sys.modules\n"
        "import edgepaas.app.models as m\n"
        "print(before, [name for name in m.__all__ if not hasattr(m, name)])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False []"


def test_models_may_be_a_function_that_is_called_when_asked() -> None:
    """A boot stage that needs no models does not import them."""
    asked: list[str] = []

    def models() -> object:
        asked.append("models")
        return Model.metadata

    application = Application(name="late", models=models)  # type: ignore[arg-type]
    assert asked == []
    assert metadata_of(application) is Model.metadata
    assert metadata_of(Application(name="none")) is None


def test_importing_the_interface_and_the_built_in_application_is_light() -> None:
    """Stages that only look up the migrations' folder pay for no framework."""
    heavy = ("flask", "sqlalchemy", "marshmallow", "alembic", "psutil", "requests", "pg8000")
    code = (
        "import sys, edgepaas.app, edgepaas.telemetry\n"
        f"print([name for name in {heavy!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_state_shows_the_same_keys_everywhere() -> None:
    """The vocabulary's document is {state, mode, reasons}, and how the rows are on their way."""
    state = BoxState("fallback", "fallback", ("refused",))
    said = {"state": "fallback", "mode": "fallback", "reasons": ["refused"]}
    assert state.as_dict() == {**said, "forwarding": None}
    waiting = BoxState("fallback", "fallback", ("refused",), forwarding={"rows_waiting": 3})
    assert waiting.as_dict() == {**said, "forwarding": {"rows_waiting": 3}}


def test_an_application_has_folders_of_its_own(paths: Paths) -> None:
    """Beside the platform's, which it cannot be given; made when they are asked for."""
    box = make_box(paths).box
    folder = box.folder("archive-2")
    assert folder == paths.state / "archive-2"
    assert folder.is_dir()
    assert folder.stat().st_mode & 0o077 == 0
    assert box.folder("archive-2") == folder
    for name in ("../away", "Archive", "", "a/b", "a.b", "-a"):
        with pytest.raises(ValueError, match="choose another name"):
            box.folder(name)


def test_the_platforms_own_folders_are_no_applications(paths: Paths) -> None:
    """Every name in the state folder that could be taken for one word."""
    box = make_box(paths).box
    names = {
        path.name
        for name in vars(Paths)
        if isinstance(vars(Paths)[name], property)
        and isinstance(path := getattr(paths, name), Path)
        and path.parent == paths.state
    }
    assert {"backups", "quarantine"} <= names
    for name in names | {"drill"}:
        with pytest.raises(ValueError, match="choose another name"):
            box.folder(name)
