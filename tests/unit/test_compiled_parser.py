# SPDX-License-Identifier: Apache-2.0
"""A compiled parser takes nothing that its schema refuses, and loads the very same values."""

import json
import math
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

import marshmallow as ma
import pytest
from flask import Flask
from hypothesis import given, settings
from hypothesis import strategies as st

from edgepaas.app.api import (
    BooleanField,
    IntegerField,
    LabelsField,
    NotPlain,
    NumberField,
    Parser,
    PlainLoader,
    Problem,
    TextField,
    compile_parser,
    read_json,
    read_plain,
    with_checks,
)
from edgepaas.telemetry.moment_fields import Moment
from edgepaas.telemetry.schemas import ReadingBatch, ReadingFields
from tests.support.search import tries

GOOD_ID = "018f3b0e-7b1a-7c3d-9e4f-0123456789ab"


class Every(ma.Schema):
    """A field of each kind, each way in which one is declared."""

    text = TextField(shortest=2, longest=5, required=True)
    shown = TextField(longest=8, visible=True, allow_none=True, load_default=None)
    word = TextField(longest=8, validate=ma.validate.Regexp("[a-z]*$"), load_default="some")
    choice = ma.fields.String(validate=ma.validate.OneOf(("red", "green")))
    plain = ma.fields.String(data_key="as")
    number = NumberField(allow_none=True)
    small = NumberField(validate=ma.validate.Range(min=-1.0, max=1.0))
    whole = IntegerField(least=-3, most=2**60)
    flag = BooleanField(load_default=False)
    labels = LabelsField(most=2, name=3, value=4, load_default=dict)
    identity = ma.fields.UUID(load_default=None, allow_none=True)
    moment = Moment()
    address = ma.fields.Email()
    listed = ma.fields.List(ma.fields.Integer(), load_default=list)


READINGS = compile_parser(ReadingFields(), batch=ReadingBatch(), most=4)
EVERY = compile_parser(Every())


def strictly_same(one: Any, other: Any) -> bool:
    """Whether two loaded values are one in type, sign and zone as well."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return list(one) == list(other) and all(strictly_same(one[k], other[k]) for k in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(strictly_same, one, other))
    if isinstance(one, float):
        return bool(one.hex() == other.hex())
    if isinstance(one, datetime):
        return bool(one == other) and one.tzinfo is other.tzinfo
    return bool(one == other)


def by_marshmallow(value: Any, schema: ma.Schema, batch: ma.Schema | None = None) -> Any:
    """Return what the ordinary way makes of *value*; None where that refuses it."""
    try:
        if batch is not None and isinstance(value, dict) and "readings" in value:
            return batch.load(value)["readings"]
        loaded = schema.load(value, many=isinstance(value, list))
    except ma.ValidationError:
        return None
    return loaded if isinstance(loaded, list) else [loaded]


def outcome(parser: Parser, value: Any, schema: ma.Schema, batch: ma.Schema | None = None) -> str:
    """Return ``taken`` or ``left``, or what *parser* did that the ordinary way would not do."""
    try:
        found = parser(value)
    except NotPlain:
        return "left"
    ordinary = by_marshmallow(value, schema, batch)
    if ordinary is None:
        return f"taken, and refused by marshmallow: {value!r}"
    return "taken" if strictly_same(found, ordinary) else f"{found!r} in place of {ordinary!r}"


TEXTS = st.one_of(
    st.text(max_size=12),
    st.text(st.characters(categories=("Cs", "Cc", "Cf", "Zs", "Co")), max_size=4),
    st.sampled_from(["", " ", " a", "a ", "\0", "a\0", "\ud800", "\u202eab", "\u200b", "x" * 300]),
)
NUMBERS = st.one_of(
    st.floats(),
    st.integers(),
    st.sampled_from([0, -0.0, 2**53 + 1, 2**63, -(2**63), 10**400, 1e308, True, False, 3.0]),
)
IDS = st.one_of(
    st.uuids().map(str),
    st.uuids().map(lambda one: one.hex),
    st.uuids().map(lambda one: f"{{{one}}}"),
    st.uuids().map(lambda one: one.urn.upper()),
    st.sampled_from([GOOD_ID, GOOD_ID[:-1], f"{GOOD_ID}0", GOOD_ID.replace("-", "_"), "", 7]),
)
DATES = st.sampled_from(
    ["2024-05-01", "1970-01-01", "1969-12-31", "9999-12-31", "0001-01-01", "2023-02-29", "2024-W18"]
)
CLOCKS = st.sampled_from(
    [
        *("00:00", "23:59:59", "23:59:60", "24:00", "12:30:00.1", "12:30:00.123456789"),
        *("12:30:00,5", "12", "1230", "12:30:00."),
    ]
)
ZONES = st.sampled_from(
    ["", "Z", "z", "+00:00", "-00:00", "+14:00", "-23:59", "+24:00", "+0530", "+05", " Z", "Z\n"]
)
MOMENTS = st.one_of(
    st.builds(
        lambda date, gap, clock, zone: f"{date}{gap}{clock}{zone}",
        DATES,
        st.sampled_from(["T", "t", " ", "", "  ", "T "]),
        CLOCKS,
        ZONES,
    ),
    st.datetimes().map(lambda one: one.isoformat()),
    st.sampled_from(["2024-05-01T12:30:0\u0661Z", "now", "", 5, 1714566600]),
)
ANYTHING = st.recursive(
    st.none() | TEXTS | NUMBERS,
    lambda below: st.lists(below, max_size=3) | st.dictionaries(TEXTS, below, max_size=3),
    max_leaves=6,
)


def objects(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Return objects of these fields, most of them valid: some lack, some are anything."""
    odd = {name: st.one_of(value, value, value, value, ANYTHING) for name, value in fields.items()}
    return st.builds(
        lambda known, more: {**known, **more},
        st.fixed_dictionaries({}, optional=odd),
        st.one_of(st.just({}), st.just({}), st.just({}), st.dictionaries(TEXTS, ANYTHING)),
    )


