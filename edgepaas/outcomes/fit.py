# SPDX-License-Identifier: Apache-2.0
"""Whether PostgreSQL's tables take every row that the models allow, and keep it as it was sent.

A version table says what was made once. The catalog says what is there: a column narrowed by
hand rounds every value without an error, and a table copied without its key takes one row three
times. *Fit* is judged by table, column type, nullability and key. Judged apart is what refuses
single rows and changes none, so that it moves nothing and is reported: the encoding, and a column
that takes no NULL though it may be empty here.

The question is one query of one value, for any driver; it waits for no lock.
"""

# ruff: noqa: S608 - every name is quoted or a literal

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from edgepaas.outcomes import mending
from edgepaas.outcomes.causes import Access, Cause, Refusal
from edgepaas.outcomes.column_fit import column_misfit

#: Functions of triggers whose name begins so are the platform's own: they change no row.
OWN_PREFIX = "edgepaas_"

#: What of the catalog says how the table with the OID $oid takes rows, in one short text: it is
#: another one after each ALTER TABLE, and each CREATE or DROP of a trigger, rule or index.
FINGERPRINT = """
(SELECT md5(string_agg(s.part, ' ' ORDER BY s.part)) FROM (
  SELECT 'c' || xmin AS part FROM pg_class WHERE oid = $oid
  UNION ALL SELECT 'a' || attnum || '-' || xmin FROM pg_attribute WHERE attrelid = $oid
    AND attnum > 0
  UNION ALL SELECT 'i' || indexrelid || '-' || xmin FROM pg_index WHERE indrelid = $oid
  UNION ALL SELECT 'r' || oid || '-' || xmin FROM pg_rewrite WHERE ev_class = $oid
  UNION ALL SELECT 't' || oid || '-' || xmin FROM pg_trigger WHERE tgrelid = $oid
    AND NOT tgisinternal) AS s)"""

_KEY = """
(SELECT json_agg(a.attname) FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid
  AND a.attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1])
  WHERE i.indrelid = c.oid AND i.indisprimary AND i.indisvalid AND i.indimmediate)"""
#: A domain is judged by the type that it stands for.
_COLUMNS = """
(SELECT json_agg(json_build_array(a.attname, d.type, a.attnotnull OR d.strict,
    a.atthasdef OR a.attidentity <> '', a.attgenerated <> '' OR a.attidentity = 'a',
    coalesce(o.collisdeterministic, true)) ORDER BY a.attnum)
  FROM pg_attribute a LEFT JOIN pg_collation o ON o.oid = a.attcollation
  CROSS JOIN LATERAL (
    WITH RECURSIVE b(oid, kind, base, inner_mod, mod, strict) AS (
      SELECT t.oid, t.typtype, t.typbasetype, t.typtypmod, a.atttypmod, t.typnotnull
      FROM pg_type t WHERE t.oid = a.atttypid
      UNION ALL SELECT t.oid, t.typtype, t.typbasetype, t.typtypmod, b.inner_mod,
        b.strict OR t.typnotnull FROM b JOIN pg_type t ON t.oid = b.base WHERE b.kind = 'd')
    SELECT format_type(b.oid, b.mod) AS type, b.strict FROM b WHERE b.kind <> 'd') AS d
  WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped)"""
_WATCHED = f"""
(EXISTS (SELECT FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid WHERE t.tgrelid = c.oid
  AND NOT t.tgisinternal AND t.tgenabled <> 'D' AND NOT starts_with(p.proname, '{OWN_PREFIX}')))"""
#: What may remove a row is called for each one, before it is inserted (TRIGGER_TYPE_ROW, _BEFORE
#: and _INSERT of PostgreSQL's catalog/pg_trigger.h).
_REMOVING = _WATCHED.replace("NOT t.tgisinternal", "NOT t.tgisinternal AND t.tgtype & 7 = 7")
_RULES = """
(SELECT json_agg(r.rulename ORDER BY r.rulename) FROM pg_rewrite r WHERE r.ev_class = c.oid
  AND r.ev_type <> '1' AND r.ev_enabled <> 'D')"""
_KEY_NAME = """
(SELECT k.conname FROM pg_constraint k WHERE k.conrelid = c.oid AND k.contype = 'p')"""

_QUESTION = f"""
SELECT json_build_object('encoding', current_setting('server_encoding'), 'tables',
  (SELECT coalesce(json_agg(json_build_object('name', w.name, 'kind', c.relkind,
    'persistence', c.relpersistence, 'rules', {_RULES}, 'watched', {_WATCHED},
    'removing', {_REMOVING},
    'fingerprint', {FINGERPRINT.replace("$oid", "c.oid")}, 'key', {_KEY}, 'columns', {_COLUMNS},
    'key_name', {_KEY_NAME})),
    '[]'::json) FROM $from))::text"""
