"""Loading an application: what is named in EDGEPAAS_APP, and what goes wrong with it."""

import subprocess
import sys
from pathlib import Path

import pytest

from edgepaas.application import Application, BoxState, load_application
from edgepaas.errors import EXIT_CONFIGURATION, ConfigurationError


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module with applications of all kinds in it, importable by its name."""
    (tmp_path / "some_applications.py").write_text(
        "from edgepaas.application import Application\n"
        "class Holder:\n"
        "    good = Application(name='nested', wsgi=lambda box: None)\n"
        "good = Application(name='good', blueprints=lambda box: [])\n"
        "empty = Application(name='empty')\n"
        "text = 'not an application'\n"
    )
    (tmp_path / "broken_application.py").write_text("raise RuntimeError('no licence file')\n")
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
        ("some_applications:nothing", "AttributeError"),
        ("no_such_module:x", "ModuleNotFoundError"),
        ("broken_application:x", "no licence file"),
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
    assert "EDGEPAAS_APP=" in str(caught.value)
    assert caught.value.exit_code == EXIT_CONFIGURATION


def test_models_may_be_a_function_that_is_called_when_asked() -> None:
    """A boot stage that needs no models does not import them."""
    asked: list[str] = []

    def models() -> object:
        asked.append("models")
        return "metadata"

    application = Application(name="late", models=models)  # type: ignore[arg-type]
    assert asked == []
    assert application.metadata == "metadata"
    assert Application(name="none").metadata is None


def test_importing_the_interface_and_the_built_in_application_is_light() -> None:
    """Stages that only look up the migrations' folder pay for no framework."""
    heavy = ("flask", "sqlalchemy", "marshmallow", "alembic", "psutil", "requests", "pg8000")
    code = (
        "import sys, edgepaas.application, edgepaas.telemetry\n"
        f"print([name for name in {heavy!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_state_shows_the_same_three_keys_everywhere() -> None:
    """The vocabulary's document is {state, mode, reasons}."""
    state = BoxState("fallback", "fallback", ("refused",))
    assert state.as_dict() == {"state": "fallback", "mode": "fallback", "reasons": ["refused"]}