NAMES = st.one_of(st.sampled_from(["press-1", "Größe", "温度", "a b"]), TEXTS)
READING = objects(
    id=IDS,
    device=NAMES,
    metric=NAMES,
    value=NUMBERS,
    unit=st.one_of(st.sampled_from(["°C", None, ""]), TEXTS),
    recorded_at=MOMENTS,
)
EVERYTHING = objects(
    text=st.one_of(st.sampled_from(["ab", "abcde", "a", "abcdef"]), TEXTS),
    shown=st.one_of(st.none(), TEXTS),
    word=TEXTS,
    choice=st.sampled_from(["red", "green", "blue", ["red"]]),
    number=st.one_of(st.none(), NUMBERS),
    small=NUMBERS,
    whole=NUMBERS,
    flag=st.sampled_from([True, False, 0, 1, "true"]),
    labels=st.dictionaries(TEXTS, TEXTS, max_size=3),
    identity=st.one_of(st.none(), IDS),
    moment=MOMENTS,
    address=st.sampled_from(["a@example.org", "a@"]),
    listed=st.lists(st.sampled_from([1, 2, "3", "x"]), max_size=2),
)
EVERYTHING = st.builds(
    lambda one, named: {("as" if name == named else name): v for name, v in one.items()},
    EVERYTHING,
    st.sampled_from(["word", ""]),
)


@given(
    st.one_of(
        READING,
        st.lists(READING, max_size=5),
        st.lists(READING, max_size=5).map(lambda some: {"readings": some}),
        st.builds(lambda some, more: {**more, "readings": some}, ANYTHING, READING),
        ANYTHING,
    )
)
def test_a_reading_is_loaded_as_marshmallow_loads_it_or_not_at_all(value: Any) -> None:
    assert outcome(READINGS, value, ReadingFields(), ReadingBatch()) in ("taken", "left")


@given(st.one_of(EVERYTHING, st.lists(EVERYTHING, max_size=3), ANYTHING))
def test_every_kind_of_field_is_loaded_as_marshmallow_loads_it_or_not_at_all(value: Any) -> None:
    assert outcome(EVERY, value, Every()) in ("taken", "left")


@settings(max_examples=tries(100))
@given(MOMENTS)
def test_a_moment_is_taken_in_each_form_that_the_field_takes(text: Any) -> None:
    """Not only nothing more: what the field loads is taken at sight, in every form."""
    reading = {"device": "d", "metric": "m", "value": 1, "recorded_at": text}
    valid = by_marshmallow(reading, ReadingFields()) is not None
    assert outcome(READINGS, reading, ReadingFields()) == ("taken" if valid else "left")


