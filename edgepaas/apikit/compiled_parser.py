# SPDX-License-Identifier: Apache-2.0
"""A schema's fields compiled into one function: what is valid is loaded at a tenth of the price.

::

    parse = compile_parser(ReadingFields(), batch=ReadingBatch())
    readings = parse(read_plain(body))     # or NotPlain: take the ordinary way

The schema stays the one declaration. A parser takes nothing that ``schema.load`` refuses, and
returns the very same values; whatever it does not take at sight (a wrong value, an unknown
field, and some odd but valid forms, too) is :class:`NotPlain`. The ordinary way then loads
it, or words the error: a parser knows no error texts.
"""

import uuid
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import marshmallow as ma

from edgepaas.apikit.plain_json import NotPlain, PlainLoader, declares, has_methods, with_checks

#: Loads objects of parsed JSON; raises NotPlain.
_LoadMany = Callable[[Sequence[Any]], list[dict[str, Any]]]

#: What decides how a field loads a value: a class that changes one of these, and says nothing
#: of :data:`_COMPILED`, is loaded by marshmallow.
_LOADING = ("deserialize", "_deserialize", "_validate", "_validate_missing", "_validated")
#: The method by which a field's class offers the same, compiled.
_COMPILED = "plain_loader"
#: Fields whose loaders take texts alone and return what cannot be changed: the same for the same.
_OF_TEXT = (ma.fields.String, ma.fields.UUID, ma.fields.DateTime)


class Parser:
    """Loads one object, or a list of them, as the schema that it was compiled from does."""

    def __init__(
        self, schema: ma.Schema, *, batch: ma.Schema | None = None, most: int | None = None
    ) -> None:
        """See :func:`compile_parser`."""
        self._batch = None if batch is None else _list_in(batch, schema)
        self._most = most
        self._load = _compiled(schema) if _is_compilable(schema) else _by_marshmallow(schema)

    def __call__(self, value: Any) -> list[dict[str, Any]]:
        """Return what *value*, parsed JSON, holds, as ``schema.load`` does; raises NotPlain."""
        return self._load(self._objects(value))

    def _objects(self, value: Any) -> Sequence[Any]:
        if type(value) is dict:
            if self._batch is None or self._batch not in value:
                return (value,)
            if len(value) != 1:
                raise NotPlain
            value = value[self._batch]
        if type(value) is not list or (self._most is not None and len(value) > self._most):
            raise NotPlain
        return value


def compile_parser(
    schema: ma.Schema, *, batch: ma.Schema | None = None, most: int | None = None
) -> Parser:
    """Return a parser for what *schema* loads: one object, or a list of them.

    *batch* is a schema of one field, a list of *schema*'s objects, that is taken as well, and
    *most* how many objects a list may hold (more are NotPlain). A schema with methods of its
    own (hooks, validators), and a field whose class says nothing of how it is compiled, are
    loaded by marshmallow: always right, and no faster. Raises TypeError where *batch* is no
    such schema.
    """
    return Parser(schema, batch=batch, most=most)


