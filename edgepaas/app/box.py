# SPDX-License-Identifier: Apache-2.0
"""What the box hands to its application: settings, the database, its state, alerts."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from edgepaas.alerts import Severity, raise_alert, resolve_alert
from edgepaas.timing.periodic_task import PeriodicTask
from edgepaas.timing.task_registry import TaskRegistry

if TYPE_CHECKING:
    from edgepaas.database import Database
    from edgepaas.decision.contract import DatabaseContract
    from edgepaas.files.paths import Paths
    from edgepaas.settings import Settings

#: In these states the SQLite file holds what this box has seen, not all that PostgreSQL holds.
_PARTIAL = frozenset({"fallback", "draining"})

_FOLDER = re.compile(r"[a-z][a-z0-9-]{0,63}\Z")
#: What the platform has in the state folder (:class:`edgepaas.files.paths.Paths`).
_PLATFORM_FOLDERS = frozenset(
    {"backups", "ballast", "drill", "marks-owners", "postgres-hold", "quarantine", "unsent-rows"}
)


class RaiseAlert(Protocol):
    """Raises an alert (:func:`edgepaas.alerts.raise_alert`).

    *message* says what happened, since when, and what to do. Alerts of one cause share a
    *fingerprint*: one of severity ``warning`` or ``critical`` with a fingerprint is a
    condition, which holds until it is resolved; any other is an event, which is delivered
    once. Never raises.
    """

    def __call__(
        self, message: str, *, severity: Severity = ..., fingerprint: str = ..., origin: str = ...
    ) -> None: ...


class ResolveAlert(Protocol):
    """Resolves the condition *fingerprint* (:func:`edgepaas.alerts.resolve_alert`).

    Nothing happens where none was raised under it. Never raises.
    """

    def __call__(self, message: str, *, fingerprint: str, origin: str = ...) -> None: ...


class Worker(Protocol):
    """What runs beside the requests, in a thread of its own.

    :class:`edgepaas.app.PeriodicTask`, added by :meth:`Box.add_task`, is one that no error
    ends. ``start`` is called once the box is ready, ``stop`` after the last request and before
    the database is closed: it returns within *seconds*.
    """

    def start(self) -> None: ...

    def stop(self, seconds: float) -> None: ...


@dataclass(frozen=True)
class BoxState:
    """In which state the box is, how it keeps its data, and why.

    *state* is the highest of ``full``, ``degraded``, ``draining``, ``fallback``,
    ``local-first``, ``primary`` and ``standalone`` that holds (``starting`` and
    ``stopping`` beside them), *mode* what was decided about the databases
    (``standalone``, ``local-first``, ``primary``, ``fallback``, ``draining``), *reasons*
    one line each, the most important first, *since* when the state was first seen to hold
    (aware), None where nothing watches it. *forwarding* is how the rows are delivered to
    PostgreSQL (:class:`edgepaas.app.api.ForwardingSchema`), None where there is none.
    """

    state: str
    mode: str
    reasons: tuple[str, ...] = ()
    since: datetime | None = None
    forwarding: Mapping[str, object] | None = None

    def as_dict(self) -> dict[str, object]:
        """Return ``{state, mode, reasons, forwarding}`` as API, metrics and pages show it."""
        return {
            "state": self.state,
            "mode": self.mode,
            "reasons": list(self.reasons),
            "forwarding": None if self.forwarding is None else dict(self.forwarding),
        }


@dataclass
class Box:
    """The running box. *paths* and *contract* are for the platform's own pages."""

    #: Every setting, those that the application declares among them:
    #: ``box.settings.integer("NOTES_MAX")``; ``text``, ``flag``, ``number``, ``size``, ``items``.
    settings: "Settings"
    paths: "Paths"
    contract: "DatabaseContract"
    #: The database that serves now: ``read()``, ``write(work)``, ``dialect``.
    database: "Database"
    #: The platform's version and commit.
    build_version: str
    #: The state right now; cheap, probes nothing.
    state: Callable[[], BoxState]
    #: The id of this box: the same for as long as it is the same machine.
    node_id: str = ""
    alert: RaiseAlert = raise_alert
    resolve: ResolveAlert = resolve_alert
    #: Workers that the application's *blueprints* or *wsgi* adds; started and stopped with the box.
    workers: list[Worker] = field(default_factory=list)
    #: The periodic tasks of the process: those that do not do their work are reported.
    tasks: TaskRegistry = field(
        default_factory=lambda: TaskRegistry(raise_alert, resolve_alert, origin="application")
    )

    def add_task(self, task: PeriodicTask) -> PeriodicTask:
        """Have *task* started and stopped with the box; returns it.

        While it fails, cannot be started or is late, the box is ``degraded`` and an alert is
        open, both by the task's name.
        """
        self.workers.append(self.tasks.add(task))
        return task

    @property
    def forwards(self) -> bool:
        """Whether rows that SQLite takes are delivered to a PostgreSQL."""
        return bool(self.contract.hub_url)

    @property
    def may_lack_rows(self) -> bool:
        """Whether rows may be missing here that only PostgreSQL has, as in ``fallback``."""
        return self.contract.db_state in _PARTIAL

    def folder(self, name: str) -> Path:
        """Return the folder *name* in the box's state folder, made where it is missing.

        For files of the application's own (:mod:`edgepaas.app.storage`): they survive
        restarts and upgrades, belong to the service's user, and are not forwarded. *name*
        is one word of small letters, digits and hyphens. Raises ValueError for another one
        and for a name that the platform uses, OSError where it cannot be made.
        """
        if not _FOLDER.match(name) or name in _PLATFORM_FOLDERS:
            raise ValueError(f"{name!r} is no folder of an application's own: choose another name")
        folder = self.paths.state / name
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return folder
