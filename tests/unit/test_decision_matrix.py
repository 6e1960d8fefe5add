# SPDX-License-Identifier: Apache-2.0
"""The rules: what is wished for and what was found make the choice."""

from pathlib import Path
from typing import Any

import pytest

from edgepaas.decision.hold import Hold
from edgepaas.decision.matrix import DatabasePreferences, NoDatabase, attempts_needed, choose
from edgepaas.decision.probe import ProbeResult
from edgepaas.decision.waiting import Waiting
from edgepaas.errors import EXIT_FAILED, ConfigurationError
from edgepaas.pgdriver.failures import Failure
from edgepaas.settings import Settings
from edgepaas.settings.resolve import resolve

STATE = Path("/var/lib/edgepaas")
URL = "postgresql://edgepaas:tr0ub4dor@127.0.0.1:5432/edgepaas"

GOOD = ProbeResult(True, "PostgreSQL 15.18 answers", server_version="15.18")
BAD = ProbeResult(False, "it refuses the connection", Failure.REFUSED)
HOLD = Hold("its schema is of a later revision", 42)
NOTHING = Waiting()
ROWS = Waiting(rows=12)
UNREADABLE = Waiting(readable=False, problem="file is not a database")

#: settings; probe, hold, waiting; attempts_needed, state, mode, SQLite active, fallback
TABLE: list[tuple[dict[str, str], ProbeResult | None, Hold | None, Waiting, tuple[Any, ...]]] = [
    ({}, None, None, NOTHING, ("none", "standalone", "sqlite_only", True, False)),
    ({"USE_SQLITE": "true"}, None, None, NOTHING,
     ("none", "standalone", "sqlite_only", True, False)),
    ({"BOTH_DB": "true"}, None, None, ROWS, ("none", "standalone", "sqlite_only", True, False)),
    ({"BOTH_DB": "false"}, None, None, NOTHING,
     ("none", "standalone", "sqlite_only", True, False)),
    ({"DATABASE_URL": "sqlite:////data/app.db"}, None, HOLD, NOTHING,
     ("none", "standalone", "sqlite_only", True, False)),
    ({"DATABASE_URL": URL, "USE_SQLITE": "true"}, None, None, ROWS,
     ("none", "local-first", "sqlite_only", True, False)),
    ({"DATABASE_URL": URL, "USE_SQLITE": "true", "BOTH_DB": "false"}, None, HOLD, NOTHING,
     ("none", "local-first", "sqlite_only", True, False)),
    ({"DATABASE_URL": URL}, GOOD, None, NOTHING,
     ("many", "primary", "try_postgres", False, False)),
    ({"DATABASE_URL": URL, "BOTH_DB": "true"}, GOOD, None, NOTHING,
     ("many", "primary", "try_postgres", False, False)),
    ({"DATABASE_URL": URL}, BAD, None, NOTHING, ("many", "fallback", "sqlite_only", True, True)),
    ({"DATABASE_URL": URL}, GOOD, None, ROWS, ("one", "draining", "sqlite_only", True, True)),
    ({"DATABASE_URL": URL}, BAD, None, ROWS, ("one", "fallback", "sqlite_only", True, True)),
    ({"DATABASE_URL": URL}, GOOD, None, UNREADABLE,
     ("one", "draining", "sqlite_only", True, True)),
    ({"DATABASE_URL": URL}, None, HOLD, NOTHING,
     ("none", "fallback", "sqlite_only", True, True)),
    ({"DATABASE_URL": URL}, None, HOLD, ROWS, ("none", "fallback", "sqlite_only", True, True)),
    ({"DATABASE_URL": URL, "BOTH_DB": "false"}, GOOD, None, NOTHING,
     ("many", "primary", "postgres_only", False, False)),
    ({"DATABASE_URL": URL, "BOTH_DB": "false"}, GOOD, HOLD, NOTHING,
     ("many", "primary", "postgres_only", False, False)),
    ({"DATABASE_URL": URL, "BOTH_DB": "false"}, GOOD, None, ROWS,
     ("many", "primary", "postgres_only", False, False)),
]  # fmt: skip


UNSENT = Waiting(unsent=45_000)


@pytest.mark.parametrize(
    ("given", "probe", "state"),
    [
        ({"DATABASE_URL": URL}, GOOD, "primary"),
        ({"DATABASE_URL": URL, "BOTH_DB": "false"}, GOOD, "primary"),
        ({"DATABASE_URL": URL}, BAD, "fallback"),
        ({"DATABASE_URL": URL, "USE_SQLITE": "true"}, None, "local-first"),
    ],
)
def test_rows_that_nothing_sends_change_no_choice_and_are_named(
    given: dict[str, str], probe: ProbeResult | None, state: str
) -> None:
    """They would be forgotten otherwise."""
    preferences = DatabasePreferences.of(Settings.of(**given), STATE)
    choice = choose(preferences, probe, None, UNSENT)
    plain = choose(preferences, probe, None, NOTHING)
    assert choice.state == plain.state == state
    assert choice.reason == (
        f"{plain.reason}; 45,000 rows in /var/lib/edgepaas/edgepaas.db are not in PostgreSQL"
    )
    assert attempts_needed(preferences, None, UNSENT, after_loss=False) == attempts_needed(
        preferences, None, NOTHING, after_loss=False
    )


