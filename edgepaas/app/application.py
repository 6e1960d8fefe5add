# SPDX-License-Identifier: Apache-2.0
"""The public interface of applications: what the box runs, and what it hands to it.

An application is one object, named in the entry point group ``edgepaas.application``
or as ``module:attribute`` in ``EDGEPAAS_APP``. Importing this module, and the module
that holds the object, is to stay light: a boot stage that needs only the name of the
migrations' folder must not pay for Flask and SQLAlchemy.
"""

import contextlib
import difflib
import importlib
import importlib.util
import logging
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from edgepaas.alerts import Severity, raise_alert, resolve_alert
from edgepaas.errors import ConfigurationError, EdgePaaSError

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

#: Characters of somebody else's message: SQLAlchemy's hold whole statements.
_LONGEST_CAUSE = 400
#: Code that an application did not bring: the importer's, EdgePaaS', Python's, libraries'.
_NOT_THEIRS = (
    "<",
    f"{Path(__file__).parents[1]}{os.sep}",
    f"{Path(os.__file__).parent}{os.sep}",
)
_PACKAGES = frozenset({"site-packages", "dist-packages"})

logger = logging.getLogger("edgepaas.application")


class RaiseAlert(Protocol):
    """How an application tells a human (:func:`edgepaas.alerts.raise_alert`)."""

    def __call__(
        self, message: str, *, severity: Severity = ..., fingerprint: str = ..., origin: str = ...
    ) -> None: ...


class ResolveAlert(Protocol):
    """How an application says that it is over (:func:`edgepaas.alerts.resolve_alert`)."""

    def __call__(self, message: str, *, fingerprint: str, origin: str = ...) -> None: ...


class Worker(Protocol):
    """What runs beside the requests, in a thread of its own.

    ``start`` is called once the box is ready, ``stop`` after the last request and before
    the database is closed: it returns within *seconds*.
    """

    def start(self) -> None: ...

    def stop(self, seconds: float) -> None: ...


@dataclass(frozen=True)
class BoxState:
    """In which state the box is: one word, how it keeps its data, and why.

    *state* is the highest word of the vocabulary that holds, *mode* what the decision
    said of the databases (``standalone``, ``local-first``, ``primary``, ``fallback``,
    ``draining``), *reasons* one line each for a person, the weightiest first, *since*
    when the word was first seen to hold (aware), None where nobody watches. *forwarding*
    is how the rows are on their way to PostgreSQL, None where there is none.
    """

    state: str
    mode: str
    reasons: tuple[str, ...] = ()
    since: datetime | None = None
    forwarding: Mapping[str, object] | None = None

    def as_dict(self) -> dict[str, object]:
        """Return ``{state, mode, reasons, forwarding}`` as every surface shows it."""
        return {
            "state": self.state,
            "mode": self.mode,
            "reasons": list(self.reasons),
            "forwarding": None if self.forwarding is None else dict(self.forwarding),
        }


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
    resolve: ResolveAlert = resolve_alert
    #: What the application's *blueprints* or *wsgi* adds is started and stopped with the box.
    workers: list[Worker] = field(default_factory=list)


@dataclass(frozen=True)
class SmokeRequest:
    """A request that a sound build of the application answers with *expect*."""

    method: str
    path: str
    expect: int = 200


@dataclass(frozen=True)
class Application:
    """One application, as the box sees it.

    Give *blueprints* (Flask; those of :class:`edgepaas.apikit.blueprint.ApiBlueprint` also
    appear in ``/openapi.json``) or *wsgi* (any WSGI application; it gets every path
    that is not the platform's own). *models* is SQLAlchemy's MetaData or a function
    that returns it, so that the application's module need not import its models;
    *migrations* is a folder as Alembic wants it. *guarded* says that the box's tokens
    guard every path; an application with a sign-in of its own says False. *example* is a
    command that shows people on ``/`` how to use it; ``{box}`` in it is the box's address.
    """

    name: str
    version: str = ""
    models: "MetaData | Callable[[], MetaData] | None" = None
    migrations: Path | None = None
    blueprints: "Callable[[Box], Sequence[Blueprint]] | None" = None
    wsgi: "Callable[[Box], WSGIApplication] | None" = None
    smoke: tuple[SmokeRequest, ...] = field(default=())
    guarded: bool = True
    example: str = ""
    #: What EDGEPAAS_APP called it, for messages; set by :func:`load_application`.
    loaded_as: str = field(default="", init=False, repr=False, compare=False)

    @property
    def metadata(self) -> "MetaData | None":
        """The models' MetaData, checked; imports them when *models* is a function.

        Raises ConfigurationError where they cannot be imported, and for a table that
        could not be forwarded as its kind promises.
        """
        with self.blamed("its models"):
            found = self.models() if callable(self.models) else self.models
            if found is None:
                return None
            _check_models(found)
            return found

    @contextlib.contextmanager
    def blamed(self, part: str) -> Iterator[None]:
        """Turn what the application's own code raises into one ConfigurationError.

        It names EDGEPAAS_APP and *part*, which is where in the application the block is.
        What the box itself says (an EdgePaaSError) passes as it is.
        """
        try:
            yield
        except EdgePaaSError:
            raise
        except (Exception, SystemExit) as error:
            raise _refused(self.loaded_as or self.name, error, part) from error


