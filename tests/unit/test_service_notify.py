# SPDX-License-Identifier: Apache-2.0
"""sd_notify(3)."""

import os
from pathlib import Path

import pytest

from edgepaas.sd_notify import Notifier
from edgepaas.supervisor.notify_socket import NotifySocket
from tests.support.service_process import Manager, until


class Recorder:
    """Keeps what was sent."""

    def __init__(self) -> None:
        self.sent: list[str] = []

    def notify(self, state: str) -> None:
        """Take one message."""
        self.sent.append(state)


def test_without_a_manager_nothing_is_sent() -> None:
    """Every method may be called all the same."""
    notifier = Notifier.of({}, 1)
    notifier.ready("x")
    notifier.alive()
    notifier.reloading()
    assert notifier.watchdog == 0


def test_a_status_is_sent_once_and_in_one_line() -> None:
    """The same status again is no news."""
    recorder = Recorder()
    notifier = Notifier(recorder)
    notifier.status("a\nREADY=1")
    notifier.status("a READY=1")
    assert recorder.sent == ["STATUS=a READY=1"]


def test_a_status_arrives_as_utf_8(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """sdnotify encodes as Latin-1; systemd drops what is not UTF-8."""
    manager = Manager(tmp_path)
    monkeypatch.setenv("NOTIFY_SOCKET", str(manager.path))
    Notifier.of(os.environ, os.getpid()).ready("läuft · 85 °C → gut")
    assert manager.wait_for("STATUS=") == "STATUS=läuft · 85 °C → gut"
    manager.close()


@pytest.mark.parametrize(
    ("environ", "seconds"),
    [
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "7"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "8"}, 0.0),
        ({"WATCHDOG_USEC": "soon"}, 0.0),
        ({}, 0.0),
    ],
)
def test_the_watchdog_is_for_the_process_that_is_named(
    tmp_path: Path, environ: dict[str, str], seconds: float
) -> None:
    """sd_watchdog_enabled(3)."""
    environ = environ | {"NOTIFY_SOCKET": str(tmp_path / "none")}
    assert Notifier.of(environ, 7).watchdog == seconds


def test_a_mailbox_hears_only_the_process_it_is_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel says who sent a message, and nobody can lie about it."""
    notify_socket = NotifySocket()
    monkeypatch.setenv("NOTIFY_SOCKET", notify_socket.address)
    notifier = Notifier.of(os.environ, os.getpid())
    notifier.alive()
    assert notify_socket.read(os.getpid() + 1) == []
    notifier.ready("standalone")
    lines = until(lambda: notify_socket.read(os.getpid()), "the message")
    assert lines == ["READY=1", "STATUS=standalone"]
    notify_socket.close()
