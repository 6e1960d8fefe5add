"""The public interface of applications: what the box runs, and what it hands to it.

An application is one object, named in the entry point group ``edgepaas.application``
or as ``module:attribute`` in ``EDGEPAAS_APP``. Importing this module, and the module
that holds the object, is to stay light: a boot stage that needs only the name of the
migrations' folder must not pay for Flask and SQLAlchemy.
"""

import importlib
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from edgepaas.alerts import Severity, raise_alert
from edgepaas.errors import ConfigurationError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

    from flask import Blueprint
    from sqlalchemy import MetaData

    from edgepaas.database import Database
    from edgepaas.decision.contract import DatabaseContract
    from edgepaas.files.paths import Paths
    from edgepaas.settings import Settings

#: Where installed distributions announce their applications.
ENTRY_POINT_GROUP = "edgepaas.application"

#: A WSGI callable (PEP 3333).
WSGIApplication = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]

logger = logging.getLogger("edgepaas.application")


class RaiseAlert(Protocol):
    """How an application tells a human (:func:`edgepaas.alerts.raise_alert`)."""

    def __call__(
        self, message: str, *, severity: Severity = ..., fingerprint: str = ..., origin: str = ...
    ) -> None: ...


@dataclass(frozen=True)
class BoxState:
    """In which state the box is: one word, how it keeps its data, and why.

    *state* is the highest word of the vocabulary that holds, *mode* what the decision
    said of the databases (``standalone``, ``local-first``, ``primary``, ``fallback``,
    ``draining``), *reasons* one line each for a person, the weightiest first, *since*
    when the word was first seen to hold (aware), None where nobody watches.
    """

    state: str
    mode: str
    reasons: tuple[str, ...] = ()
    since: datetime | None = None

    def as_dict(self) -> dict[str, object]:
        """Return ``{state, mode, reasons}`` as every surface shows it."""
        return {"state": self.state, "mode": self.mode, "reasons": list(self.reasons)}


@dataclass
class Box:
    """What the box hands to its application."""

    settings: "Settings"
    paths: "Paths"
    contract: "DatabaseContract"
    database: "Database"
    build_version: str
    #: The state right now; cheap, probes nothing.
    state: Callable[[], BoxState]
    alert: RaiseAlert = raise_alert


@dataclass(frozen=True)
class SmokeRequest:
    """A request that a sound build of the application answers with *expect*."""

    method: str
    path: str
    expect: int = 200


@dataclass(frozen=True)
class Application:
    """One application, as the box sees it.

    Give *blueprints* (Flask; those of :class:`edgepaas.web.api.ApiBlueprint` also
    appear in ``/openapi.json``) or *wsgi* (any WSGI application; it gets every path
    that is not the platform's own). *models* is SQLAlchemy's MetaData or a function
    that returns it, so that the application's module need not import its models;
    *migrations* is a folder as Alembic wants it. *guarded* says that the box's tokens
    guard every path; an application with a sign-in of its own says False.
    """

    name: str
    version: str = ""
    models: "MetaData | Callable[[], MetaData] | None" = None
    migrations: Path | None = None
    blueprints: "Callable[[Box], Sequence[Blueprint]] | None" = None
    wsgi: "Callable[[Box], WSGIApplication] | None" = None
    smoke: tuple[SmokeRequest, ...] = field(default=())
    guarded: bool = True

    @property
    def metadata(self) -> "MetaData | None":
        """The models' MetaData; imports them when *models* is a function."""
        return self.models() if callable(self.models) else self.models


def load_application(name: str) -> Application:
    """Return the application called *name*: an installed one, or ``module:attribute``.

    Raises ConfigurationError, which names EDGEPAAS_APP, what went wrong and what is
    installed. A failure inside the application's own module is logged in full.
    """
    from importlib.metadata import entry_points  # 16 ms that 'serve' has no time for at first

    target = name.strip()
    installed = {point.name: point for point in entry_points(group=ENTRY_POINT_GROUP)}
    try:
        loaded = _load(target, installed)
    except ConfigurationError:
        raise
    except Exception as error:
        logger.exception("loading the application %r failed", target)
        raise ConfigurationError(
            f"EDGEPAAS_APP={target}: the application cannot be loaded "
            f"({type(error).__name__}: {error}); the log holds the traceback"
        ) from error
    if not isinstance(loaded, Application):
        raise ConfigurationError(
            f"EDGEPAAS_APP={target}: that is a {type(loaded).__name__}, "
            "not an edgepaas.application.Application"
        )
    if loaded.blueprints is None and loaded.wsgi is None:
        raise ConfigurationError(
            f"EDGEPAAS_APP={target}: the application has neither blueprints nor a WSGI callable"
        )
    return loaded


def _load(target: str, installed: "dict[str, EntryPoint]") -> object:
    if target in installed:
        return installed[target].load()
    module, colon, attribute = target.partition(":")
    if not colon or not module or not attribute:
        known = ", ".join(sorted(installed)) or "none"
        raise ConfigurationError(
            f"EDGEPAAS_APP={target}: there is no such application; installed: {known}; "
            "or name one as module:attribute"
        )
    value: object = importlib.import_module(module)
    for part in attribute.split("."):
        value = getattr(value, part)
    return value