_NAMED = """
unnest(ARRAY[$names]::text[]) AS w(name) JOIN pg_class c ON c.oid = to_regclass(quote_ident(w.name))
"""
_ALL = """
pg_class c CROSS JOIN LATERAL (SELECT c.relname::text AS name) AS w
  WHERE c.relnamespace = to_regnamespace(current_schema()) AND c.relkind IN ('r', 'p')"""
_FINGERPRINTS = f"""
SELECT coalesce(md5(string_agg(w.name || ' ' || {FINGERPRINT.replace("$oid", "w.oid")}, ' '
  ORDER BY w.name)), '') FROM (SELECT n AS name, to_regclass(quote_ident(n))::oid AS oid
  FROM unnest(ARRAY[$names]::text[]) AS n) AS w"""

#: Kinds of relation that hold rows of their own (pg_class.relkind).
_HOLD_ROWS = frozenset({"r", "p"})
_UNLOGGED = "u"
#: The kind of a table that never leaves the box.
_LOCAL = "local"
_EVERY_TEXT = "UTF8"


class ColumnShape(NamedTuple):
    """A column as PostgreSQL has it; ``type`` is that of its domain, if it has one."""

    name: str
    type: str
    not_null: bool
    has_default: bool
    generated: bool
    #: Whether texts are equal only where their bytes are.
    is_exact: bool


@dataclass(frozen=True)
class TableShape:
    """A table as PostgreSQL has it.

    ``watched``: triggers other than the platform's own run on its rows, and may remove or
    change them; ``removing``: one of them runs before each row that is inserted, and may remove it.
    ``fingerprint``: see FINGERPRINT.
    """

    name: str
    kind: str = "r"
    persistence: str = "p"
    rules: tuple[str, ...] = ()
    watched: bool = False
    fingerprint: str = ""
    key: tuple[str, ...] = ()
    columns: Mapping[str, ColumnShape] = field(default_factory=dict)
    removing: bool = False
    key_name: str = ""


@dataclass(frozen=True)
class Fit:
    """Why tables do not fit.

    ``reservations``: what is refused of single rows, though nothing is changed: such a row is
    answered with an error while PostgreSQL serves, and is a dead letter otherwise.
    """

    refusals: tuple[Refusal, ...] = ()
    reservations: tuple[str, ...] = ()

    @property
    def reason(self) -> str:
        """The refusals in one line for a person; empty where everything fits."""
        return "; ".join(one.text for one in self.refusals)

    @property
    def reservation(self) -> str:
        """The reservations in one line for a person."""
        return "; ".join(self.reservations)


def fit_question(tables: Collection[str] | None = None) -> str:
    """Return the query for the shapes of *tables*; without them, of all in the default schema.

    Its answer, one text, is for :func:`shapes_of` and :func:`judge`.
    """
    if tables is None:
        return _QUESTION.replace("$from", _ALL)
    names = ", ".join(map(_literal, tables))
    return _QUESTION.replace("$from", _NAMED.replace("$names", names))


def fingerprints_question(tables: Collection[str]) -> str:
    """Return the query for one short text that changes whenever one of *tables* is altered.

    For asking every few seconds: it costs little, and tells when to ask the question.
    """
    names = ", ".join(map(_literal, tables))
    return _FINGERPRINTS.replace("$names", names)


def shapes_of(answer: str) -> dict[str, TableShape]:
    """Return the tables of *answer*, which PostgreSQL gave to the question, by name."""
    return {
        one["name"]: TableShape(
            one["name"],
            one["kind"],
            one["persistence"],
            tuple(one["rules"] or ()),
            one["watched"],
            one["fingerprint"],
            tuple(one["key"] or ()),
            {column[0]: ColumnShape(*column) for column in one["columns"] or ()},
            one["removing"],
            one["key_name"] or "",
        )
        for one in json.loads(answer)["tables"]
    }


def judge(models: Mapping[str, Any], answer: str) -> Fit:
    """Judge *answer* by *models*, ``tables`` of tables.json: the forwarded ones among them.

    What a local table keeps is between the application and its database. A table that is not
    there is not judged: what needs it finds that out (:mod:`edgepaas.database.table_presence`).
    """
    shapes = {name: shape for name, shape in shapes_of(answer).items() if name in models}
    found = [table_misfit(name, models[name], shape) for name, shape in shapes.items()]
    refusals = tuple(one for one in found if one is not None)
    encoding = _encoding(models, json.loads(answer)["encoding"])
    empty = [
        said for name, shape in shapes.items() for said in _no_nulls(name, models[name], shape)
    ]
    return Fit(refusals, tuple(filter(None, (encoding, *empty))))


