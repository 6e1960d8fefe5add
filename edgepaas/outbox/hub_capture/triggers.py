# SPDX-License-Identifier: Apache-2.0
"""The triggers that capture each change of a table on the hub, as text.

Statement-level triggers with transition tables (PostgreSQL manual, 43.10.1 and CREATE TRIGGER)
see what any statement did: the ORM's, raw SQL, a cascade, COPY. They act only in a transaction
that asks for it with ``edgepaas.journal``, as the service's do, and leave what they saw in
settings that end with the transaction (``edgepaas.rows_0``, ``_1``, …, each some 32 KB, so that
the cost grows with the rows alone): a savepoint that is rolled back takes its part with it, and
there is no table to be cleaned up.

Rows stand there as PostgreSQL's own text of each value, which its input reads back to the bit:
``row_to_json`` writes decimals as numbers, and a JSON null as no value.

The functions are a part of the platform's migrations (0003). What they write keeps its form:
another one would get functions of other names, so that boxes of two releases can use one hub.
The triggers belong to the
application's tables, so whoever brings these to head puts them there.
"""

# ruff: noqa: S608 - names come from the application's models, quoted

from collections.abc import Mapping, Sequence

from edgepaas.database.reserved_names import CAPTURE, CAPTURED
from edgepaas.outbox.tables import quoted

#: What a transaction sets to have its changes captured.
ASKED = "edgepaas.journal"
#: The SQLSTATE with which a COMMIT is refused whose changes were not captured; and its text.
NOT_CAPTURED = "55P03"
NOT_CAPTURED_TEXT = "changes are not captured for the journal"

#: Octets after which a setting is full: appending to it copies it.
_FULL = 32768

CREATE_CAPTURE = f"""
CREATE OR REPLACE FUNCTION {CAPTURE}() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog SET timezone = 'UTC' SET datestyle = 'ISO, YMD'
SET extra_float_digits = 1 SET bytea_output = 'hex'
AS $$
DECLARE
  place integer := coalesce(nullif(current_setting('edgepaas.rows', true), ''), '0')::integer;
  held text := coalesce(current_setting('edgepaas.rows_' || place, true), '');
  names json;
  after json;
  before json;
BEGIN
  IF TG_OP = 'TRUNCATE' THEN
    RAISE EXCEPTION 'TRUNCATE of % cannot be captured for the journal: use DELETE', TG_TABLE_NAME
      USING ERRCODE = '2F003';
  END IF;
  IF TG_OP <> 'DELETE' THEN
    SELECT json_agg(t::text) INTO after FROM edgepaas_new AS t;
    IF after IS NULL THEN RETURN NULL; END IF;
    SELECT json_agg(k) INTO names
      FROM json_object_keys((SELECT row_to_json(t) FROM edgepaas_new AS t LIMIT 1)) AS k;
  END IF;
  IF TG_OP <> 'INSERT' THEN
    SELECT json_agg(t::text) INTO before FROM edgepaas_old AS t;
    IF before IS NULL THEN RETURN NULL; END IF;
    SELECT json_agg(k) INTO names
      FROM json_object_keys((SELECT row_to_json(t) FROM edgepaas_old AS t LIMIT 1)) AS k;
  END IF;
  IF octet_length(held) > {_FULL} THEN
    place := place + 1;
    held := '';
    PERFORM set_config('edgepaas.rows', place::text, true);
  END IF;
  PERFORM set_config('edgepaas.rows_' || place,
    held || ',' || json_build_array(TG_TABLE_NAME, names, after, before)::text, true);
  RETURN NULL;
END $$"""

CREATE_CAPTURED = f"""
CREATE OR REPLACE FUNCTION {CAPTURED}(forwarded oid[]) RETURNS text LANGUAGE plpgsql
AS $$
DECLARE
  lacking text;
BEGIN
  SELECT string_agg(coalesce(c.relname::text, 'a table that is gone'), ', ') INTO lacking
    FROM unnest(forwarded) AS t LEFT JOIN pg_catalog.pg_class AS c ON c.oid = t
    WHERE 4 > (SELECT count(*) FROM pg_catalog.pg_trigger AS g WHERE g.tgrelid = t
      AND g.tgenabled IN ('O', 'A') AND g.tgfoid = to_regproc('{CAPTURE}'));
  IF lacking IS NOT NULL THEN
    RAISE EXCEPTION '{NOT_CAPTURED_TEXT}: %', lacking USING ERRCODE = '{NOT_CAPTURED}';
  END IF;
  RETURN (SELECT string_agg(current_setting('edgepaas.rows_' || n, true), '' ORDER BY n)
    FROM generate_series(0, coalesce(nullif(current_setting('edgepaas.rows', true), ''),
      '0')::integer) AS n);
END $$"""

FUNCTIONS = (CREATE_CAPTURE, CREATE_CAPTURED)

#: Each event, and what its trigger sees of it.
_EVENTS: Mapping[str, str] = {
    "insert": "REFERENCING NEW TABLE AS edgepaas_new ",
    "update": "REFERENCING OLD TABLE AS edgepaas_old NEW TABLE AS edgepaas_new ",
    "delete": "REFERENCING OLD TABLE AS edgepaas_old ",
    "truncate": "",
}
TRIGGERS = tuple(f"{CAPTURE}_{event}" for event in _EVENTS)


def trigger_statements(table: str) -> list[str]:
    """Return what makes the triggers of *table* as they have to be, whatever is there."""
    statements = []
    for event, seen in _EVENTS.items():
        name = f"{CAPTURE}_{event}"
        statements += [
            f"DROP TRIGGER IF EXISTS {name} ON {quoted(table)}",
            f"CREATE TRIGGER {name} AFTER {event.upper()} ON {quoted(table)} {seen}"
            f"FOR EACH STATEMENT WHEN (pg_catalog.current_setting('{ASKED}', true) = '1') "
            f"EXECUTE FUNCTION {CAPTURE}()",
        ]
    return statements


def lacking_question(tables: Sequence[str]) -> str:
    """Return an SQL expression: which of *tables*, as a JSON array, lack a trigger.

    A table that is not there lacks none. Its last element is whether the functions are there.
    """
    names = ", ".join("(" + _literal(name) + ")" for name in tables)
    wanted = ", ".join(_literal(name) for name in TRIGGERS)
    lacking = (
        "(SELECT coalesce(json_agg(t.n), '[]') FROM (VALUES " + names + ") AS t(n) "
        "WHERE to_regclass(quote_ident(t.n)) IS NOT NULL AND "
        f"{len(TRIGGERS)} > (SELECT count(*) FROM pg_trigger AS g "
        "WHERE g.tgrelid = to_regclass(quote_ident(t.n)) "
        f"AND g.tgenabled IN ('O', 'A') AND g.tgfoid = to_regproc('{CAPTURE}') "
        f"AND g.tgname IN ({wanted})))"
        if tables
        else "'[]'::json"
    )
    there = f"(to_regproc('{CAPTURE}') IS NOT NULL AND to_regproc('{CAPTURED}') IS NOT NULL)"
    return f"json_build_array({lacking}, {there})::text"


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