def test_without_a_postgresql_nothing_waits() -> None:
    """The box is where the rows belong."""
    assert (
        "rows"
        not in choose(DatabasePreferences.of(Settings.of(), STATE), None, None, UNSENT).reason
    )


@pytest.mark.parametrize(("given", "probe", "hold", "waiting", "expected"), TABLE)
def test_the_table_of_the_decision(
    given: dict[str, str],
    probe: ProbeResult | None,
    hold: Hold | None,
    waiting: Waiting,
    expected: tuple[Any, ...],
) -> None:
    """Each row of the table, and that the attempts_needed fits what the choice needs."""
    preferences = DatabasePreferences.of(Settings.of(**given), STATE)
    choice = choose(preferences, probe, hold, waiting)
    found = (
        attempts_needed(preferences, hold, waiting, after_loss=False),
        choice.state,
        choice.mode,
        choice.sqlite,
        choice.fallback,
    )
    assert found == expected
    assert choice.reason
    assert "tr0ub4dor" not in choice.reason


@pytest.mark.parametrize("waiting", [NOTHING, ROWS, UNREADABLE])
def test_postgresql_alone_never_falls_back(waiting: Waiting) -> None:
    """BOTH_DB=false: the failure names the setting, why, and what waits."""
    preferences = DatabasePreferences.of(Settings.of(DATABASE_URL=URL, BOTH_DB="false"), STATE)
    with pytest.raises(NoDatabase, match=r"BOTH_DB=false.*refuses the connection") as caught:
        choose(preferences, BAD, None, waiting)
    assert caught.value.exit_code == EXIT_FAILED
    if waiting.rows:
        assert "12 rows wait" in str(caught.value)


def test_after_a_loss_one_attempt_is_made_where_a_fallback_is_armed() -> None:
    """Without a fallback every attempt counts."""
    armed = DatabasePreferences.of(Settings.of(DATABASE_URL=URL), STATE)
    alone = DatabasePreferences.of(Settings.of(DATABASE_URL=URL, BOTH_DB="false"), STATE)
    assert attempts_needed(armed, None, NOTHING, after_loss=True) == "one"
    assert attempts_needed(alone, None, NOTHING, after_loss=True) == "many"


def test_the_reasons_say_what_a_person_needs() -> None:
    """The rows that wait, the hold with its time, the setting that asked in vain."""
    preferences = DatabasePreferences.of(Settings.of(DATABASE_URL=URL), STATE)
    assert "12 rows wait" in choose(preferences, GOOD, None, ROWS).reason
    assert "1 row waits" in choose(preferences, GOOD, None, Waiting(rows=1)).reason
    assert "not a database" in choose(preferences, GOOD, None, UNREADABLE).reason
    held = choose(preferences, None, HOLD, NOTHING).reason
    assert "42 s" in held and "later revision" in held
    in_vain = DatabasePreferences.of(Settings.of(BOTH_DB="true"), STATE)
    assert "BOTH_DB=true" in choose(in_vain, None, None, NOTHING).reason
    garbled = resolve({"DATABASE_URL": "garbage"}, STATE / "none", None, hostname="box").settings
    reason = choose(DatabasePreferences.of(garbled, STATE), None, None, NOTHING).reason
    assert "DATABASE_URL cannot be read" in reason


def test_production_asking_for_postgresql_alone_without_naming_one_is_an_error() -> None:
    """Both settings are named; development goes on with a warning."""
    asked = {"BOTH_DB": "false"}
    with pytest.raises(ConfigurationError, match=r"BOTH_DB=false.*DATABASE_URL"):
        DatabasePreferences.of(Settings.of(ENV="production", **asked), STATE)
    assert DatabasePreferences.of(Settings.of(ENV="development", **asked), STATE).without_address


@pytest.mark.parametrize(
    ("given", "path"),
    [
        ({}, "/var/lib/edgepaas/edgepaas.db"),
        ({"DATABASE_URL_SQLITE": "sqlite:////data/x y.db"}, "/data/x y.db"),
        ({"DATABASE_URL": "sqlite:////data/app.db"}, "/data/app.db"),
        ({"DATABASE_URL": "sqlite:///app.db"}, "/var/lib/edgepaas/app.db"),
        ({"DATABASE_URL": URL}, "/var/lib/edgepaas/edgepaas.db"),
    ],
)
def test_the_embedded_file_is_the_one_that_is_named(given: dict[str, str], path: str) -> None:
    """An SQLite DATABASE_URL names the file itself; relative ones lie in the state folder."""
    assert str(DatabasePreferences.of(Settings.of(**given), STATE).sqlite_path) == path