def table_misfit(table: str, model: Mapping[str, Any], shape: TableShape) -> Refusal | None:
    """Return why *table* as it is there does not keep every row of *model* as it is, or None.

    None for a local table.
    """
    if model.get("kind") == _LOCAL:
        return None
    found = _misfits(model, shape)
    if not found:
        return None
    cause = found[0][0]
    return Refusal(table, cause, "; ".join(said for _, said in found), access=Access.FIT)


def _no_nulls(table: str, model: Mapping[str, Any], shape: TableShape) -> Iterable[str]:
    """Give the columns that may be empty here and not there.

    A row without a value is refused there, loudly, and keeps no other one waiting: so it was in
    the releases that did not look, and the box goes on.
    """
    if model.get("kind") == _LOCAL or shape.kind not in _HOLD_ROWS:
        return
    for column in model["columns"]:
        there = shape.columns.get(column["name"])
        if there is not None and there.not_null and column["nullable"] and not there.generated:
            yield (
                f"PostgreSQL takes no row of {table} without a value for {there.name}, which may "
                f"be empty here: {mending.to_nullable(table, there.name)}"
            )


def _misfits(model: Mapping[str, Any], shape: TableShape) -> Sequence[tuple[Cause, str]]:
    if shape.kind not in _HOLD_ROWS:
        return [(Cause.KIND, "it is no table that holds rows")]
    found = [
        *_columns_misfit(model["columns"], shape),
        *_key_misfit(model.get("key") or (), model["columns"], shape),
    ]
    if shape.rules:
        rules = mending.without_rules(shape.name, shape.rules)
        said = f"it has rules (CREATE RULE), with which no insert can be told: {rules}"
        found.append((Cause.KIND, said))
    if shape.persistence == _UNLOGGED:
        logged = mending.to_logged(shape.name)
        found.append(
            (Cause.KIND, f"it is UNLOGGED, and a crash of the server empties it: {logged}")
        )
    return found


def _columns_misfit(
    columns: Iterable[Mapping[str, Any]], shape: TableShape
) -> Iterable[tuple[Cause, str]]:
    known = set()
    for column in columns:
        name = column["name"]
        known.add(name)
        there = shape.columns.get(name)
        if there is None:
            added = mending.to_have(shape.name, name, column.get("type", ""))
            yield Cause.MISSING, f'the column "{name}" is missing: {added}'
            continue
        becomes = column_misfit(column.get("type", ""), there.type)
        if becomes:
            declared = column["type"].lower()
            altered = mending.to_type(shape.name, name, declared)
            said = f'the column "{name}" is {there.type}, not {declared}: {becomes}'
            yield Cause.TYPE, f"{said}; {altered}"
    for name, there in shape.columns.items():
        if name not in known and there.not_null and not (there.has_default or there.generated):
            yield (
                Cause.REQUIRED_COLUMN,
                f'the column "{name}", unknown here, requires a value and has no default: '
                f"{mending.to_nullable(shape.name, name)}",
            )


def _key_misfit(
    key: Sequence[str], columns: Iterable[Mapping[str, Any]], shape: TableShape
) -> Iterable[tuple[Cause, str]]:
    if not key:
        return
    if set(key) != set(shape.key):
        is_key = f"has the key ({', '.join(shape.key)})" if shape.key else "has no key"
        made = mending.to_key(shape.name, key, shape.key_name)
        said = f"it {is_key}, not ({', '.join(key)}): a row could be there twice; {made}"
        yield Cause.KEY, said
        return
    declared = {column["name"]: column.get("type", "").lower() for column in columns}
    for name in key:
        column = shape.columns.get(name)
        if column is not None and (not column.is_exact or column.type == "citext"):
            exact = mending.to_exact(shape.name, name, declared.get(name, ""))
            yield Cause.KEY, f'the key "{name}" takes different texts for the same one: {exact}'


def _encoding(models: Mapping[str, Any], encoding: str) -> str:
    return (
        ""
        if encoding == _EVERY_TEXT or not models
        else f"the database has the encoding {encoding}: characters that it lacks are refused"
    )


def _literal(text: str) -> str:
    """Return *text* as an SQL string literal, whatever standard_conforming_strings is."""
    doubled = text.replace("'", "''").replace("\\", "\\\\")
    return f"E'{doubled}'"