GOOD = {"device": "press-1", "metric": "temperature", "value": 21.5}


@pytest.mark.parametrize(
    "value",
    [
        GOOD,
        {**GOOD, "id": GOOD_ID, "unit": "°C", "recorded_at": "2024-05-01T12:30:00Z"},
        {**GOOD, "id": GOOD_ID.upper(), "unit": None, "recorded_at": "2024-05-01 12:30"},
        {**GOOD, "value": 3, "device": "温度 7", "unit": "\ud7c7\u00a0odd"},
        [],
        [GOOD, {**GOOD, "value": -0.0}],
        {"readings": [GOOD]},
        {"readings": []},
    ],
)
def test_what_devices_post_is_plain(value: Any) -> None:
    assert outcome(READINGS, value, ReadingFields(), ReadingBatch()) == "taken"


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"device": "d", "metric": "m"},
        {**GOOD, "value": True},
        {**GOOD, "value": "21.5"},
        {**GOOD, "value": math.inf},
        {**GOOD, "value": math.nan},
        {**GOOD, "value": 10**400},
        {**GOOD, "value": None},
        {**GOOD, "id": None},
        {**GOOD, "device": " press"},
        {**GOOD, "device": "x" * 201},
        {**GOOD, "device": "a\0"},
        {**GOOD, "device": "\ud800"},
        {**GOOD, "unit": "\u202dodd"},
        {**GOOD, "unit": "x" * 51},
        {**GOOD, "colour": "red"},
        {**GOOD, "received_at": "2024-05-01T12:30:00Z"},
        {"readings": [GOOD], "colour": "red"},
        {"readings": GOOD},
        [[GOOD]],
        [GOOD, 5],
        [GOOD] * 5,
        None,
        "text",
    ],
)
def test_what_is_wrong_or_too_much_is_not_plain(value: Any) -> None:
    with pytest.raises(NotPlain):
        READINGS(value)


def test_a_list_is_loaded_as_its_objects_are_whatever_stood_before_them() -> None:
    """What the object before held is not loaded again where it is the same; only there."""
    text = {"device": "a", "metric": "m", "value": 1, "unit": "u", "id": GOOD_ID}
    dated = {**text, "recorded_at": "2024-05-01T12:30:00Z", "value": 1.0}
    bare = {"device": "a", "metric": "m", "value": 2}
    objects = [text, dated, {**bare, "unit": None}, bare, dated, {**dated, "device": "b"}]
    parse = compile_parser(ReadingFields())
    assert strictly_same(parse(objects), ReadingFields(many=True).load(objects))
    for odd in (1, True, None, ["a"], {"a": 1}):
        with pytest.raises(NotPlain):
            parse([text, {**text, "device": odd}])


def test_a_default_that_is_made_is_made_for_each_object() -> None:
    class Labelled(ma.Schema):
        labels = LabelsField(load_default=dict)

    one, other = compile_parser(Labelled())([{}, {}])
    assert one["labels"] == other["labels"] == {}
    assert one["labels"] is not other["labels"]


# -- schemas and fields that say more than their declaration --


class Hooked(ma.Schema):
    """A schema with a method: only marshmallow knows what it does."""

    name = TextField(longest=5, required=True)

    @ma.post_load
    def shout(self, data: Any, **_: Any) -> Any:
        return {**data, "name": data["name"].upper()}


class Validated(ma.Schema):
    """A schema with a validator of its own."""

    name = TextField(longest=5, required=True)

    @ma.validates_schema
    def check(self, data: Any, **_: Any) -> None:
        if data["name"] == "no":
            raise ma.ValidationError("no")


