# SPDX-License-Identifier: Apache-2.0
"""The verification gate: what has to hold before the box says that it is ready."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from edgepaas.decision.rehearsal_record import fresh_rehearsal
from edgepaas.decision.waiting import rows_not_in_postgres
from edgepaas.files.records import files_set_aside
from edgepaas.health.alerting import DeliveryWatch, no_unit_masked
from edgepaas.health.checks import Check, CheckFailed, CheckResult, HealthBoard
from edgepaas.health.disk import writable_probe
from edgepaas.health.forwarding import ForwardingWatch
from edgepaas.health.journal import journal_line
from edgepaas.health.setting_problems import setting_problems
from edgepaas.hosting.loading import metadata_of
from edgepaas.outbox.journal.tables import journal_path
from edgepaas.schema.open_problems import open_problem
from edgepaas.schema.sqlite.quarantine import list_quarantined
from edgepaas.settings.urls import split_url

if TYPE_CHECKING:
    from edgepaas.app import Application
    from edgepaas.database import Database
    from edgepaas.decision.contract import DatabaseContract
    from edgepaas.files.paths import Paths
    from edgepaas.settings import Settings

#: The name of the check whose failure is a lost database.
DATABASE_CHECK = "database"
WORKERS_CHECK = "workers"
#: Seconds without a free worker after which no traffic is to come.
WORKERS_PATIENCE = 1.0
#: Names of checks of the operator's services begin so.
SERVICE_PREFIX = "service "

SCHEMA_CHECK = "schema"
_SYSTEMD = Path("/run/systemd/system")

#: A schema changes only by the schema stage, after which the service starts anew.
_SCHEMA_KEPT = 30.0
#: It changes within minutes, and reads the spool's folder.
_ALERTS_KEPT = 10.0
#: A service beyond the box is not asked at each probe of ours.
_SERVICE_KEPT = 10.0
#: A certificate is looked at each hour, for which the hosts of a cluster may take their time.
CERTIFICATES_CHECK = "certificates"
_CERTIFICATES_KEPT = 3600.0
_CERTIFICATES_TIMEOUT = 10.0
#: Seconds for a check beyond those of its ping, whose own words are better than the check's.
_GRACE = 0.5
#: Seconds between two looks for an answer that is late.
_LOOK_EVERY = 0.1


@dataclass(frozen=True)
class GateReport:
    """What the gate found; *failures* keep the service from starting, *warnings* do not."""

    results: tuple[CheckResult, ...]
    failures: tuple[CheckResult, ...]
    warnings: tuple[CheckResult, ...]

    @property
    def ok(self) -> bool:
        """Whether the service may say that it is ready."""
        return not self.failures

    def summary(self) -> str:
        """Return one line for a person: what failed, or how many checks passed."""
        if self.failures:
            return "; ".join(f"{result.name}: {result.message}" for result in self.failures)
        passed = sum(result.ok for result in self.results)
        line = f"{passed} of {len(self.results)} checks passed"
        if self.warnings:
            noted = "; ".join(f"{result.name}: {result.message}" for result in self.warnings)
            line += f" (going on without: {noted})"
        return line


def build_checks(
    database: "Database",
    contract: "DatabaseContract",
    settings: "Settings",
    paths: "Paths",
    application: "Application",
) -> list[Check]:
    """Return the checks of a box: database, schema, disk, spool, the operator's services."""
    least_free = settings.size("DISK_MIN_FREE")
    patience = partial(_database_patience, database, settings)
    checks = [
        # Its loss is raised at once, by the database watch.
        Check(
            DATABASE_CHECK,
            partial(_database_answers, database, contract),
            timeout=patience,
            raised_elsewhere=True,
        ),
        Check("disk", writable_probe(paths.state, least_free)),
        Check("spool", writable_probe(paths.spool, least_free)),
        # An alert about alerts would wait with them.
        Check("alerts", DeliveryWatch(paths, settings), keep=_ALERTS_KEPT, raised_elsewhere=True),
    ]
    if _SYSTEMD.is_dir():  # sd_booted(3)
        checks.append(Check("units", no_unit_masked, keep=_SERVICE_KEPT))
    if (metadata := metadata_of(application)) is not None:
        database.require_tables(metadata)
    if application.models is not None or application.migrations is not None:
        probe = partial(_schema_at_head, database, application)
        # Several queries, the first on a new connection. A gate that never passes would restart
        # the boot chain for ever.
        schema_patience = partial(_database_patience, database, settings, connecting=True)
        checks.insert(1, Check(SCHEMA_CHECK, probe, keep=_SCHEMA_KEPT, timeout=schema_patience))
    if contract.hub_url:
        watch = ForwardingWatch(paths, contract)
        probe = partial(_rows_on_their_way, watch, contract)
        checks.append(Check("forwarding", probe, required=False, raised_elsewhere=True))
    if metadata is not None and (contract.hub_url or not contract.sqlite_active):
        probe = partial(
            journal_line, journal_path(contract.sqlite_path), enabled=settings.flag("JOURNAL")
        )
        checks.append(Check("journal", probe, required=False, raised_elsewhere=True))
    if list_quarantined(paths, contract.sqlite_path):
        # Only the schema stage sets a file aside, and the service starts anew after it.
        probe = partial(_nothing_set_aside, paths, contract.sqlite_path)
        checks.append(Check("quarantine", probe, raised_elsewhere=True))
    if files_set_aside(paths.state):
        checks.append(Check("state files", partial(_state_files_understood, paths)))
    if open_problem(paths):
        # The schema stage raises the problem's own alert where it records it.
        checks.append(Check("capture", partial(_captured, paths), raised_elsewhere=True))
    if setting_problems(paths):
        # The environment stage raises the alerts, and the service starts anew after it.
        checks.append(Check("settings", partial(_settings_as_given, paths), raised_elsewhere=True))
    return [*checks, *_certificate_checks(contract, settings), *service_checks(settings)]


