# SPDX-License-Identifier: Apache-2.0
"""An application as the box sees it: one object, made when its module is imported."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from flask import Blueprint
    from sqlalchemy import MetaData

    from edgepaas.app.box import Box
    from edgepaas.app.commands import Command
    from edgepaas.app.settings import Setting

#: A WSGI callable (PEP 3333).
WSGIApplication = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


class SmokeRequest(NamedTuple):
    """A request that a sound build of the application answers with the status *expect*."""

    method: str
    path: str
    expect: int = 200


@dataclass(frozen=True)
class Application:
    """One application: named in the entry point group ``edgepaas.application``, or as
    ``module:attribute`` in EDGEPAAS_APP.

    *name* and *version* are shown to people. The name also stands in the database: that of
    another application is refused. *formerly* are names that this one had, whose databases it
    goes on with.

    *models* is SQLAlchemy's MetaData (:mod:`edgepaas.app.models`) or a function that
    returns it. *migrations* is a folder as Alembic wants it
    (:mod:`edgepaas.app.migrations`); without one the tables are made from the models.

    *blueprints* is a function that returns Flask blueprints; those of
    :class:`edgepaas.app.api.ApiBlueprint` also appear in ``/openapi.json``. *wsgi* is a
    function that returns any WSGI application, which gets every path that is not the
    platform's. One of the two has to be given. *guarded* says that the box's tokens guard
    every path; an application with a sign-in of its own says False.

    *smoke* are requests that a sound build answers. *settings* are settings of its own
    (:mod:`edgepaas.app.settings`), *commands* its sub-commands on the command line
    (:mod:`edgepaas.app.commands`). *example* is a command that shows people on ``/`` how to
    use it; ``{box}`` in it is the box's address.
    """

    name: str
    version: str = ""
    models: "MetaData | Callable[[], MetaData] | None" = None
    migrations: Path | None = None
    blueprints: "Callable[[Box], Sequence[Blueprint]] | None" = None
    wsgi: "Callable[[Box], WSGIApplication] | None" = None
    smoke: tuple[SmokeRequest, ...] = field(default=())
    settings: "tuple[Setting, ...]" = field(default=())
    commands: "tuple[Command, ...]" = field(default=())
    guarded: bool = True
    example: str = ""
    formerly: tuple[str, ...] = field(default=())
    #: What EDGEPAAS_APP called it, for messages; set by the platform when it loads it.
    loaded_as: str = field(default="", init=False, repr=False, compare=False)
