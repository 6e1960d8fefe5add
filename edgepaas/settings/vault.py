# SPDX-License-Identifier: Apache-2.0
"""One secret from Vault or OpenBao: KV version 2 over HTTP, within a real deadline."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from edgepaas.errors import ConfigurationError

if TYPE_CHECKING:
    from edgepaas.http_client import HttpAnswer

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

    No proxy is used and no redirect followed, since either would see the token.
    """
    # Here: a box without Vault does not pay for it. Not requests, which takes five times as
    # long to import as the exchange with a server nearby takes.
    from edgepaas.http_client import HttpFailure, fetch

    host = urlsplit(access.url).netloc.rpartition("@")[2]
    token = access.token.strip()
    if not (token.isascii() and token.isprintable()):
        raise VaultUnavailable(f"{host}: VAULT__TOKEN holds a character that no token has")
    try:
        answer = fetch(
            "GET",
            access.secret_url,
            deadline=access.timeout,
            headers={"X-Vault-Token": token, "X-Vault-Request": "true"},
            most_bytes=_LONGEST_ANSWER,
            cafile=access.cacert,
        )
        return _secret_in(answer)
    except HttpFailure as failure:
        if failure.kind == "timeout":
            raise VaultUnavailable(f"{host} gave no answer within {access.timeout:g} s") from None
        raise VaultUnavailable(f"{host} cannot be used ({failure})") from failure
    except VaultUnavailable as problem:
        raise VaultUnavailable(f"{host}: {problem}") from problem


def _secret_in(answer: "HttpAnswer") -> Mapping[str, str]:
    if 300 <= answer.status < 400:
        # Following it would hand the token to whatever host the answer names.
        target = urlsplit(answer.headers.get("location", "")).netloc or "elsewhere"
        raise VaultUnavailable(f"it points to {target}; VAULT__URL must name that server")
    if answer.status != 200:
        meaning = _MEANINGS.get(answer.status, "the server has a fault of its own")
        raise VaultUnavailable(f"it answered {answer.status}: {meaning}")
    if not answer.complete:
        raise VaultUnavailable(f"its answer is longer than {_LONGEST_ANSWER} bytes")
    try:
        data: Any = json.loads(answer.body)
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