def _certificate_checks(contract: "DatabaseContract", settings: "Settings") -> list[Check]:
    url = contract.hub_url if contract.sqlite_active else contract.database_url
    if not url or split_url(url).on_this_box:
        return []
    # Boxes without PostgreSQL need not load ssl for it.
    from edgepaas.health.certificates import CertificateWatch

    watch = CertificateWatch(settings, url)
    if not watch.needed:
        return []
    return [
        Check(CERTIFICATES_CHECK, watch, timeout=_CERTIFICATES_TIMEOUT, keep=_CERTIFICATES_KEPT)
    ]


def workers_check(answer: Callable[[float], bool]) -> Check:
    """Return the check that a worker is free to take the next request, within a moment.

    *answer* says whether one was, within some seconds. Probes have a thread of their own, and
    would be answered for ever where no other request is.
    """

    def probe() -> str:
        if not answer(WORKERS_PATIENCE):
            raise CheckFailed(f"no worker was free for {WORKERS_PATIENCE:g} s; see THREADS")
        return "a worker is free"

    return Check(WORKERS_CHECK, probe, timeout=WORKERS_PATIENCE + 1.0)


def service_checks(settings: "Settings") -> list[Check]:
    """Return the checks of the operator's services."""
    if not settings.services:
        return []
    # Most boxes have none to probe, and need not load ssl for it.
    from edgepaas.health.services import probe_service

    timeout = settings.number("SERVICE_TIMEOUT")
    return [
        Check(
            f"{SERVICE_PREFIX}{address.name}",
            partial(probe_service, address, timeout),
            required=address.required,
            timeout=timeout + 0.5,  # the probe's own words are better than ours
            keep=_SERVICE_KEPT,
        )
        for address in settings.services
    ]


def build_board(checks: Sequence[Check], settings: "Settings") -> HealthBoard:
    """Return a board of *checks* with the cache and the timeout that the settings say."""
    return HealthBoard(
        checks,
        cache_seconds=settings.number("HEALTH_CACHE"),
        timeout=settings.number("HEALTH_TIMEOUT"),
    )


