# SPDX-License-Identifier: Apache-2.0
"""The rules of the decision: preferences and findings make the choice. Pure."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from edgepaas.decision.contract import DatabaseState, FinalMode
from edgepaas.decision.hold import Hold
from edgepaas.decision.probe import ProbeResult
from edgepaas.decision.waiting import Waiting
from edgepaas.errors import ConfigurationError, EdgePaaSError
from edgepaas.pgdriver.failures import Failure
from edgepaas.pgdriver.hosts import endpoint_of
from edgepaas.settings import Settings
from edgepaas.settings.urls import Address, AddressError, split_url

#: How many attempts can change the choice.
AttemptsNeeded = Literal["none", "one", "many"]


class NoDatabase(EdgePaaSError):
    """PostgreSQL alone is to serve (BOTH_DB=false), and it cannot be used."""


@dataclass(frozen=True)
class DatabasePreferences:
    """Which database the operator wants, from the settings."""

    #: The PostgreSQL to serve from or to forward to; None: there is none.
    postgres: Address | None
    sqlite_path: Path
    #: SQLite serves although there is a PostgreSQL (USE_SQLITE).
    local_first: bool = False
    #: SQLite takes over when PostgreSQL is away (BOTH_DB).
    fallback: bool = True
    run_migrations: bool = True
    #: What asks for PostgreSQL although no address is given, for a warning.
    without_address: str = ""
    #: DATABASE_URL names the SQLite file itself.
    sqlite_by_name: bool = False
    #: There is a DATABASE_URL, but not one that can be read.
    unreadable: bool = False

    @classmethod
    def of(cls, settings: Settings, state: Path) -> "DatabasePreferences":
        """Read the preferences from *settings*; relative files lie in the folder *state*.

        Raises ConfigurationError where production asks for PostgreSQL alone and names none.
        """
        text = settings.text("DATABASE_URL")
        sqlite_path = settings.sqlite_file(state)
        asked = [
            f"{name}={settings.text(name)}"
            for name, wish in (("BOTH_DB", True), ("USE_SQLITE", False))
            if settings.is_given(name) and settings.flag(name) is wish
        ]
        if not text:
            if settings.is_given("BOTH_DB") and not settings.flag("BOTH_DB"):
                if settings.text("ENV") == "production":
                    raise ConfigurationError(
                        "ENV=production with BOTH_DB=false asks for PostgreSQL alone and "
                        "DATABASE_URL is empty: set DATABASE_URL, or remove BOTH_DB=false"
                    )
                asked.insert(0, "BOTH_DB=false")
            return cls(
                None,
                sqlite_path,
                without_address=", ".join(asked),
                unreadable=settings.is_unreadable("DATABASE_URL"),
            )
        try:
            address = split_url(text)
        except AddressError as error:
            raise ConfigurationError(f"DATABASE_URL: {error}") from error
        if address.scheme == "sqlite":
            return cls(None, state / address.database, sqlite_by_name=True)
        return cls(
            postgres=address,
            sqlite_path=sqlite_path,
            local_first=settings.flag("USE_SQLITE"),
            fallback=settings.flag("BOTH_DB"),
            run_migrations=settings.flag("RUN_MIGRATIONS"),
        )


@dataclass(frozen=True)
class Choice:
    """Which database serves, in which state, and why (one line for a person)."""

    sqlite: bool
    state: DatabaseState
    mode: FinalMode
    reason: str
    #: SQLite serves though PostgreSQL was wanted as primary.
    fallback: bool = False
    #: The reason as one word, for programs: ``settings``, ``usable``, ``hold``,
    #: ``rows-waiting``, or why PostgreSQL could not be used (postgres.failures.Failure).
    cause: str = "settings"


def attempts_needed(
    preferences: DatabasePreferences, hold: Hold | None, waiting: Waiting, *, after_loss: bool
) -> AttemptsNeeded:
    """Return how many attempts to reach PostgreSQL can change the choice."""
    if preferences.postgres is None or preferences.local_first:
        return "none"
    if not preferences.fallback:
        return "many"
    if hold is not None:
        return "none"
    # With rows waiting SQLite serves either way; the one attempt tells which state is true.
    return "one" if waiting.may_hold_unsent_rows or after_loss else "many"


def choose(
    preferences: DatabasePreferences, probe: ProbeResult | None, hold: Hold | None, waiting: Waiting
) -> Choice:
    """Return the choice; *probe* is None where :func:`attempts_needed` asked for no attempt.

    Raises NoDatabase where PostgreSQL alone was asked for and cannot be used.
    """
    if preferences.postgres is None:
        return Choice(True, "standalone", "sqlite_only", _why_standalone(preferences))
    if preferences.local_first:
        reason = (
            "USE_SQLITE=true: SQLite serves, and PostgreSQL at "
            f"{endpoint_of(preferences.postgres)} receives every row"
        )
        choice = Choice(True, "local-first", "sqlite_only", reason)
    else:
        choice = _with_postgres(preferences, probe, hold, waiting)
    return replace(choice, reason=choice.reason + _unsent_text(waiting, preferences.sqlite_path))


def _with_postgres(
    preferences: DatabasePreferences, probe: ProbeResult | None, hold: Hold | None, waiting: Waiting
) -> Choice:
    usable = probe is not None and probe.usable
    found = probe.reason if probe is not None else "PostgreSQL was not asked"
    if not preferences.fallback:
        return _postgres_alone(usable, found, waiting)
    if hold is not None:
        reason = f"PostgreSQL is on hold for another {hold.remaining:.0f} s: {hold.reason}"
        return Choice(True, "fallback", "sqlite_only", reason, fallback=True, cause="hold")
    if not usable:
        kind = probe.kind if probe is not None and probe.kind is not None else Failure.OTHER
        return Choice(True, "fallback", "sqlite_only", found, fallback=True, cause=kind.value)
    if waiting.may_hold_unsent_rows:
        reason = f"{found}, but{_rows_text(waiting, ' ')}"
        return Choice(True, "draining", "sqlite_only", reason, fallback=True, cause="rows-waiting")
    return Choice(False, "primary", "try_postgres", found, cause="usable")


def _postgres_alone(usable: bool, found: str, waiting: Waiting) -> Choice:
    if not usable:
        raise NoDatabase(
            f"BOTH_DB=false asks for PostgreSQL alone and it cannot be used: {found}"
            f"{_rows_text(waiting, '; meanwhile ')}"
        )
    reason = f"{found}; BOTH_DB=false: no fallback{_rows_text(waiting, '; ')}"
    return Choice(False, "primary", "postgres_only", reason, cause="usable")


def _why_standalone(preferences: DatabasePreferences) -> str:
    if preferences.sqlite_by_name:
        return "DATABASE_URL names an SQLite file"
    if preferences.unreadable:
        return "DATABASE_URL cannot be read ('edgepaas settings' gives the reason)"
    if preferences.without_address:
        return f"{preferences.without_address} asks for PostgreSQL, but DATABASE_URL is empty"
    return "no DATABASE_URL is set"


def _unsent_text(waiting: Waiting, path: Path) -> str:
    if not waiting.unsent:
        return ""
    about = "about " if waiting.estimated else ""
    rows = "1 row in" if waiting.unsent == 1 else f"{about}{waiting.unsent:,} rows in"
    verb = "is" if waiting.unsent == 1 else "are"
    return f"; {rows} {path} {verb} not in PostgreSQL"


def _rows_text(waiting: Waiting, before: str) -> str:
    if not waiting.readable:
        return f"{before}the SQLite file cannot be read ({waiting.problem})"
    if waiting.rows:
        rows = "1 row waits" if waiting.rows == 1 else f"{waiting.rows} rows wait"
        return f"{before}{rows} in the SQLite file to be sent"
    return ""
