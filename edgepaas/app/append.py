# SPDX-License-Identifier: Apache-2.0
"""An endpoint that appends facts, declared once: documented, validated, and fast.

::

    def post_notes(notes, request):
        \"""Write notes down, all of them or none\"""
        rows = [{"id": note.get("id") or request.identity(position), "text": note["text"]}
                for position, note in enumerate(notes)]
        return Append(Note.__table__, rows)

    AppendRoute("", NoteFields(), post_notes).register(api, box.database)

It takes ``POST`` of one object, of a list of them, or of one a line (NDJSON), and answers 201
with ``{"accepted", "duplicates"}`` once all of them are durable. What is posted most, a small
body without anything unusual about it, is stored without a thread and without a schema library
on its way; the answer is the same. So *to_append* may be called in the thread that serves every
connection: it computes, and waits for nothing.
"""

import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import marshmallow as ma
from flask import Response, jsonify, request
from sqlalchemy import Table

from edgepaas.apikit.blueprint import IDEMPOTENCY_KEY, ApiBlueprint, idempotency_key, load
from edgepaas.apikit.caller import current_caller
from edgepaas.apikit.compiled_parser import compile_parser
from edgepaas.apikit.json_body import NDJSON, is_ndjson, read_json, read_ndjson
from edgepaas.apikit.plain_json import NotPlain
from edgepaas.apikit.problems import Detail, Problem
from edgepaas.database.append import (
    Appended,
    AppendJob,
    AppendOutcome,
    FactsDiffer,
    Following,
    append_facts,
)
from edgepaas.database.bulk_insert import Row, key_of
from edgepaas.database.ids import content_id, uuid7

if TYPE_CHECKING:
    from edgepaas.database import Database

__all__ = ["Append", "AppendRequest", "AppendRoute", "AppendedSchema", "NotPlain"]

#: The environ key of an outcome that is known already: the platform has run the job.
OUTCOME = "edgepaas.append_outcome"


class AppendedSchema(ma.Schema):
    """What became of what was posted; all of it is durable."""

    accepted = ma.fields.Integer(
        required=True, metadata={"description": "New items.", "minimum": 0}
    )
    duplicates = ma.fields.Integer(
        required=True, metadata={"description": "Items that were there already.", "minimum": 0}
    )


_TAKEN = "Another one has a value that is to be unique."


@dataclass(frozen=True, slots=True)
class AppendRequest:
    """Whose request it is. *caller* is a token's id, *key* its Idempotency-Key.

    *name* is the token's name, for rows that say who wrote them: copied, since a token may be
    revoked. Empty where the caller has none but *caller*.
    *at_once*: nothing may be waited for. Raise :class:`NotPlain` where that cannot be helped;
    the request then comes again, in a thread of its own.
    """

    caller: str
    key: str | None = None
    at_once: bool = False
    name: str = ""

    def identity(self, position: int) -> uuid.UUID:
        """Return an id for the item at *position*: the same again for the same key."""
        return self.identities([position])[0]

    def identities(self, positions: Sequence[int]) -> list[uuid.UUID]:
        """Return an id for the item at each of *positions*; for many at a lower price."""
        if self.key is None:
            return uuid7.batch(len(positions))
        return [content_id(self.caller, self.key, position) for position in positions]


@dataclass(frozen=True, slots=True)
class Append:
    """What the items of a request become: facts, and what goes along with them.

    *table*, *rows*, *before*, *stamp* and *following* are those of
    :func:`edgepaas.app.facts.append_facts`; there is a row for each item, in their order.
    *stored* is called once they are durable, in any thread: it must not wait.
    """

    table: Table
    rows: Sequence[Row]
    before: Mapping[Table, Sequence[Row]] = field(default_factory=dict)
    stamp: str = ""
    following: Following | None = None
    stored: Callable[[Appended], None] | None = None


#: Makes rows of the items of a request, which are loaded through the schema.
ToAppend = Callable[[Sequence[Mapping[str, Any]], AppendRequest], Append]


