# SPDX-License-Identifier: Apache-2.0
"""What a statement's text tells before it is sent: how many it holds, whether it ends anything."""

import re
from dataclasses import dataclass
from functools import lru_cache

_COMMIT = re.compile(r"\s*(?:COMMIT|END)(?:\s+(?:WORK|TRANSACTION))?\s*;?\s*\Z", re.IGNORECASE)
_ROLLBACK = re.compile(
    r"\s*(?:ROLLBACK|ABORT)(?:\s+(?:WORK|TRANSACTION))?\s*;?\s*\Z", re.IGNORECASE
)
#: What changes nothing: tags (PostgreSQL manual, 55.7, CommandComplete) by their first word.
_READING_TAGS = frozenset(
    {
        *("SHOW", "SET", "RESET", "BEGIN", "START", "SAVEPOINT", "RELEASE", "ROLLBACK"),
        *("COMMIT", "FETCH", "MOVE", "DECLARE", "CLOSE", "LISTEN", "UNLISTEN", "DISCARD"),
        *("DEALLOCATE", "PREPARE", "LOCK"),
    }
)
#: CREATE TABLE AS and SELECT INTO have the tag of a SELECT.
_CHANGING_WORD = re.compile(r"\b(?:INSERT|UPDATE|DELETE|MERGE|CREATE|INTO)\b", re.IGNORECASE)
_READING_WORD = re.compile(r"\s*(?:SELECT|WITH|VALUES|TABLE|SHOW)\b", re.IGNORECASE)
#: What a read does not do outside of a transaction: lock rows, or change what lasts for one.
_BOUND_WORD = re.compile(r"\bSHARE\b|set_config|advisory", re.IGNORECASE)
#: The tags after which prepared statements are as they were.
_PLAIN_TAGS = _READING_TAGS - {"DISCARD", "DEALLOCATE"} | {
    *("SELECT", "INSERT", "UPDATE", "DELETE", "MERGE", "COPY", "EXPLAIN", "TRUNCATE", "NOTIFY")
}
_TEXTS_KEPT = 512


@dataclass(frozen=True, slots=True)
class StatementText:
    """*single*: it is surely one statement; *changing*: a SELECT of it may change something.

    *reading*: it is one statement that reads and needs no transaction.
    """

    commits: bool
    rolls_back: bool
    single: bool
    changing: bool
    reading: bool


@lru_cache(_TEXTS_KEPT)
def examine(sql: str) -> StatementText:
    """Return what *sql* tells."""
    stripped = sql.rstrip().rstrip(";")
    single = ";" not in stripped and bool(stripped)
    changing = _CHANGING_WORD.search(sql) is not None
    return StatementText(
        commits=_COMMIT.match(sql) is not None,
        rolls_back=_ROLLBACK.match(sql) is not None,
        # A semicolon in a literal or in a function's body is as good as one between two.
        single=single,
        changing=changing,
        reading=single
        and not changing
        and _READING_WORD.match(sql) is not None
        and _BOUND_WORD.search(sql) is None,
    )


def has_written(tag: str, text: StatementText) -> bool:
    """Whether the statement *text* with the command tag *tag* has changed something."""
    word = tag.partition(" ")[0]
    if word in ("SELECT", "EXPLAIN"):
        return text.changing
    return bool(word) and word not in _READING_TAGS


def redefines(tag: str) -> bool:
    """Whether the command tag *tag* is of what may change a statement that is prepared."""
    return tag.partition(" ")[0] not in _PLAIN_TAGS | {""}
