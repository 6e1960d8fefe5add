# SPDX-License-Identifier: Apache-2.0
"""The API kit: blueprints that document and validate themselves, fields, the one error body.

:class:`ApiBlueprint` is a Flask blueprint whose operations appear in ``/openapi.json`` with
every status that they may answer; its example stands in :mod:`edgepaas.apikit.blueprint`.
Bodies and query strings are described by marshmallow schemas; the fields here
(:class:`TextField`, :class:`NumberField`, :class:`IntegerField`, :class:`BooleanField`,
:class:`LabelsField`) refuse what a database would refuse later.
:class:`PageQuery` is ``limit`` and ``cursor`` of a list.

A view refuses a request by raising :class:`Problem` (``Problem(404, "There is no …")``),
:func:`wrong` for one field and :func:`invalid` for several; every error has the same body.
:func:`current_caller` is whose token the request carries, :func:`idempotency_key` the
header that makes a repeat harmless. :func:`read_json` and :func:`read_ndjson` read a body
strictly where a view wants it itself, :func:`parse_json` a text that came another way;
:func:`load` passes a value through a schema.

:func:`compile_parser` makes one function of a schema's fields, for what is posted often: what
is valid is loaded at a tenth of the price, and everything else is :class:`NotPlain`, for the
ordinary way. A field of an application's own takes part with a method ``plain_loader()``,
which returns a function that loads what the field loads, or raises NotPlain
(:func:`with_checks` adds the field's ``validators``). :func:`compile_encoder` is the way back:
it writes rows of ``box.database.fetch`` as JSON, by ``plain_dumper()`` of each field.
"""

from edgepaas.apikit.blueprint import (
    IDEMPOTENCY_KEY,
    ApiBlueprint,
    PageQuery,
    idempotency_key,
    load,
)
from edgepaas.apikit.caller import Caller, current_caller
from edgepaas.apikit.compiled_encoder import Encoder, compile_encoder
from edgepaas.apikit.compiled_parser import Parser, compile_parser
from edgepaas.apikit.fields import BooleanField, IntegerField, LabelsField, NumberField, TextField
from edgepaas.apikit.forwarding import ForwardingSchema
from edgepaas.apikit.json_body import (
    NDJSON,
    is_ndjson,
    parse_json,
    read_json,
    read_ndjson,
    unsupported,
)
from edgepaas.apikit.plain_json import NotPlain, PlainDumper, PlainLoader, read_plain, with_checks
from edgepaas.apikit.problems import Detail, Problem, invalid, printable, wrong

__all__ = [
    "IDEMPOTENCY_KEY",
    "NDJSON",
    "ApiBlueprint",
    "BooleanField",
    "Caller",
    "Detail",
    "Encoder",
    "ForwardingSchema",
    "IntegerField",
    "LabelsField",
    "NotPlain",
    "NumberField",
    "PageQuery",
    "Parser",
    "PlainDumper",
    "PlainLoader",
    "Problem",
    "TextField",
    "compile_encoder",
    "compile_parser",
    "current_caller",
    "idempotency_key",
    "invalid",
    "is_ndjson",
    "load",
    "parse_json",
    "printable",
    "read_json",
    "read_ndjson",
    "read_plain",
    "unsupported",
    "with_checks",
    "wrong",
]
