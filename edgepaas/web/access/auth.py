# SPDX-License-Identifier: Apache-2.0
"""Access: which requests need a token, and what a token may do.

In production every write needs a token, and so does every read from beyond the box, and from
programs on it that are neither root's nor the service's own user's.
In development (AUTH_REQUIRED not given, ENV=development) the loopback is open.
AUTH_REQUIRED=false, given in so many words, opens the box to everybody.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flask import Flask, Request, g, request

from edgepaas.apikit.caller import LOCAL, Caller
from edgepaas.apikit.problems import Problem
from edgepaas.web.access.locality import is_local_environ
from edgepaas.web.access.peers import is_own_program
from edgepaas.web.access.tokens import TokenStore
from edgepaas.web.probe_paths import is_probe

if TYPE_CHECKING:
    from edgepaas.settings import Settings

#: Methods that change nothing (RFC 9110, 9.2.1).
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})

_CHALLENGE = {"WWW-Authenticate": 'Bearer realm="edgepaas"'}


@dataclass(frozen=True)
class AccessRules:
    """What is open without a token: reads and writes from loopback, health routes from anywhere."""

    local_writes: bool
    everybody: bool
    health: bool

    @classmethod
    def of(cls, settings: "Settings") -> "AccessRules":
        """Read the rules out of AUTH_REQUIRED, ENV and HEALTH_AUTH."""
        required = settings.flag("AUTH_REQUIRED")
        return cls(
            local_writes=not required,
            everybody=not required and settings.is_given("AUTH_REQUIRED"),
            health=not settings.flag("HEALTH_AUTH"),
        )


class Guard:
    """Identifies the caller of a request, or refuses it with a Problem."""

    def __init__(self, rules: AccessRules, tokens: TokenStore) -> None:
        self.rules = rules
        self._tokens = tokens

    def admit(self, given: Request) -> Caller:
        """Return the caller of *given*; Problem 401 without a valid token, 403 for a reader."""
        writes = given.method not in SAFE_METHODS
        authorization = given.headers.get("Authorization")
        return self.identify(authorization, lambda: self.is_open_to(given.environ), writes=writes)

    def find(
        self, authorization: str | None, *, is_local: Callable[[], bool], writes: bool = True
    ) -> Caller | None:
        """Return who sends this Authorization header; None: the request is to be refused.

        *is_local* says whether the request comes from a program of this box, for itself.
        """
        try:
            return self.identify(authorization, is_local, writes=writes)
        except Problem:
            return None

    def is_open_to(self, environ: dict[str, Any]) -> bool:
        """Whether the request comes from a program of this box that needs no token to read.

        In production that is one of root's or of the service's own user, not any user's.
        """
        if not is_local_environ(environ):
            return False
        address, port = environ.get("REMOTE_ADDR", ""), environ.get("REMOTE_PORT")
        if self.rules.local_writes or address == "localhost" or port is None:
            return True  # development; a Unix socket, whose folder says who may connect
        return is_own_program(address, int(port))

    def identify(
        self, authorization: str | None, is_local: Callable[[], bool], *, writes: bool
    ) -> Caller:
        """Return who sends this Authorization header; raises Problem as :meth:`admit` does."""
        presented = _presented(authorization)
        if presented is not None:
            token = self._tokens.find(presented)
            if token is None:
                raise Problem(401, "This token is not valid, or was revoked.", headers=_CHALLENGE)
            if writes and token.read_only:
                raise Problem(403, f"The token {token.name} may only read.")
            return Caller(id=token.id, name=token.name, read_only=token.read_only)
        if self.rules.everybody:
            return LOCAL
        if is_local() and (not writes or self.rules.local_writes):
            return LOCAL
        raise Problem(401, headers=_CHALLENGE)


def is_platform_view(app: Flask) -> bool:
    """Tell whether the view that the request was routed to is one of the platform's own."""
    view = app.view_functions.get(request.endpoint or "")
    return bool(getattr(view, "platform", False))


def is_platform_probe(app: Flask) -> bool:
    """Tell whether a health route of the platform, and no other view, answers the request.

    What counts is where the request was routed to, not what its path looks like: below
    ``/health/`` an application may have routes of its own.
    """
    rule = request.url_rule
    return rule is not None and is_platform_view(app) and is_probe(request.method, rule.rule)


def install_guard(app: Flask, guard: Guard, *, application_guarded: bool = True) -> None:
    """Have every request of *app* admitted by *guard* before its view runs."""

    @app.before_request
    def admit() -> None:
        open_to_all = (guard.rules.health and is_platform_probe(app)) or (
            not application_guarded and not is_platform_view(app)
        )
        g.caller = LOCAL if open_to_all else guard.admit(request)


def _presented(header: str | None) -> str | None:
    if header is None:
        return None
    scheme, _, token = header.strip().partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise Problem(
            401,
            "The Authorization header has to be 'Bearer TOKEN'.",
            headers=_CHALLENGE,
        )
    return token.strip()
