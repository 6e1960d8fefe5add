# SPDX-License-Identifier: Apache-2.0
"""``run/db.env``: what was decided, for every later stage; it overrides any earlier assumption."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from edgepaas.files.contract import ContractMissing, read_contract, write_contract

#: Those of the box's states that follow from the decision.
DatabaseState = Literal["standalone", "local-first", "primary", "fallback", "draining"]
#: postgres_only: no way back; try_postgres: fallback armed; sqlite_only: SQLite is active.
FinalMode = Literal["postgres_only", "try_postgres", "sqlite_only"]

STAGE = "dbdecide"


@dataclass(frozen=True)
class DatabaseContract:
    """The decision; each attribute is one name in the file."""

    #: ``postgresql://…`` or ``sqlite:////absolute/path``; holds the password: never print it.
    database_url: str
    #: About PostgreSQL; False whenever SQLite is active.
    run_migrations: bool
    final_db_mode: FinalMode
    db_state: DatabaseState
    #: SQLite is active though PostgreSQL was wanted as primary.
    db_fallback: bool
    #: The PostgreSQL that rows are to reach in the end; empty when none is configured.
    hub_url: str
    #: The embedded database's file, whether it is active or not.
    sqlite_path: Path
    #: One line for a person; holds no secret.
    reason: str
    #: New at each decision.
    generation: str
    #: RFC 3339, UTC.
    decided_at: str
    #: Rows of the SQLite file that the PostgreSQL of ``hub_url`` did not have then.
    rows_waiting: int = 0
    #: ``reason`` as one word of a small vocabulary, for programs (matrix.Choice).
    cause: str = "settings"

    @property
    def sqlite_active(self) -> bool:
        """Whether SQLite serves."""
        return self.database_url.startswith("sqlite:")

    @property
    def fallback_armed(self) -> bool:
        """Whether PostgreSQL serves and SQLite would take over if it were lost."""
        return self.final_db_mode == "try_postgres"

    def values(self) -> dict[str, str]:
        """Return the contract as the file holds it."""
        return {
            "DATABASE_URL": self.database_url,
            "RUN_MIGRATIONS": _word(self.run_migrations),
            "FINAL_DB_MODE": self.final_db_mode,
            "DB_STATE": self.db_state,
            "DB_FALLBACK": _word(self.db_fallback),
            "HUB_URL": self.hub_url,
            "SQLITE_PATH": str(self.sqlite_path),
            "DB_REASON": self.reason,
            "DB_GENERATION": self.generation,
            "DB_DECIDED_AT": self.decided_at,
            "DB_ROWS_WAITING": str(self.rows_waiting),
            "DB_CAUSE": self.cause,
        }

    def write(self, path: Path) -> None:
        """Write the contract atomically to *path*, mode 0600; raises OSError."""
        write_contract(path, self.values())

    @classmethod
    def read(cls, path: Path) -> "DatabaseContract":
        """Read *path*; ContractMissing when it is absent or not what a decision writes."""
        values = read_contract(path, written_by=STAGE)
        try:
            return cls.of(values)
        except (KeyError, ValueError) as error:
            raise ContractMissing(
                f"{path} is not a decision's contract ({error}): "
                f"run 'edgepaas {STAGE}' to write it anew"
            ) from error

    @classmethod
    def of(cls, values: Mapping[str, str]) -> "DatabaseContract":
        """Build the contract from *values*; KeyError or ValueError names what is wrong."""
        return cls(
            database_url=_not_empty(values, "DATABASE_URL"),
            run_migrations=_flag(values, "RUN_MIGRATIONS"),
            final_db_mode=_choice(values, "FINAL_DB_MODE", get_args(FinalMode)),
            db_state=_choice(values, "DB_STATE", get_args(DatabaseState)),
            db_fallback=_flag(values, "DB_FALLBACK"),
            hub_url=values["HUB_URL"],
            sqlite_path=Path(_not_empty(values, "SQLITE_PATH")),
            reason=values["DB_REASON"],
            generation=_not_empty(values, "DB_GENERATION"),
            decided_at=values["DB_DECIDED_AT"],
            # An older build's contract has neither.
            rows_waiting=int(values.get("DB_ROWS_WAITING") or 0),
            cause=values.get("DB_CAUSE") or "settings",
        )


def _word(flag: bool) -> str:
    return "true" if flag else "false"


def _flag(values: Mapping[str, str], name: str) -> bool:
    return bool(_choice(values, name, ("true", "false")) == "true")


def _not_empty(values: Mapping[str, str], name: str) -> str:
    if not values[name]:
        raise ValueError(f"{name} is empty")
    return values[name]


def _choice(values: Mapping[str, str], name: str, allowed: tuple[str, ...]) -> Any:
    if values[name] not in allowed:
        raise ValueError(f"{name}={values[name]!r} is none of {', '.join(allowed)}")
    return values[name]
