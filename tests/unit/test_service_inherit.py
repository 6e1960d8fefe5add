# SPDX-License-Identifier: Apache-2.0
"""Under systemd the service takes edgepaas.socket's socket or none."""

import socket

import pytest

from edgepaas.httpd.listen import ListenError, listening_sockets


def test_without_a_socket_handed_down_it_binds_none_of_its_own_if_told_so() -> None:
    """Binding one would hide that the shared socket is dead."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with pytest.raises(ListenError, match=rf"PORT={port}: no socket was handed down"):
        listening_sockets({}, "127.0.0.1", port, pid=1, may_bind=False)