class Stricter(TextField):
    """A field that refuses more than the class that it derives from."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:
        if value == "no":
            raise ma.ValidationError("no")
        return super()._deserialize(value, attr, data, **kwargs)


class Compiled(Stricter):
    """The same, and it says how it is compiled."""

    def plain_loader(self) -> PlainLoader:
        def load(value: Any) -> str:
            if type(value) is not str or value == "no" or len(value) > 5:
                raise NotPlain
            return value

        return with_checks(load, self.validators)


def schema_of(field: ma.fields.Field[Any]) -> ma.Schema:
    return ma.Schema.from_dict({"name": field})()


SCHEMAS: dict[str, Callable[[], ma.Schema]] = {
    "hooked": Hooked,
    "validated": Validated,
    "stricter": lambda: schema_of(Stricter(longest=5)),
    "compiled": lambda: schema_of(Compiled(longest=5)),
    "excluding": lambda: Hooked(unknown=ma.EXCLUDE),
    "including": lambda: ma.Schema.from_dict({"name": TextField(longest=5)})(unknown=ma.INCLUDE),
    "attribute": lambda: schema_of(TextField(longest=5, attribute="called")),
    "two checks": lambda: schema_of(
        TextField(longest=5, validate=[ma.validate.NoneOf(["no"]), ma.validate.Length(min=2)])
    ),
}


@pytest.mark.parametrize("made", SCHEMAS)
@pytest.mark.parametrize(
    "value", [{"name": "ab"}, {"name": "no"}, {"name": "abcdef"}, {}, {"name": "ab", "more": 1}]
)
def test_a_schema_that_does_more_is_never_taken_otherwise_than_it_says(
    made: str, value: Any
) -> None:
    schema = SCHEMAS[made]()
    assert outcome(compile_parser(schema), value, schema) in ("taken", "left")


@pytest.mark.parametrize("made", [name for name in SCHEMAS if name != "including"])
def test_a_schema_that_does_more_is_taken_all_the_same(made: str) -> None:
    schema = SCHEMAS[made]()
    assert outcome(compile_parser(schema), {"name": "ab"}, schema) == "taken"


def test_an_error_of_a_validator_itself_is_left_to_the_ordinary_way() -> None:
    def broken(_: Any) -> None:
        raise KeyError("a mistake in the application")

    schema = schema_of(TextField(longest=5, validate=broken))
    with pytest.raises(NotPlain):
        compile_parser(schema)({"name": "ab"})
    with pytest.raises(KeyError):
        schema.load({"name": "ab"})


def test_a_batch_has_to_be_one_list_of_the_schemas_objects() -> None:
    class Two(ma.Schema):
        readings = ma.fields.List(ma.fields.Nested(ReadingFields))
        more = ma.fields.String()

    for wrong in (Two(), Hooked(), schema_of(ma.fields.List(ma.fields.Nested(Hooked)))):
        with pytest.raises(TypeError, match="is not one list"):
            compile_parser(ReadingFields(), batch=wrong)


# -- the text before it is parsed --


@pytest.fixture(scope="module")
def app() -> Iterator[Flask]:
    yield Flask("bodies")


PIECES = st.sampled_from(
    [
        *('{"a": 1, "a": 2}', '{"a": NaN}', "[1e400]", "[-0.0]", "[-Infinity]", "9" * 5000),
        *(
            '"\\u0000"',
            '"\\ud800"',
            '"\\ud83d\\ude00"',
            '{"\\udc00": 1}',
            '"\\\\u0000"',
            '"\\u00b0"',
        ),
        *("[" * 33 + "]" * 33, "[" * 34 + "]" * 34, "[" * 5000, "\ufeff[1]", "\ufeff\ufeff[1]"),
        *("", " ", "[1", "[1]]", "[01]", "'a'", '"\t"', '{"a" :1,"a":1}', "[1,]", "nul"),
    ]
)
BODIES = st.one_of(
    st.binary(max_size=20),
    PIECES.map(lambda text: text.encode("utf-8", "surrogatepass")),
    st.lists(PIECES, max_size=3).map(lambda some: f"[{','.join(some)}]".encode()),
    ANYTHING.map(lambda value: json.dumps(value).encode()),
    ANYTHING.map(lambda v: json.dumps(v, ensure_ascii=False).encode("utf-8", "surrogatepass")),
)


@given(body=BODIES)
def test_a_body_is_read_as_the_ordinary_way_reads_it_or_not_at_all(app: Flask, body: bytes) -> None:
    with app.test_request_context(method="POST", data=body, content_type="application/json"):
        try:
            ordinary, refused = read_json(), False
        except Problem:
            ordinary, refused = None, True
    try:
        plain = read_plain(body)
    except NotPlain:
        assert refused
        return
    assert not refused
    assert strictly_same(plain, ordinary)