def load_application(name: str) -> Application:
    """Return the application called *name*: an installed one, or ``module:attribute``.

    A module is looked for in the current folder too, after everything that is installed.
    Raises ConfigurationError, in one line which names EDGEPAAS_APP, what went wrong and
    the way out; the traceback is logged at DEBUG.
    """
    from importlib.metadata import entry_points  # 16 ms that 'serve' has no time for at first

    target = name.strip()
    installed = {point.name: point for point in entry_points(group=ENTRY_POINT_GROUP)}
    try:
        loaded = _load(target, installed)
    except ConfigurationError:
        raise
    except (Exception, SystemExit) as error:  # a module may even end the interpreter
        raise _refused(target, error) from error
    if not isinstance(loaded, Application):
        raise ConfigurationError(
            f"EDGEPAAS_APP={target}: that is a {type(loaded).__name__}, not an "
            "edgepaas.app.Application; name the attribute that holds one"
        )
    if loaded.blueprints is None and loaded.wsgi is None:
        raise ConfigurationError(
            f"EDGEPAAS_APP={target}: the application has neither blueprints nor a WSGI callable; "
            "give one of blueprints= and wsgi="
        )
    # Frozen for everybody else: only who loads it knows what it was called.
    object.__setattr__(loaded, "loaded_as", target)
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
    _make_importable(target, module)
    value: object = importlib.import_module(module)
    for part in attribute.split("."):
        if not hasattr(value, part):
            raise ConfigurationError(f"EDGEPAAS_APP={target}: {_no_attribute(value, part)}")
        value = getattr(value, part)
    return value


def _make_importable(target: str, module: str) -> None:
    """Have *module* found, in the current folder if nowhere else."""
    top = module.partition(".")[0]
    if not all(part.isidentifier() for part in module.split(".")):
        raise ConfigurationError(
            f"EDGEPAAS_APP={target}: the application cannot be loaded: {module} is no module's "
            "name; write module:attribute, e.g. notes:application for notes.py"
        )
    if top in sys.modules or importlib.util.find_spec(top) is not None:
        return
    here = _current_folder()
    # Last, so that nothing in it takes the place of what is installed.
    if here and here not in sys.path:
        sys.path.append(here)
        importlib.invalidate_caches()
    if importlib.util.find_spec(top) is None:
        raise ConfigurationError(
            f"EDGEPAAS_APP={target}: there is no module {top}, neither installed nor in the "
            f"current folder{f' {here}' if here else ''}; start from the folder that holds it, "
            "or install it"
        )


def _current_folder() -> str:
    try:
        return str(Path.cwd())
    except OSError:  # it was deleted under us: there is nothing in it
        return ""


def _no_attribute(holder: object, name: str) -> str:
    called = getattr(holder, "__name__", type(holder).__name__)
    has = sorted(key for key, value in vars(holder).items() if isinstance(value, Application))
    near = has or difflib.get_close_matches(name, vars(holder), n=3)
    way = f"name {' or '.join(near)}" if near else "have it hold an edgepaas Application"
    return f"{called} has no attribute {name}; {way}"


def _refused(target: str, error: BaseException, part: str = "") -> ConfigurationError:
    """Return the one line for what an application's own code raised."""
    logger.debug("the application %r cannot be used", target, exc_info=error)
    what = f"{part} cannot be used" if part else "the application cannot be loaded"
    return ConfigurationError(
        f"EDGEPAAS_APP={target}: {what}: {_cause(error)}; mend it, LOG_LEVEL=DEBUG logs the "
        "traceback"
    )


def _cause(error: BaseException) -> str:
    """Return *error* in one line, with the line of code that it comes from."""
    if isinstance(error, SyntaxError):
        return f"{type(error).__name__}: {error.msg} ({error.filename}, line {error.lineno})"
    if isinstance(error, SystemExit):
        said = f"it ended the process with {error.code!r}"
    else:
        said = f"{type(error).__name__}: {' '.join(str(error).split())[:_LONGEST_CAUSE]}"
    said = said.rstrip(".: ") + _hint(error)
    # A mistake shows deep inside of SQLAlchemy; it was made where that was called from.
    theirs = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith(_NOT_THEIRS)
        and not _PACKAGES.intersection(Path(frame.filename).parts)
    ]
    if theirs:
        said += f" ({theirs[-1].filename}, line {theirs[-1].lineno})"
    return said


def _hint(error: BaseException) -> str:
    if not isinstance(error, TypeError) or "Application.__init__()" not in str(error):
        return ""
    takes = [each.name for each in fields(Application) if each.init]
    wrong = str(error).rpartition("argument ")[2].strip("'")
    near = ["models"] if wrong == "metadata" else difflib.get_close_matches(wrong, takes, n=1)
    meant = f", did you mean {near[0]}=?" if near and near[0] != wrong else ""
    return f"{meant}; it takes {', '.join(takes)}"


def _check_models(found: object) -> None:
    from sqlalchemy import MetaData

    from edgepaas.database.model import check_metadata

    if not isinstance(found, MetaData):
        kind = type(found).__name__
        raise TypeError(
            f"models is a {kind}, not SQLAlchemy's MetaData: write models=Model.metadata"
        )
    check_metadata(found)
