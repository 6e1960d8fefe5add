# SPDX-License-Identifier: Apache-2.0
"""One secret from Vault or OpenBao: KV version 2 over HTTP, within a real deadline."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from edgepaas.errors import ConfigurationError

if TYPE_CHECKING:
    from http.client import HTTPResponse

_LONGEST_ANSWER = 1024 * 1024

#: What a status means here (Vault's HTTP API, "HTTP status codes").
_MEANINGS = {
    400: "it does not understand the request",
    403: "VAULT__TOKEN may not read VAULT__PATH, or has expired",
    404: "there is no secret at VAULT__PATH",
    429: "it is a standby; VAULT__URL must name the active server",
    472: "it is a recovery replica; VAULT__URL must name the active server",
    473: "it is a performance standby; VAULT__URL must name the active server",
    501: "it is not initialised",
    503: "it is sealed or in maintenance",
}


class VaultUnavailable(ConfigurationError):
    """The secret could not be read; the message says why and never holds the token."""


@dataclass(frozen=True)
class VaultAccess:
    """How to reach the secret; *timeout* in seconds bounds the whole exchange."""

    url: str
    token: str = field(repr=False)
    path: str
    cacert: str
    timeout: float

    @property
    def secret_url(self) -> str:
        """The secret's address: ``<url>/v1/<mount>/data/<path>``.

        The API of KV version 2 has ``data`` behind the mount (Vault's HTTP API, "Read
        secret version"); a path as the command line writes it lacks it.
        """
        parts = [part for part in self.path.strip("/").split("/") if part]
        if parts[:1] == ["v1"]:
            parts = parts[1:]
        if "data" not in parts[1:-1]:
            parts.insert(1, "data")
        return f"{self.url.rstrip('/')}/v1/{quote('/'.join(parts))}"


def read_vault(access: VaultAccess) -> Mapping[str, str]:
    """Return the secret's keys and values; raises VaultUnavailable.

    The work is done in a daemon thread: neither a dead resolver nor a server that drips
    a byte at a time obeys a socket's timeout.
    """
    import threading

    outcome: list[Mapping[str, str] | BaseException] = []

    def work() -> None:
        try:
            outcome.append(_fetch(access))
        except BaseException as error:  # noqa: BLE001 - handed to the thread that waits
            outcome.append(error)

    thread = threading.Thread(target=work, name="vault", daemon=True)
    thread.start()
    thread.join(access.timeout)
    host = urlsplit(access.url).netloc
    if not outcome:
        raise VaultUnavailable(f"{host} gave no answer within {access.timeout:g} s")
    result = outcome[0]
    if isinstance(result, VaultUnavailable):
        raise VaultUnavailable(f"{host}: {result}") from result
    if isinstance(result, BaseException):
        raise VaultUnavailable(f"{host} cannot be used ({result})") from result
    return result


def _fetch(access: VaultAccess) -> Mapping[str, str]:
    import http.client
    import ssl

    token = access.token.strip()
    if not (token.isascii() and token.isprintable()):
        # http.client would say so too, and repeat the token in its message.
        raise VaultUnavailable("VAULT__TOKEN holds a character that no token has")
    parts = urlsplit(access.secret_url)
    connection: http.client.HTTPConnection
    if parts.scheme == "https":
        context = ssl.create_default_context(cafile=access.cacert or None)
        connection = http.client.HTTPSConnection(
            parts.netloc, timeout=access.timeout, context=context
        )
    else:
        connection = http.client.HTTPConnection(parts.netloc, timeout=access.timeout)
    try:
        connection.request(
            "GET",
            parts.path,
            headers={"X-Vault-Token": token, "X-Vault-Request": "true"},
        )
        return _understand(connection.getresponse())
    finally:
        connection.close()


def _understand(response: "HTTPResponse") -> Mapping[str, str]:
    if 300 <= response.status < 400:
        # Following it would hand the token to whatever host the answer names.
        target = urlsplit(response.headers.get("Location", "")).netloc or "elsewhere"
        raise VaultUnavailable(f"it points to {target}; VAULT__URL must name that server")
    if response.status != 200:
        meaning = _MEANINGS.get(response.status, "the server's own trouble")
        raise VaultUnavailable(f"it answered {response.status}: {meaning}")
    body = response.read(_LONGEST_ANSWER + 1)
    if len(body) > _LONGEST_ANSWER:
        raise VaultUnavailable(f"its answer is longer than {_LONGEST_ANSWER} bytes")
    try:
        data: Any = json.loads(body)
        secret = data["data"]["data"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise VaultUnavailable(
            "its answer is not a secret of KV version 2 (is VAULT__PATH one?)"
        ) from None
    if not isinstance(secret, dict):
        raise VaultUnavailable("the secret's newest version was deleted")
    return {str(key): _text(value) for key, value in secret.items() if value is not None}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
