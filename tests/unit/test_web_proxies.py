# SPDX-License-Identifier: Apache-2.0
"""Whose a request from loopback is: the box's own, another user's, or one behind a proxy."""

import os
import socket
import subprocess
import sys
from typing import Any

import pytest

from edgepaas.files.paths import Paths
from edgepaas.web.access.peers import peer_users
from edgepaas.web.access.proxies import TrustedProxies
from tests.support.boxes import make_box
from tests.support.loop_box import serving_in_loop

ASK = """
import os, socket, sys
if int(sys.argv[2]):
    os.setgroups([]); os.setgid(int(sys.argv[2])); os.setuid(int(sys.argv[2]))
with socket.socket() as sock:
    sock.settimeout(60)
    sock.connect(("127.0.0.1", int(sys.argv[1])))
    sock.sendall(b"GET /api/things HTTP/1.0\\r\\nHost: 127.0.0.1\\r\\n\\r\\n")
    print(sock.recv(65536).split()[1].decode())
"""


def _status(port: int, user: int) -> str:
    """Return what a program of *user* is answered that asks as nginx does by default."""
    done = subprocess.run(
        [sys.executable, "-c", ASK, str(port), str(user)],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return done.stdout.strip()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user")
@pytest.mark.parametrize(
    ("user", "settings", "status"),
    [
        (0, {"ENV": "production"}, "200"),
        (33, {"ENV": "production"}, "401"),
        (33, {"ENV": "development"}, "200"),
        (0, {"ENV": "production", "TRUSTED_PROXIES": "127.0.0.0/8"}, "401"),
        (0, {"ENV": "development", "TRUSTED_PROXIES": "127.0.0.1"}, "401"),
    ],
)
def test_what_loopback_means(
    paths: Paths, user: int, settings: dict[str, Any], status: str
) -> None:
    with serving_in_loop(make_box(paths, **settings).app) as served:
        assert _status(served.address[1], user) == status


def test_who_is_at_the_other_end_is_known_for_both_families() -> None:
    for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        with socket.create_server((address, 0), family=family) as listener:
            with socket.create_connection(listener.getsockname()[:2]) as client:
                port = client.getsockname()[1]
                assert peer_users(address, port) == {os.geteuid()}
            assert peer_users(address, 1) == set()


@pytest.mark.parametrize(
    ("forwarded", "client"),
    [
        ("203.0.113.7", "203.0.113.7"),
        ("192.0.2.66, 203.0.113.7", "203.0.113.7"),
        ("203.0.113.7, 10.1.2.3", "203.0.113.7"),
        ("203.0.113.7:4711", "203.0.113.7"),
        ("[2001:db8::7]:4711", "2001:db8::7"),
        ("", "127.0.0.1"),
        ("unknown", "127.0.0.1"),
        ("203.0.113.7, unknown", "127.0.0.1"),
    ],
)
def test_the_client_is_the_last_address_that_is_no_proxys(forwarded: str, client: str) -> None:
    """What stands before it the client may have made up."""
    proxies = TrustedProxies(["127.0.0.1", "10.0.0.0/8"])
    assert proxies.client("127.0.0.1", forwarded) == client


@pytest.mark.parametrize("address", ["127.0.0.1", "::ffff:127.0.0.1", "localhost", "10.9.8.7"])
def test_a_proxy_is_known_in_each_of_its_spellings(address: str) -> None:
    assert address in TrustedProxies(["127.0.0.1", "10.0.0.0/8"])
    assert address not in TrustedProxies([])
