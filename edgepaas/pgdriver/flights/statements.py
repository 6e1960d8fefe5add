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
#: What is called, in any form of a name: ``now(``, ``public."put" (``; not ``AS alias(``.
_CALLED = re.compile(r'(?<![\w$"])(?<!\bAS )"?([\w$]+)"?\s*\(', re.IGNORECASE)
#: Words that stand before a parenthesis and call nothing, and functions of PostgreSQL that
#: change nothing (its own come first in each search path). Any other one may be of the
#: application's own, and write.
_HARMLESS = frozenset(
    {
        *("all", "and", "any", "array", "as", "between", "by", "case", "cast", "distinct"),
        *("else", "except", "exists", "extract", "filter", "from", "group", "having", "in"),
        *("intersect", "is", "join", "lateral", "like", "ilike", "limit", "materialized", "not"),
        *(
            "offset",
            "on",
            "or",
            "over",
            "overlay",
            "position",
            "row",
            "select",
            "some",
            "substring",
        ),
        *("then", "trim", "union", "using", "values", "when", "where", "within", "with"),
        # types with a length
        *("bit", "char", "character", "varchar", "varying", "numeric", "decimal", "float"),
        *("interval", "time", "timestamp"),
        # aggregates and windows
        *("array_agg", "avg", "bool_and", "bool_or", "count", "every", "json_agg"),
        *(
            "json_object_agg",
            "jsonb_agg",
            "jsonb_object_agg",
            "max",
            "min",
            "string_agg",
            "sum",
            "stddev",
            "variance",
        ),
        *("percentile_cont", "percentile_disc", "mode", "dense_rank", "first_value", "lag"),
        *("last_value", "lead", "nth_value", "ntile", "percent_rank", "rank", "row_number"),
        # values
        *("abs", "ceil", "ceiling", "coalesce", "div", "exp", "floor", "greatest", "least", "ln"),
        *("log", "mod", "nullif", "power", "random", "round", "sign", "sqrt", "trunc"),
        *("width_bucket", "array_length", "array_position", "array_to_string", "cardinality"),
        *("array_to_tsvector",),
        *("unnest", "btrim", "char_length", "concat", "concat_ws", "decode", "encode", "format"),
        *("initcap", "left", "length", "lower", "lpad", "ltrim", "md5", "octet_length", "repeat"),
        *("replace", "reverse", "right", "rpad", "rtrim", "sha256", "split_part", "starts_with"),
        *("strpos", "substr", "to_char", "to_date", "to_number", "to_timestamp", "translate"),
        *("upper", "age", "clock_timestamp", "date_bin", "date_part", "date_trunc", "justify_days"),
        *("make_date", "make_interval", "make_timestamptz", "now", "statement_timestamp"),
        *("transaction_timestamp", "timezone", "gen_random_uuid", "generate_series"),
        *("json_array_elements", "json_array_length", "json_build_array", "json_build_object"),
        *("json_extract_path_text", "json_typeof", "jsonb_array_elements", "jsonb_array_length"),
        *("jsonb_build_array", "jsonb_build_object", "jsonb_each", "jsonb_extract_path_text"),
        *("jsonb_path_exists", "jsonb_path_query", "jsonb_to_recordset", "jsonb_typeof"),
        *("row_to_json", "to_json", "to_jsonb"),
        # the server and its catalogue
        *("current_database", "current_schema", "current_setting", "version", "col_description"),
        *("format_type", "has_table_privilege", "inet_server_addr", "obj_description"),
        *("pg_backend_pid", "pg_column_size", "pg_database_size", "pg_get_constraintdef"),
        *("pg_get_expr", "pg_get_indexdef", "pg_is_in_recovery", "pg_relation_size", "pg_sleep"),
        *("pg_table_is_visible", "pg_total_relation_size", "quote_ident", "ts_stat"),
        *("quote_literal", "to_regclass", "to_regtype", "set_config", "pg_advisory_lock"),
        *("pg_advisory_unlock", "pg_advisory_xact_lock", "pg_try_advisory_lock"),
        *("pg_try_advisory_xact_lock", "pg_advisory_xact_lock_shared"),
    }
)
#: What lasts as long as the session, and is not there in another one.
_SESSION = re.compile(
    r"\s*(?:SET(?!\s+(?:LOCAL|TRANSACTION|CONSTRAINTS)\b)|LISTEN|CREATE\s+TEMP(?:ORARY)?)\b"
    r"|.*\bpg_(?:try_)?advisory_lock",
    re.IGNORECASE | re.DOTALL,
)
#: The tags after which prepared statements are as they were.
_PLAIN_TAGS = _READING_TAGS - {"DISCARD", "DEALLOCATE"} | {
    *("SELECT", "INSERT", "UPDATE", "DELETE", "MERGE", "COPY", "EXPLAIN", "TRUNCATE", "NOTIFY")
}
#: Texts that are remembered, and characters of one. Of longer ones only the last few are: an
#: INSERT of many rows has another text for each number of rows.
_TEXTS_KEPT = 512
LONGEST_KEPT = 8192
_LONG_TEXTS_KEPT = 4


@dataclass(frozen=True, slots=True)
class StatementText:
    """*single*: it is surely one statement; *changing*: a SELECT of it may change something.

    *reading*: it is one statement that reads and needs no transaction. *for_session*: it sets
    what lasts as long as the session.
    """

    commits: bool
    rolls_back: bool
    single: bool
    changing: bool
    reading: bool
    for_session: bool


def examine(sql: str) -> StatementText:
    """Return what *sql* tells."""
    return (_remembered if len(sql) <= LONGEST_KEPT else _remembered_long)(sql)


def _examine(sql: str) -> StatementText:
    stripped = sql.rstrip().rstrip(";")
    single = ";" not in stripped and bool(stripped)
    changing = _CHANGING_WORD.search(sql) is not None or any(
        called.lower() not in _HARMLESS for called in _CALLED.findall(sql)
    )
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
        for_session=_SESSION.match(sql) is not None,
    )


_remembered = lru_cache(_TEXTS_KEPT)(_examine)
_remembered_long = lru_cache(_LONG_TEXTS_KEPT)(_examine)


def has_written(tag: str, text: StatementText) -> bool:
    """Whether the statement *text* with the command tag *tag* has changed something."""
    word = tag.partition(" ")[0]
    if word in ("SELECT", "EXPLAIN"):
        return text.changing
    return bool(word) and word not in _READING_TAGS


def redefines(tag: str) -> bool:
    """Whether the command tag *tag* is of what may change a statement that is prepared."""
    return tag.partition(" ")[0] not in _PLAIN_TAGS | {""}
