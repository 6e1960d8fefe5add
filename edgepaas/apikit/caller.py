# SPDX-License-Identifier: Apache-2.0
"""Who is calling, as the views see it."""

from dataclasses import dataclass

from flask import g


@dataclass(frozen=True)
class Caller:
    """Who sent the request: a token's *id* and *name*, or ``local`` for an open loopback."""

    id: str
    name: str
    read_only: bool


#: The caller where no token is needed: a client on loopback in development.
LOCAL = Caller(id="local", name="local", read_only=False)


def current_caller() -> Caller:
    """Return the current request's caller; LOCAL where no token was needed."""
    caller = getattr(g, "caller", None)
    return caller if isinstance(caller, Caller) else LOCAL
