# SPDX-License-Identifier: Apache-2.0
"""Sockets, bound or handed down."""

import errno
import os
import socket
from pathlib import Path

import pytest

from edgepaas.httpd.listen import (
    ListenError,
    Listening,
    address_mismatch,
    bind,
    inherited_sockets,
)
from edgepaas.httpd.port_holder import port_holder


def test_a_bound_socket_listens_and_has_an_address_to_open() -> None:
    """All addresses: loopback is the one that can be opened on the box."""
    (sock,) = bind("0.0.0.0", 0)
    with sock:
        port = sock.getsockname()[1]
        assert Listening((sock,), inherited=False).addresses == (f"http://127.0.0.1:{port}",)
        socket.create_connection(("127.0.0.1", port)).close()


def test_a_taken_port_is_named_with_its_holder() -> None:
    """HOST, PORT, who has it, what to do."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ListenError) as caught:
            bind("127.0.0.1", port, patience=0)
    assert f"HOST=127.0.0.1 PORT={port}: the port is taken by" in str(caught.value)
    assert f"(process {os.getpid()})" in str(caught.value)
    assert "set another PORT" in str(caught.value)


@pytest.mark.parametrize(
    ("host", "said"),
    [("192.0.2.1", "has no such address"), ("no.such.host.invalid", "cannot be resolved")],
)
def test_an_address_that_cannot_be_had_is_explained(host: str, said: str) -> None:
    """192.0.2.1 is for documentation (RFC 5737), .invalid is never resolved (RFC 6761)."""
    with pytest.raises(ListenError, match=said) as caught:
        bind(host, 0, patience=0)
    assert f"HOST={host}" in str(caught.value)


def test_a_port_that_is_let_go_within_the_patience_is_had(monkeypatch: pytest.MonkeyPatch) -> None:
    """A predecessor that is just ending is waited for."""
    from edgepaas.httpd import listen

    attempts = []
    real = listen._bind_all

    def taken_once(host: str, port: int) -> list[socket.socket]:
        attempts.append(port)
        if len(attempts) == 1:
            raise OSError(errno.EADDRINUSE, "taken")
        return real(host, port)

    monkeypatch.setattr(listen, "_bind_all", taken_once)
    for sock in bind("127.0.0.1", 0, patience=10):
        sock.close()
    assert len(attempts) == 2


def test_sockets_of_another_process_are_not_ours() -> None:
    """LISTEN_PID says for whom they are; the variables go no further."""
    environ = {"LISTEN_PID": "1", "LISTEN_FDS": "1", "LISTEN_FDNAMES": "x", "PATH": "/bin"}
    assert inherited_sockets(environ, pid=2) == []
    assert environ == {"PATH": "/bin"}


def test_a_senseless_announcement_is_an_error() -> None:
    """Nothing is bound in place of what was promised."""
    for count in ("0", "-1", "many", "1000"):
        with pytest.raises(ListenError, match=f"LISTEN_FDS={count}"):
            inherited_sockets({"LISTEN_PID": "2", "LISTEN_FDS": count}, pid=2)


def test_an_announced_descriptor_that_is_not_there_is_an_error() -> None:
    """99 descriptors are announced; no test has them all as listening sockets."""
    with pytest.raises(ListenError, match="LISTEN_FDS announces descriptor"):
        inherited_sockets({"LISTEN_PID": "2", "LISTEN_FDS": "99"}, pid=2)


def test_nobody_holds_a_free_port(tmp_path: Path) -> None:
    """Nor where /proc tells nothing."""
    assert port_holder(1) == ""
    assert port_holder(80, proc=tmp_path) == ""


@pytest.mark.parametrize(
    ("host", "differs"),
    [
        ("127.0.0.1", False),
        ("localhost", False),
        ("0.0.0.0", True),
        ("127.0.0.2", True),
        ("::1", True),
    ],
)
def test_a_socket_that_listens_elsewhere_than_the_settings_say_is_noticed(
    host: str, differs: bool
) -> None:
    """The address where HOST is one, and the port in any case."""
    bound = bind("127.0.0.1", 0)
    port = bound[0].getsockname()[1]
    listening = Listening(tuple(bound), inherited=True)
    said = address_mismatch(listening, host, port)
    assert bool(said) is differs
    other = address_mismatch(listening, host, port - 1)
    assert other == (
        f"HOST={host} PORT={port - 1} is set, but the socket that was handed down listens on "
        f"127.0.0.1 port {port}"
    )
    bound[0].close()


def test_every_address_of_either_family_is_the_same_to_listen_on() -> None:
    """systemd's ListenStream=8080 binds ``::`` for both."""
    bound = bind("0.0.0.0", 0)
    listening = Listening(tuple(bound), inherited=True)
    assert address_mismatch(listening, "::", bound[0].getsockname()[1]) == ""
    bound[0].close()
