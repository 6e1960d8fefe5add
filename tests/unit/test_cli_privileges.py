# SPDX-License-Identifier: Apache-2.0
"""Who may run a command on an installed box or in the image, and who is told what to do."""

import os
import pwd
from collections.abc import Callable
from pathlib import Path

import pytest

from edgepaas.cli import privileges
from edgepaas.cli.privileges import NotAllowed, become_service_user

ME, SERVICE, STRANGER = 12345, 10001, 54321


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The state folder of an installed box, on which this process runs as the user ME."""
    folder = tmp_path / "state"
    folder.mkdir()
    monkeypatch.setenv("RUNTIME_DIRECTORY", "/run/edgepaas")
    monkeypatch.setenv("STATE_DIRECTORY", str(folder))
    monkeypatch.delenv("EDGEPAAS_HOME", raising=False)
    monkeypatch.setattr(privileges, "SYSTEM_CONFIGURATION", tmp_path)
    account = pwd.struct_passwd(("edgepaas", "x", SERVICE, SERVICE, "", str(folder), ""))
    monkeypatch.setattr(pwd, "getpwnam", lambda _: account)
    monkeypatch.setattr(os, "geteuid", lambda: ME)
    return folder


def writable(yes: bool) -> Callable[..., bool]:
    """A stand-in for access(2)."""
    return lambda *_: yes


def owned_by(user: int, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have *path* belong to *user* for everybody who looks."""
    path.write_text("")
    real = Path.stat

    def stat(self: Path) -> os.stat_result:
        found = real(self)
        return os.stat_result((*found[:4], user, *found[5:10])) if self == path else found

    monkeypatch.setattr(Path, "stat", stat)


def test_a_user_that_may_write_the_state_is_the_service_s(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cluster gives a container a number that nobody knows."""
    became: list[tuple[int, ...]] = []
    monkeypatch.setattr(os, "setresuid", lambda *ids: became.append(ids))
    monkeypatch.setattr(os, "access", writable(True))
    become_service_user("up")
    owned_by(ME, state / "node.json", monkeypatch)
    become_service_user("token")
    assert became == [], "it is that user already"


def test_a_user_that_may_not_is_told_which_one_may(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", writable(False))
    with pytest.raises(NotAllowed, match=f"user of {state} .'--user {SERVICE}'"):
        become_service_user("token")


def test_a_user_whose_files_would_lie_among_another_s_is_refused(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They would lock the service out of its own folder."""
    monkeypatch.setattr(os, "access", writable(True))
    owned_by(STRANGER, state / "node.json", monkeypatch)
    with pytest.raises(NotAllowed, match="sudo edgepaas token"):
        become_service_user("token")


@pytest.mark.usefixtures("state")
def test_a_root_without_the_right_to_become_another_is_told_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """'docker run --cap-drop ALL --user 0'."""

    def forbidden(_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(os, "setgroups", forbidden)
    with pytest.raises(NotAllowed, match=f"no CAP_SETUID.*'--user {SERVICE}'"):
        become_service_user("up")