class AppendRoute:
    """``POST`` of facts to *path*, below the blueprint's prefix.

    *schema* describes one item, *batch* a schema of one field, a list of such items, that is
    taken as well. *to_append* names the operation and documents it by its docstring: the first
    line is the summary. At most *most* items come in one request, as the setting *most_name*
    says; *noun* is what one is called in messages.
    """

    def __init__(
        self,
        path: str,
        schema: ma.Schema,
        to_append: ToAppend,
        *,
        batch: ma.Schema | None = None,
        most: int = 10_000,
        most_name: str = "",
        noun: str = "item",
        response: type[ma.Schema] = AppendedSchema,
    ) -> None:
        self.path = path
        self.most = most
        self._most_name = most_name or "This route"
        self._schema = schema
        self._batch = batch
        self._to_append = to_append
        self._noun = noun
        self._response = response
        #: Loads what is plain, or raises NotPlain.
        self.parse = compile_parser(schema, batch=batch, most=most)
        self._list_name = "" if batch is None else next(iter(batch.load_fields))

    def register(self, api: ApiBlueprint, database: "Database") -> None:
        """Add the operation to *api*; its facts go into *database*."""
        item = type(self._schema)
        shapes: list[Any] = [item, {"type": "array", "items": item}]
        if self._batch is not None:
            shapes.insert(1, type(self._batch))
        content = {"application/json": {"oneOf": shapes}, NDJSON: {"type": "string"}}

        def view() -> tuple[Response, int]:
            caller = current_caller()
            made = AppendRequest(caller.id, idempotency_key(), name=caller.name)
            value = read_ndjson(most=self.most) if is_ndjson() else read_json(also=(NDJSON,))
            stored = self.store(database, value, made, known=request.environ.get(OUTCOME))
            # As the response's schema would dump it; this is the request that is sent most.
            return jsonify(accepted=stored.accepted, duplicates=stored.duplicates), 201

        view.__name__ = self._to_append.__name__
        view.__doc__ = self._to_append.__doc__
        documented = api.may_answer(409)(api.response(201, self._response)(view))
        documented = api.doc(parameters=[IDEMPOTENCY_KEY])(documented)
        description = f"One {self._noun}, up to {self.most:,}, or one a line (NDJSON)."
        documented = api.takes_body(content, description=description)(documented)
        cast(Any, documented).append_route = Registered(self, database)
        api.route(self.path, methods=["POST"])(documented)

    def store(
        self,
        database: "Database",
        value: Any,
        made: AppendRequest,
        *,
        known: AppendOutcome | None = None,
    ) -> Appended:
        """Validate and store *value*; return, once it is durable, how much of it is new.

        *value* is parsed JSON, from whatever protocol. With *known* the job has been run
        already, and ended so. For any thread that may wait. Raises Problem: 413 and 422 for
        the value, 409 where an item or a key came with other content before; DatabaseError.
        """
        items = self._load(value)
        if not items:
            return Appended(0, 0)
        append = self._to_append(items, made)
        try:
            if isinstance(known, BaseException):
                raise known
            stored = known or append_facts(
                database,
                append.table,
                append.rows,
                before=append.before,
                stamp=append.stamp,
                following=append.following,
            )
        except FactsDiffer as error:
            raise self._conflict(append, items, value, made, error) from None
        if append.stored is not None:
            append.stored(stored)
        return stored

    def job(
        self, value: Any, made: AppendRequest, done: Callable[[AppendOutcome], None]
    ) -> AppendJob:
        """Return the job that stores *value*, parsed JSON; nothing is waited for.

        Raises NotPlain, for whatever the ordinary way has to look at, or to word.
        """
        items = self.parse(value)
        if not items:
            raise NotPlain
        append = self._to_append(items, made)
        stored = append.stored

        def finish(outcome: AppendOutcome) -> None:
            if stored is not None and isinstance(outcome, Appended):
                try:
                    stored(outcome)
                except Exception as error:  # noqa: BLE001 - a view would be answered with it, too
                    outcome = error
            done(outcome)

        try:
            return AppendJob(
                append.table,
                append.rows,
                done if stored is None else finish,
                before=append.before,
                stamp=append.stamp,
                following=append.following,
            )
        except FactsDiffer:
            raise NotPlain from None

    def _load(self, value: Any) -> Sequence[Mapping[str, Any]]:
        """Return the items in *value*; raises Problem."""
        try:
            return self.parse(value)
        except NotPlain:
            pass
        if self._list_name and isinstance(value, dict) and self._list_name in value:
            name, values = self._list_name, value[self._list_name]
            self._check_number(values)
            assert self._batch is not None  # noqa: S101 - it has the name
            if not isinstance(values, list):
                return cast(Sequence[Mapping[str, Any]], load(self._batch, value)[name])
            load(self._batch, {**value, name: []})  # whatever else is in it
            return cast(
                Sequence[Mapping[str, Any]], load(self._schema, values, path=name, many=True)
            )
        if isinstance(value, list):
            self._check_number(value)
            return cast(Sequence[Mapping[str, Any]], load(self._schema, value, many=True))
        return [load(self._schema, value)]

    def _check_number(self, values: Any) -> None:
        # Before they are looked at: a client must not buy minutes of work with one request.
        if isinstance(values, list) and len(values) > self.most:
            raise Problem(
                413,
                f"{len(values):,} {self._noun}s in one request; "
                f"{self._most_name} allows {self.most:,}.",
            )

    def _conflict(
        self,
        append: Append,
        items: Sequence[Mapping[str, Any]],
        value: Any,
        made: AppendRequest,
        differ: FactsDiffer,
    ) -> Problem:
        key = key_of(append.table).name
        details = [
            self._difference(
                self._path_of(value, position),
                key,
                of_key=made.key is not None and not items[position].get(key),
            )
            if not differ.taken
            else Detail(path=self._path_of(value, position) or key, message=_TAKEN)
            for position in differ.positions
        ]
        first = details[0]["message"]
        return Problem(
            409,
            f"{details[0]['path']}: {first[:1].lower()}{first[1:-1]}; "
            "nothing of the request was stored.",
            details=details,
        )

    def _difference(self, path: str, key: str, *, of_key: bool) -> Detail:
        if of_key:
            which = f"{self._noun} {path}" if path else self._noun
            return {
                "path": "Idempotency-Key",
                "message": f"This key came with another {which} before; "
                "new content needs a new key.",
            }
        return {
            "path": f"{path}.{key}" if path else key,
            "message": "This id is there already with other content.",
        }

    def _path_of(self, value: Any, position: int) -> str:
        """Return where in *value* the item at *position* stands."""
        if isinstance(value, list):
            return f"[{position}]"
        if self._list_name and self._list_name in value:
            return f"{self._list_name}[{position}]"
        return ""


@dataclass(frozen=True, slots=True)
class Registered:
    """A route and the database that its facts go into; noted on its view for the platform."""

    route: AppendRoute
    database: "Database"


def registered_routes(view_functions: Mapping[str, Any]) -> Iterator[tuple[str, Registered]]:
    """Give the endpoint and the route of each view of *view_functions* that appends."""
    for endpoint, view in view_functions.items():
        found = getattr(view, "append_route", None)
        if isinstance(found, Registered):
            yield endpoint, found
