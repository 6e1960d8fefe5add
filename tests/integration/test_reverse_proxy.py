# SPDX-License-Identifier: Apache-2.0
"""A box behind a proxy on its own loopback: what comes through is a client's, never the box's."""

import http.client
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgepaas.files.paths import Paths
from edgepaas.web.access.tokens import TokenStore
from tests.support.boxes import make_box
from tests.support.loop_box import LoopBox, serving_in_loop
from tests.support.proxies import documented_nginx, nginx, small_proxy

PATH = "/api/things"
HAS_NGINX = shutil.which("nginx") is not None


@pytest.fixture(params=["small", "nginx"])
def kind(request: pytest.FixtureRequest) -> str:
    if request.param == "nginx" and not HAS_NGINX:
        pytest.skip("nginx is not installed")
    return str(request.param)


@pytest.fixture
def box(paths: Paths, request: pytest.FixtureRequest) -> Iterator[LoopBox]:
    made = make_box(paths, **getattr(request, "param", {}))
    with serving_in_loop(made.app) as served:
        yield served


def front(kind: str, folder: Path, box: LoopBox, *, tells: bool) -> "Iterator[int]":
    port = box.address[1]
    return small_proxy(port, tells=tells) if kind == "small" else nginx(folder, port, tells=tells)  # type: ignore[return-value]


def asked(port: int, method: str = "GET", **headers: str) -> int:
    """Return the status of the answer through the proxy."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    body = b'{"name":"x"}' if method == "POST" else None
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, PATH, body, {"Content-Type": "application/json", **given})
    status = connection.getresponse().status
    connection.close()
    return status


@pytest.mark.parametrize("tells", [True, False], ids=["told", "by default"])
@pytest.mark.parametrize(
    "box",
    [
        {"ENV": "production", "TRUSTED_PROXIES": "127.0.0.1"},
        {"ENV": "development", "TRUSTED_PROXIES": "127.0.0.0/8 ::1"},
    ],
    indirect=True,
)
def test_nobody_behind_a_trusted_proxy_is_the_box_itself(
    box: LoopBox, paths: Paths, tmp_path: Path, kind: str, *, tells: bool
) -> None:
    """Whatever a client writes into its request, and whether or not the proxy names it."""
    _, secret = TokenStore(paths.tokens).create("device", read_only=False)
    with front(kind, tmp_path, box, tells=tells) as port:  # type: ignore[attr-defined]
        assert asked(port) == 401
        assert asked(port, "POST") == 401
        for made_up in ("127.0.0.1", "::1", "127.0.0.1, 127.0.0.1", "localhost", ""):
            assert asked(port, X_Forwarded_For=made_up) == 401
        assert asked(port, X_Real_IP="127.0.0.1", Forwarded="for=127.0.0.1") == 401
        assert asked(port, Authorization=f"Bearer {secret}") == 200
        assert asked(port, "POST", Authorization=f"Bearer {secret}") == 201


@pytest.mark.skipif(not HAS_NGINX or os.geteuid() != 0, reason="nginx under another user")
@pytest.mark.parametrize("box", [{"ENV": "production"}], indirect=True)
def test_a_proxy_that_nobody_named_opens_nothing(box: LoopBox, tmp_path: Path) -> None:
    """nginx by its defaults: its workers are another user's, and say nothing of the client."""
    tmp_path.chmod(0o755)
    with nginx(tmp_path, box.address[1], tells=False) as port:
        assert asked(port) == 401
        assert asked(port, Host="127.0.0.1") == 401


@pytest.mark.parametrize(
    "box",
    [{"TRUSTED_PROXIES": "127.0.0.1", "AUTH_REQUIRED": "false", "RATE_LIMIT": "0.001",
      "RATE_BURST": "3"}],
    indirect=True,
)  # fmt: skip
def test_each_client_behind_a_proxy_has_its_own_rate(box: LoopBox) -> None:
    """Counted by what the proxy before the box says, not by what stands before that."""
    port = box.address[1]
    for made_up in ("192.0.2.1", "192.0.2.2", "192.0.2.3"):
        assert asked(port, X_Forwarded_For=f"{made_up}, 203.0.113.7") == 200
    assert asked(port, X_Forwarded_For="192.0.2.4, 203.0.113.7") == 429
    assert asked(port, X_Forwarded_For="203.0.113.8") == 200


def test_the_documented_proxy_says_whose_request_it_is() -> None:
    assert "X-Forwarded-For $proxy_add_x_forwarded_for" in documented_nginx()
