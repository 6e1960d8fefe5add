# SPDX-License-Identifier: Apache-2.0
"""What an application's API is built with: a blueprint that documents and validates itself.

::

    api = ApiBlueprint("devices", __name__, url_prefix="/api/v1/devices", description="…")

    @api.route("/<uuid:device_id>")
    @api.response(200, DeviceSchema)
    def one(device_id): ...

    @api.route("", methods=["POST"])
    @api.arguments(DeviceSchema)
    @api.response(201, DeviceSchema)
    @api.may_answer(409)
    def create(given): ...

Every operation declares by itself what the platform may answer with (400, 401, 403,
404, 413, 415, 422, 429, 503, 507, as its method, path and arguments call for).
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import wraps
from http import HTTPStatus
from typing import Any, TypeVar, cast

import marshmallow as ma
from flask import Response, request

from edgepaas.apikit.compiled_parser import compile_query
from edgepaas.apikit.fields import IntegerField, TextField, flatten
from edgepaas.apikit.json_body import read_json
from edgepaas.apikit.problems import MOST_DETAILS, Detail, invalid, wrong
from edgepaas.apikit.smorest_adapter import AdaptedBlueprint, FlaskParser, noting

View = TypeVar("View", bound=Callable[..., Any])

_WRITES = frozenset({"post", "put", "patch", "delete"})
#: The note about a view with the error statuses of :meth:`ApiBlueprint.may_answer`.
_PROBLEMS = "problems"
#: How an operation documents the header that makes its repeat harmless.
IDEMPOTENCY_KEY = {
    "in": "header",
    "name": "Idempotency-Key",
    "required": False,
    "description": "Idempotency: a repeat with the same key stores nothing twice. Items without an "
    "id get one derived from token, key and position.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 200, "pattern": "^[!-~]+$"},
}
#: What an Idempotency-Key has to be.
KEY = re.compile(r"[\x21-\x7e]{1,200}\Z")


#: The environ key of the error by which a plain read has failed already.
READ_FAILED = "edgepaas.read_failed"


@dataclass(frozen=True)
class PlainRead:
    """How a query is answered without Flask: noted on a view by ``answers_query``."""

    load: Callable[[Iterable[tuple[str, str]]], dict[str, Any]]
    answer: Callable[[dict[str, Any]], str]


class PageQuery(ma.Schema):
    """``limit`` and ``cursor`` of every list; inherit to add filters."""

    limit = IntegerField(
        least=1, most=1000, load_default=100, metadata={"description": "At most so many items."}
    )
    cursor = TextField(
        longest=500,
        load_default=None,
        metadata={
            "description": "next_cursor of the page before; its filters have to be repeated."
        },
    )


class ApiParser(FlaskParser):
    """Arguments from strict JSON and from addresses in which every name stands once."""

    # A mistyped filter that is dropped answers another question than the one asked.
    DEFAULT_UNKNOWN_BY_LOCATION: dict[str, str | None] = {  # noqa: RUF012
        **FlaskParser.DEFAULT_UNKNOWN_BY_LOCATION,
        "query": ma.RAISE,
        "querystring": ma.RAISE,
    }

    def load_json(self, req: Any, schema: ma.Schema) -> Any:
        """Return the body; raises Problem, see :func:`edgepaas.apikit.json_body.read_json`."""
        return read_json()

    def load_querystring(self, req: Any, schema: ma.Schema) -> Any:
        """Return the address' arguments; one that stands there twice is refused."""
        twice = [name for name, values in req.args.lists() if len(values) > 1]
        if twice:
            raise invalid({"path": name, "message": "Given more than once."} for name in twice)
        return super().load_querystring(req, schema)

    def handle_error(self, error: ma.ValidationError, *args: Any, **kwargs: Any) -> Any:
        """Answer 422 with the path of each wrong field."""
        messages = error.messages
        if isinstance(messages, dict) and set(messages) <= {"json", "query", "headers"}:
            details = [entry for below in messages.values() for entry in flatten(below)]
        else:
            details = flatten(messages)
        raise invalid(details)


