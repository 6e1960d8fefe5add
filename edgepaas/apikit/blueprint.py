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
from collections.abc import Callable
from copy import deepcopy
from functools import wraps
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, TypeVar, cast

import marshmallow as ma
from flask import request
from flask_smorest import Blueprint
from webargs.flaskparser import FlaskParser

from edgepaas.apikit.fields import Text, Whole, flatten
from edgepaas.apikit.json_body import read_json
from edgepaas.apikit.problems import invalid, wrong

View = TypeVar("View", bound=Callable[..., Any])

_WRITES = frozenset({"post", "put", "patch", "delete"})
#: How an operation documents the header that makes its repeat harmless.
IDEMPOTENCY_KEY = {
    "in": "header",
    "name": "Idempotency-Key",
    "required": False,
    "description": "Makes a repeat harmless: what has no id gets it from token, key and position.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 200, "pattern": "^[!-~]+$"},
}
_KEY = re.compile(r"[\x21-\x7e]{1,200}\Z")


class PageQuery(ma.Schema):
    """``limit`` and ``cursor`` of every list; inherit to add filters."""

    limit = Whole(
        least=1, most=1000, load_default=100, metadata={"description": "At most so many items."}
    )
    cursor = Text(
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


class ApiBlueprint(Blueprint):  # type: ignore[misc]  # flask-smorest has no types
    """A Flask blueprint whose operations appear in ``/openapi.json`` with every status."""

    ARGUMENTS_PARSER = ApiParser()
    PAGINATION_ARGUMENTS_PARSER = ARGUMENTS_PARSER

    if TYPE_CHECKING:  # what flask-smorest's decorators are to a type checker

        def route(self, rule: str, **options: Any) -> Callable[[View], View]: ...

        def arguments(self, schema: Any, **options: Any) -> Callable[[View], View]: ...

        def response(
            self, status_code: int, schema: Any = None, **options: Any
        ) -> Callable[[View], View]: ...

        def doc(self, **kwargs: Any) -> Callable[[View], View]: ...

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._prepare_doc_cbks.append(self._prepare_problems_doc)

    def may_answer(self, *statuses: int) -> Callable[[View], View]:
        """Document further error statuses of an operation, e.g. ``may_answer(409)``."""

        def decorator(view: View) -> View:
            @wraps(view)
            def wrapper(*args: Any, **kwargs: Any) -> Any:
                return view(*args, **kwargs)

            documented = cast(Any, wrapper)
            documented._apidoc = deepcopy(getattr(view, "_apidoc", {}))
            documented._apidoc["problems"] = (*documented._apidoc.get("problems", ()), *statuses)
            return cast(View, wrapper)

        return decorator

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

    def _prepare_problems_doc(
        self, doc: dict[str, Any], doc_info: dict[str, Any], *, method: str, **_: Any
    ) -> dict[str, Any]:
        statuses = {400, 401, 429, 503, *doc_info.get("problems", ())}
        manual = doc_info.get("manual_doc", {})
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
        return doc


def load(schema: ma.Schema, value: Any, *, path: str = "", many: bool | None = None) -> Any:
    """Return *value* loaded through *schema*; Problem 422 with paths below *path*."""
    try:
        return schema.load(value, many=many)
    except ma.ValidationError as error:
        raise invalid(flatten(error.messages, path)) from None


def idempotency_key() -> str | None:
    """Return the request's ``Idempotency-Key``, or None; Problem 422 when it is no such key."""
    key = request.headers.get("Idempotency-Key")
    if key is None:
        return None
    if not _KEY.match(key):
        raise wrong("Idempotency-Key", "1 to 200 visible ASCII characters without blanks.")
    return key