def compile_query(schema: ma.Schema) -> Callable[[Iterable[tuple[str, str]]], dict[str, Any]]:
    """Return what loads the names and values of an address' query as *schema* does.

    It raises NotPlain for whatever the ordinary way has to look at, as a parser does. Raises
    TypeError for a schema that cannot be compiled.
    """
    if not _is_compilable(schema):
        raise TypeError(f"{type(schema).__name__} has methods, or renames what it loads")
    defaults: dict[str, Any] = {}
    required: set[str] = set()
    loaders: dict[str, tuple[str, PlainLoader]] = {}
    for name, field in schema.load_fields.items():
        key = field.data_key if field.data_key is not None else name
        loader, takes_data = _loader_of(field, key, from_address=True)
        if takes_data or callable(field.load_default):
            raise TypeError(f"{type(schema).__name__}.{name} cannot be compiled for an address")
        loaders[key] = (name, loader)
        if field.required:
            required.add(name)
        elif field.load_default is not ma.missing:
            defaults[name] = field.load_default

    def load(pairs: Iterable[tuple[str, str]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, text in pairs:
            if key not in loaders:
                raise NotPlain
            name, loader = loaders[key]
            if name in found:
                raise NotPlain
            found[name] = loader(text)
        if not required <= found.keys():
            raise NotPlain
        return {**defaults, **found}

    return load


def _list_in(batch: ma.Schema, schema: ma.Schema) -> str:
    """Return the name of the list in *batch*, a schema that holds that list alone."""
    fields = list(batch.load_fields.items())
    if len(fields) == 1:
        name, field = fields[0]
        if (
            type(field) is ma.fields.List
            and type(field.inner) is ma.fields.Nested
            and type(field.inner.schema) is type(schema)
            and not field.validators
            and not has_methods(batch)
        ):
            return field.data_key or name
    raise TypeError(f"{type(batch).__name__} is not one list of what {type(schema).__name__} loads")


def _is_compilable(schema: ma.Schema) -> bool:
    return (
        not has_methods(schema)
        and schema.unknown == ma.RAISE
        and not schema.many
        and not schema.partial
        and schema.dict_class is dict
        and all(
            one.attribute in (None, name) and "." not in name
            for name, one in schema.load_fields.items()
        )
    )


def _by_marshmallow(schema: ma.Schema) -> _LoadMany:
    def load(objects: Sequence[Any]) -> list[dict[str, Any]]:
        try:
            return [schema.load(one, many=False) for one in objects]
        except Exception as error:
            raise NotPlain from error  # the ordinary way meets it again

    return load


def _compiled(schema: ma.Schema) -> _LoadMany:
    """Return the function that loads objects.

    Its source holds positions alone; names, loaders and defaults are given to it as values.
    """
    known: dict[str, Any] = {"MISSING": ma.missing, "NotPlain": NotPlain, "unset": object()}
    lines = ["def load(objects):", " found = []"]
    each: list[str] = []
    for at, (name, field) in enumerate(schema.load_fields.items()):
        known[f"name{at}"] = name
        known[f"key{at}"] = field.data_key if field.data_key is not None else name
        known[f"default{at}"] = field.load_default
        known[f"load{at}"], takes_data = _loader_of(field, known[f"key{at}"])
        lines.append(f" last{at} = was{at} = unset")
        each += _field_lines(at, field, takes_data=takes_data)
    lines += [
        " for data in objects:",
        "  if type(data) is not dict: raise NotPlain",
        *("  left = len(data)", "  loaded = {}"),
        *(f"  {line}" for line in each),
        *("  if left: raise NotPlain", "  found.append(loaded)", " return found"),
    ]
    exec("\n".join(lines), known)  # noqa: S102 - of positions alone, see above
    made: _LoadMany = known["load"]
    return made


def _field_lines(at: int, field: ma.fields.Field[Any], *, takes_data: bool) -> list[str]:
    """Return the lines that load the field at position *at* of ``data`` into ``loaded``."""
    lines = [f"v = data.get(key{at}, MISSING)", "if v is MISSING:"]
    if field.required:
        lines.append(" raise NotPlain")
    elif field.load_default is ma.missing:
        lines.append(" pass")
    else:
        call = "()" if callable(field.load_default) else ""
        lines.append(f" loaded[name{at}] = default{at}{call}")
    lines += ["else:", " left -= 1"]
    load = f"load{at}(v, data)" if takes_data else f"load{at}(v)"
    known: list[tuple[str, str]] = []
    if field.allow_none and not takes_data:  # else the loader refuses it
        known.append(("v is None", "None"))
    if isinstance(field, _OF_TEXT) and not takes_data:
        # Most objects of a list name the same device.
        known.append((f"v == last{at}", f"was{at}"))
        load = f"was{at} = load{at}(last{at} := v)"
    for number, (condition, value) in enumerate(known):
        lines += [f" {'el' if number else ''}if {condition}:", f"  loaded[name{at}] = {value}"]
    if not known:
        return [*lines, f" loaded[name{at}] = {load}"]
    return [*lines, " else:", f"  loaded[name{at}] = {load}"]


def _loader_of(
    field: ma.fields.Field[Any], name: str, *, from_address: bool = False
) -> tuple[Callable[..., Any], bool]:
    """Return what loads a value of *field*, and whether it wants the whole object as well.

    *from_address*: the values are texts of an address' query.
    """
    if not getattr(field, "pre_load", None) and not getattr(field, "post_load", None):
        if type(field) is ma.fields.UUID:
            return with_checks(_load_uuid, field.validators), False
        if type(field) is ma.fields.String:
            return with_checks(_load_string, field.validators), False
        if declares(type(field), _COMPILED, _LOADING):
            in_address = getattr(field, "address_loader", None) if from_address else None
            loader: PlainLoader = (in_address or getattr(field, _COMPILED))()
            return loader, False

    def load(value: Any, data: Any) -> Any:
        try:
            return field.deserialize(value, name, data)
        except Exception as error:
            raise NotPlain from error  # the ordinary way meets it again

    return load, True


def _load_uuid(value: Any) -> uuid.UUID:
    if type(value) is not str:
        raise NotPlain
    try:
        return uuid.UUID(value)
    except ValueError:
        raise NotPlain from None


def _load_string(value: Any) -> str:
    if type(value) is not str:
        raise NotPlain
    return value