class ApiBlueprint(AdaptedBlueprint):
    """A Flask blueprint whose operations appear in ``/openapi.json`` with every status."""

    ARGUMENTS_PARSER = ApiParser()
    PAGINATION_ARGUMENTS_PARSER = ARGUMENTS_PARSER

    def arguments(self, schema: Any, **options: Any) -> Callable[[View], View]:
        """Give the view what *schema* loads, as flask-smorest's ``arguments`` says.

        One instance serves every request: making one costs more than most bodies do.
        """
        made = schema() if isinstance(schema, type) and issubclass(schema, ma.Schema) else schema
        return super().arguments(made, **options)

    def answers_query(
        self, query: type[ma.Schema], answer: type[ma.Schema]
    ) -> Callable[[Callable[[dict[str, Any]], str]], Callable[..., Response]]:
        """Answer 200 with the JSON text that the view makes of what *query* loads.

        For lists that are asked for often, and are written by a compiled encoder. *answer*
        documents the text. Where nothing about a request is unusual, the view is called without
        Flask and its context: it uses neither ``request`` nor ``g``. What it raises is answered
        as ever; but for a DatabaseError or a Problem it is called again for that.
        """
        made = query()

        def decorator(view: Callable[[dict[str, Any]], str]) -> Callable[..., Response]:
            @wraps(view)
            def respond(loaded: dict[str, Any]) -> Response:
                failed = request.environ.get(READ_FAILED)
                if failed is not None:
                    raise failed
                return Response(view(loaded), mimetype="application/json")

            documented: Any = self.arguments(made, location="query")(
                self.response(200, answer)(respond)
            )
            documented.plain_read = PlainRead(compile_query(made), view)
            return cast(Callable[..., Response], documented)

        return decorator

    def may_answer(self, *statuses: int) -> Callable[[View], View]:
        """Document further error statuses of an operation, e.g. ``may_answer(409)``."""
        return noting(_PROBLEMS, *statuses)

    def takes_body(
        self, content: dict[str, Any], *, description: str = "", required: bool = True
    ) -> Callable[[View], View]:
        """Document a body that the view reads itself: ``{media type: schema or its dict}``."""
        body = {
            "required": required,
            "description": description,
            "content": {media: {"schema": schema} for media, schema in content.items()},
        }
        return self.doc(requestBody=body)

    def finish_operation(
        self, doc: dict[str, Any], noted: dict[str, Any], manual: dict[str, Any], method: str
    ) -> None:
        statuses = {400, 401, 429, 503, *noted.get(_PROBLEMS, ())}
        parameters = [*doc.get("parameters", ()), *manual.get("parameters", ())]
        if parameters:
            statuses.add(422)
        if "requestBody" in doc or "requestBody" in manual:
            statuses |= {413, 415, 422}
        if method in _WRITES:
            statuses |= {403, 507}
        responses = doc.setdefault("responses", {})
        # flask-smorest's catch-all would document whatever an operation does.
        responses.pop("default", None)
        for status in sorted(statuses):
            if status not in responses and str(status) not in responses:
                responses[status] = HTTPStatus(status).name
        doc["responses"] = dict(sorted(responses.items(), key=lambda entry: int(entry[0])))


def load(schema: ma.Schema, value: Any, *, path: str = "", many: bool | None = None) -> Any:
    """Return *value* loaded through *schema*; Problem 422 with paths below *path*.

    Of many the first that are wrong are named, and no more are looked at.
    """
    if many and isinstance(value, list):
        return _load_many(schema, value, path)
    try:
        return schema.load(value, many=many)
    except ma.ValidationError as error:
        raise invalid(flatten(error.messages, path)) from None


_NOT_LOOKED_AT = Detail(path="", message="and more: what follows was not looked at")


def _load_many(schema: ma.Schema, values: list[Any], path: str) -> list[Any]:
    loaded: list[Any] = []
    details: list[Detail] = []
    for at, value in enumerate(values):
        try:
            loaded.append(schema.load(value, many=False))
        except ma.ValidationError as error:
            details += flatten(error.messages, f"{path}[{at}]")
            if len(details) >= MOST_DETAILS:
                details[MOST_DETAILS - 1 :] = [_NOT_LOOKED_AT]
                break
    if details:
        raise invalid(details)
    return loaded


def idempotency_key() -> str | None:
    """Return the request's ``Idempotency-Key``, or None; Problem 422 when it is no such key."""
    key = request.headers.get("Idempotency-Key")
    if key is None:
        return None
    if not KEY.match(key):
        raise wrong("Idempotency-Key", "1 to 200 visible ASCII characters without blanks.")
    return key
