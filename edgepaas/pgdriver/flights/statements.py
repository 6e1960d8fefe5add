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
_TEXTS_KEPT = 512


@dataclass(frozen=True, slots=True)
class StatementText:
    """*single*: it is surely one statement; *changing*: a SELECT of it may change something."""

    commits: bool
    rolls_back: bool
    single: bool
    changing: bool


@lru_cache(_TEXTS_KEPT)
def examine(sql: str) -> StatementText:
    """Return what *sql* tells."""
    stripped = sql.rstrip().rstrip(";")
    return StatementText(
        commits=_COMMIT.match(sql) is not None,
        rolls_back=_ROLLBACK.match(sql) is not None,
        # A semicolon in a literal or in a function's body is as good as one between two.
        single=";" not in stripped and bool(stripped),
        changing=_CHANGING_WORD.search(sql) is not None,
    )


def has_written(tag: str, text: StatementText) -> bool:
    """Whether the statement *text* with the command tag *tag* has changed something."""
    word = tag.partition(" ")[0]
    if word in ("SELECT", "EXPLAIN"):
        return text.changing
    return bool(word) and word not in _READING_TAGS
