# SPDX-License-Identifier: Apache-2.0
"""At which URL the box's own service is reached from the box itself: the one place that says it."""

import contextlib
from typing import TYPE_CHECKING

from edgepaas.errors import EdgePaaSError
from edgepaas.files.paths import Paths

if TYPE_CHECKING:
    from edgepaas.settings.values import Settings

#: How the service speaks. TLS on the port begins in edgepaas.httpd and changes this.
SCHEME = "http"


def url_at(host: str, port: int | str) -> str:
    """Return the URL of a service that listens on *host* and *port*, for a client on the box.

    Where it listens on every address (``0.0.0.0``, ``::`` for both families) loopback is named.
    """
    if host in ("0.0.0.0", "::"):
        host = "127.0.0.1"
    return f"{SCHEME}://[{host}]:{port}" if ":" in host else f"{SCHEME}://{host}:{port}"


def publication(host: str, port: int | str) -> str:
    """Return what ``run/address`` holds of a service that listens on *host* and *port*."""
    return f"{url_at(host, port)}\n{host} {port}\n"


def network_urls(paths: Paths) -> list[str]:
    """Return the URLs under which other machines reach the box, as it listens now.

    None where it listens on loopback alone, or on a Unix socket, or has no network.
    """
    from edgepaas.files.own_addresses import reached_at

    if listens_on_the_box_alone(paths):
        return []
    host, port = _listens_at(paths)
    return [url_at(one, port) for one in reached_at(host)]


def listens_on_the_box_alone(paths: Paths) -> bool:
    """Whether no other machine could reach the service, whatever network there is."""
    host, port = _listens_at(paths)
    return not port or host.startswith("127.") or host in ("::1", "localhost")


def _listens_at(paths: Paths) -> tuple[str, str]:
    """Return host and port, as published, else as set; no port: a Unix socket."""
    with contextlib.suppress(OSError, ValueError):
        lines = paths.address.read_text(encoding="ascii").splitlines()
        if lines and lines[0].startswith("unix:"):
            return lines[0], ""
        if len(lines) > 1:
            host, port = lines[1].split()
            return host, port
    settings = _settings(paths)
    return settings.text("HOST"), settings.text("PORT")


def published_url(paths: Paths) -> str:
    """Return the URL that the service published in ``run/address``; "" where it has none yet.

    It is the one thing that every user of the box may read. A Unix socket has no URL.
    """
    with contextlib.suppress(OSError, ValueError):  # it has never served
        address = paths.address.read_text(encoding="ascii").partition("\n")[0].strip()
        if address.startswith(("http://", "https://")):
            return address
    return ""


def own_url(paths: Paths) -> str:
    """Return the published URL, else that of the settings as far as this user may read them."""
    if published := published_url(paths):
        return published
    settings = _settings(paths)
    return url_at(settings.text("HOST"), settings.text("PORT"))


def _settings(paths: Paths) -> "Settings":
    from edgepaas.settings.values import Settings

    try:
        return Settings.read(paths.env_contract)
    except (EdgePaaSError, OSError):  # not readable for this user, or none yet: the defaults
        return Settings.of()
