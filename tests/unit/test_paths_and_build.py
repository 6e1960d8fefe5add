# SPDX-License-Identifier: Apache-2.0
"""Where everything lies, and which build this is."""

import importlib
from pathlib import Path

import pytest

from edgepaas import __version__, build
from edgepaas.errors import ConfigurationError
from edgepaas.files import paths as paths_module
from edgepaas.files.paths import find_paths


@pytest.fixture(autouse=True)
def _no_installed_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths_module, "SYSTEM_CONFIGURATION", tmp_path / "etc" / "edgepaas")


def test_one_home_holds_everything(tmp_path: Path) -> None:
    found = find_paths({"EDGEPAAS_HOME": str(tmp_path), "RUNTIME_DIRECTORY": "/run/other"})
    assert found.env_contract == tmp_path / "run" / "env"
    assert found.sqlite == tmp_path / "state" / "edgepaas.db"
    assert found.alerts == tmp_path / "spool" / "alerts"
    assert found.env_file == tmp_path / "edgepaas.env"


def test_systemd_hands_over_its_folders_and_the_first_of_a_list_is_ours() -> None:
    found = find_paths(
        {"RUNTIME_DIRECTORY": "/run/edgepaas:/run/more", "STATE_DIRECTORY": "/srv/state"}
    )
    assert found.runtime == Path("/run/edgepaas")
    assert found.state == Path("/srv/state")
    assert found.logs == Path("/var/log/edgepaas")


def test_an_installed_package_is_found_without_systemd_s_variables(tmp_path: Path) -> None:
    (tmp_path / "etc" / "edgepaas").mkdir(parents=True)
    found = find_paths({})
    assert found.state == Path("/var/lib/edgepaas")
    assert found.env_file == tmp_path / "etc" / "edgepaas" / "edgepaas.env"


def test_a_developer_s_box_lies_in_the_xdg_state_folder(tmp_path: Path) -> None:
    found = find_paths({"XDG_STATE_HOME": str(tmp_path), "EDGEPAAS_ENV_FILE": "/x/.env"})
    assert found.state == tmp_path / "edgepaas" / "state"
    assert found.env_file == Path("/x/.env")


def test_a_relative_xdg_folder_is_ignored_as_its_specification_says() -> None:
    assert find_paths({"XDG_STATE_HOME": "state"}).state.is_absolute()


def test_the_folders_are_for_the_owner_alone(tmp_path: Path) -> None:
    found = find_paths({"EDGEPAAS_HOME": str(tmp_path / "box")})
    found.create()
    found.create()
    for folder in (found.runtime, found.state, found.logs, found.spool):
        assert folder.stat().st_mode & 0o777 == 0o700


COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    ("files", "commit"),
    [
        ({"HEAD": COMMIT}, COMMIT),
        ({"HEAD": "ref: refs/heads/main\n", "refs/heads/main": f"{COMMIT}\n"}, COMMIT),
        (
            {"HEAD": "ref: refs/heads/main", "packed-refs": f"# pack\n{COMMIT} refs/heads/main"},
            COMMIT,
        ),
        ({"HEAD": "ref: refs/heads/unborn"}, ""),
        ({}, ""),
    ],
)
def test_the_commit_is_read_from_the_checkout(
    files: dict[str, str], commit: str, tmp_path: Path
) -> None:
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    assert build._checkout_commit(tmp_path) == commit


def test_the_build_version_begins_with_the_version() -> None:
    assert build.build_version().startswith(__version__)


def test_a_build_server_names_the_build_and_a_changed_tree_is_marked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What CI gave was ignored, and a dirty tree carried the clean commit's name."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "packaging" / "tools"))
    common = importlib.import_module("common")
    monkeypatch.setenv("BUILD_VERSION", "1.2.3+ci7")
    assert common.build_version() == "1.2.3+ci7"
    monkeypatch.setenv("BUILD_VERSION", '1"; import os')
    with pytest.raises(common.BuildError, match="BUILD_VERSION"):
        common.build_version()
    monkeypatch.delenv("BUILD_VERSION")
    for changed in (True, False):
        monkeypatch.setattr(common, "_is_dirty", lambda changed=changed: changed)
        assert common.build_version().endswith(".dirty") is changed


def test_a_home_that_cannot_be_made_is_named_with_the_way_out(tmp_path: Path) -> None:
    """One line: EDGEPAAS_HOME, its value, why, what to do."""
    (tmp_path / "file").write_text("")
    home = tmp_path / "file" / "box"
    with pytest.raises(ConfigurationError) as refused:
        find_paths({"EDGEPAAS_HOME": str(home)}).create()
    said = str(refused.value)
    assert said.startswith(f"EDGEPAAS_HOME={home}: the folder {home}/run cannot be made (Not a")
    assert said.endswith("set EDGEPAAS_HOME to a folder that this user may write")
    assert "\n" not in said


def test_the_home_of_a_user_that_nobody_knows_is_refused() -> None:
    """~name is resolved by the user database."""
    with pytest.raises(ConfigurationError, match="EDGEPAAS_HOME=~no-such-user/box: "):
        find_paths({"EDGEPAAS_HOME": "~no-such-user/box"})
