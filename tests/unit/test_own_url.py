# SPDX-License-Identifier: Apache-2.0
"""The box's own URL: published by the service, else of the settings, else of the defaults."""

import socket

import pytest

from edgepaas.app.commands import box_address
from edgepaas.files.paths import Paths
from edgepaas.httpd.listen import Listening
from edgepaas.settings import Settings
from edgepaas.settings.own_url import own_url, published_url, url_at


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:80"),
        ("0.0.0.0", "http://127.0.0.1:80"),
        ("::", "http://127.0.0.1:80"),
        ("::1", "http://[::1]:80"),
        ("box.example", "http://box.example:80"),
    ],
)
def test_a_listener_is_reached_under_an_address_that_can_be_opened(host: str, url: str) -> None:
    assert url_at(host, 80) == url


def test_the_published_address_counts_before_the_settings(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgepaas.files.paths.find_paths", lambda: paths)
    assert (published_url(paths), own_url(paths)) == ("", "http://127.0.0.1:8080")
    for damaged in (b"\xff", b"unix:/run/box", b""):
        paths.address.write_bytes(damaged)
        assert published_url(paths) == ""
        assert own_url(paths) == "http://127.0.0.1:8080"
    with socket.create_server(("127.0.0.1", 0)) as sock:
        (url,) = Listening((sock,), inherited=False).addresses
    paths.address.write_text(f"{url}\n")
    assert published_url(paths) == own_url(paths) == box_address() == url


def test_without_a_published_address_the_settings_say_where(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "edgepaas.settings.values.Settings.read",
        lambda contract: Settings.of(HOST="::1", PORT="8181"),
    )
    assert own_url(paths) == "http://[::1]:8181"
