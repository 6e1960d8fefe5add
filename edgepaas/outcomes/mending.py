# SPDX-License-Identifier: Apache-2.0
"""The statement with which the owner of a table of PostgreSQL mends what does not fit.

A refusal names it, so that nobody has to find out which side is to be altered, and how: always
PostgreSQL's, to what the models say. Each is between backticks, to be run as it stands.
"""

from collections.abc import Sequence


def to_type(table: str, column: str, declared: str) -> str:
    """Return what gives *column* the *declared* type."""
    name = _quoted(column)
    return _alter(table, f"ALTER COLUMN {name} TYPE {declared} USING {name}::{declared}")


def to_exact(table: str, column: str, declared: str) -> str:
    """Return what tells texts of *column* apart wherever their bytes differ."""
    name = _quoted(column)
    kind = declared or "text"
    return _alter(table, f'ALTER COLUMN {name} TYPE {kind} COLLATE "C" USING {name}::{kind}')


def to_nullable(table: str, column: str) -> str:
    """Return what lets *column* be empty."""
    return _alter(table, f"ALTER COLUMN {_quoted(column)} DROP NOT NULL")


def to_have(table: str, column: str, declared: str) -> str:
    """Return what adds *column*."""
    return _alter(table, f"ADD COLUMN {_quoted(column)} {declared or 'text'}")


def to_key(table: str, key: Sequence[str], constraint: str) -> str:
    """Return what makes *key* the primary key; *constraint*: the one that is there, if any."""
    columns = ", ".join(map(_quoted, key))
    drop = f"DROP CONSTRAINT {_quoted(constraint)}, " if constraint else ""
    return _alter(table, f"{drop}ADD PRIMARY KEY ({columns})")


def to_logged(table: str) -> str:
    """Return what has the table outlive a crash."""
    return _alter(table, "SET LOGGED")


def without_rules(table: str, rules: Sequence[str]) -> str:
    """Return what takes the *rules* away."""
    return "; ".join(f"`DROP RULE {_quoted(rule)} ON {_quoted(table)}`" for rule in rules)


def _alter(table: str, what: str) -> str:
    return f"`ALTER TABLE {_quoted(table)} {what}`"


def _quoted(name: str) -> str:
    """Return *name* as an identifier of SQL."""
    doubled = name.replace('"', '""')
    return f'"{doubled}"'