def accept_rehearsal(board: HealthBoard, contract: "DatabaseContract", paths: "Paths") -> bool:
    """Take what handing back has just found of PostgreSQL for what the gate would find.

    Writes wait for the gate, and each of its questions is a round trip more. The database is
    asked right after the start, like any that serves. Returns whether there was anything.
    """
    if not contract.fallback_armed or fresh_rehearsal(paths, contract.database_url) is None:
        return False
    board.accept(DATABASE_CHECK, f"PostgreSQL passed the rehearsal ({contract.db_state})")
    board.accept(SCHEMA_CHECK, "at head, as the rehearsal found")
    return True


def verify(board: HealthBoard, *, production: bool, patience: float = 0.0) -> GateReport:
    """Ask every check once and judge; wait up to *patience* seconds for one that is late.

    The time that a check may take is meant for a box that runs. While everything starts, of
    this box and of others on the machine, a processor may be too busy for a sound answer.
    A missing required service fails the gate in production; elsewhere it is a warning.
    What leaves the box ready, such as a full disk, is a warning everywhere.
    """
    deadline = time.monotonic() + patience
    results = tuple(board.results())
    while time.monotonic() < deadline and any(
        not result.answered and _fails(result, production) for result in results
    ):
        time.sleep(_LOOK_EVERY)
        results = tuple(board.results())
    missing = [result for result in results if not result.ok]
    failures = [result for result in missing if _fails(result, production)]
    return GateReport(
        results=results,
        failures=tuple(failures),
        warnings=tuple(result for result in missing if result not in failures),
    )


def _fails(result: CheckResult, production: bool) -> bool:
    return not result.ready and (production or not result.name.startswith(SERVICE_PREFIX))


def _database_patience(
    database: "Database", settings: "Settings", *, connecting: bool = False
) -> float:
    """Return the seconds that a check may ask *database*, as the link to it is now.

    *connecting*: several questions, and a new connection.
    """
    usual, ping = settings.number("HEALTH_TIMEOUT"), database.longest_ping
    if connecting and database.dialect == "postgresql":
        return max(usual + settings.number("DB_CONNECT_TIMEOUT"), 2 * ping + _GRACE)
    return max(usual, ping + _GRACE if ping else 0.0)


def _database_answers(database: "Database", contract: "DatabaseContract") -> str:
    database.ping()
    name = "SQLite" if database.dialect == "sqlite" else "PostgreSQL"
    at = f" at {database.place}" if database.place else ""
    return f"{name}{at} answers ({contract.db_state})"


def _rows_on_their_way(watch: ForwardingWatch, contract: "DatabaseContract") -> str:
    """Say how the rows are; not required: the state's word already follows from the same."""
    found = watch()
    if found is None:
        return "there is no PostgreSQL to forward to"
    if found.problems:
        raise CheckFailed("; ".join(found.problems), ready=True)
    if found.state == "unknown":
        rows = rows_not_in_postgres(contract)
        waiting = "unknown, how many rows wait" if rows is None else f"{rows:,} rows wait"
        return f"edgepaas sync has not reported yet; {waiting}"
    return found.line


def _nothing_set_aside(paths: "Paths", sqlite_path: Path) -> str:
    found = list_quarantined(paths, sqlite_path)
    if found:
        raise CheckFailed("; ".join(entry.line for entry in found), ready=True)
    return "nothing is set aside any more"


def _state_files_understood(paths: "Paths") -> str:
    found = files_set_aside(paths.state)
    if found:
        names = ", ".join(path.name for path in found)
        raise CheckFailed(
            f"set aside in {paths.state}, since this build does not understand them: {names}; "
            "take from them what is needed, then remove them",
            ready=True,
        )
    return "no state file is set aside any more"


def _settings_as_given(paths: "Paths") -> str:
    found = setting_problems(paths)
    if found:
        raise CheckFailed("; ".join(found), ready=True)
    return "every setting is in force as it was given"


def _captured(paths: "Paths") -> str:
    found = open_problem(paths)
    if found:
        raise CheckFailed(found, ready=True)
    return "the SQLite file is as it should be"


def _schema_at_head(database: "Database", application: "Application") -> str:
    from edgepaas.schema.at_head import schema_at_head

    state = schema_at_head(database, application)
    if not state.at_head:
        raise CheckFailed(state.text, ready=state.fits)
    return state.text
