# SPDX-License-Identifier: Apache-2.0
"""A schema's fields compiled into one function: what is valid is loaded at a tenth of the price.

::

    parse = compile_parser(ReadingFields(), batch=ReadingBatch())
    rows = parse.rows(read_plain(body))     # or NotPlain: take the ordinary way

The schema stays the one declaration. A parser takes nothing that ``schema.load`` refuses, and
returns the very same values; whatever it does not take at sight (a wrong value, an unknown
field, and some odd but valid forms, too) is :class:`NotPlain`. The ordinary way then loads
it, or words the error: a parser knows no error texts.
"""

import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import marshmallow as ma

from edgepaas.apikit.plain_json import NotPlain, PlainLoader, declares, has_methods, with_checks

#: Stands in a row for a field that was not given and has no default.
MISSING = ma.missing

#: What decides how a field loads a value: a class that changes one of these, and says nothing
#: of :data:`_COMPILED`, is loaded by marshmallow.
_LOADING = ("deserialize", "_deserialize", "_validate", "_validate_missing", "_validated")
#: The method by which a field's class offers the same, compiled.
_COMPILED = "plain_loader"


class Parser:
    """Loads one object, or a list of them, as the schema that it was compiled from does."""

    def __init__(
        self, schema: ma.Schema, *, batch: ma.Schema | None = None, most: int | None = None
    ) -> None:
        """See :func:`compile_parser`."""
        #: The keys of a loaded object: the columns of a row of :meth:`rows`.
        self.names: tuple[str, ...] = ()
        self._batch = None if batch is None else _list_in(batch, schema)
        self._most = most
        self._row: Callable[[Any], tuple[Any, ...]]
        if _is_compilable(schema):
            self.names = tuple(schema.load_fields)
            self._row = _compiled(schema)
        else:
            self.names = tuple(one.attribute or name for name, one in schema.load_fields.items())
            self._row = _by_marshmallow(schema, self.names)

    def rows(self, value: Any) -> list[tuple[Any, ...]]:
        """Return what *value*, parsed JSON, holds: for each object the values of :attr:`names`.

        A value that was not given and has no default is MISSING. Raises NotPlain.
        """
        row = self._row
        return [row(one) for one in self._objects(value)]

    def __call__(self, value: Any) -> list[dict[str, Any]]:
        """Return what *value*, parsed JSON, holds, as ``schema.load`` does; raises NotPlain."""
        names = self.names
        return [
            {name: one for name, one in zip(names, values, strict=True) if one is not MISSING}
            for values in self.rows(value)
        ]

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


def _by_marshmallow(schema: ma.Schema, names: Sequence[str]) -> Callable[[Any], tuple[Any, ...]]:
    def row(value: Any) -> tuple[Any, ...]:
        try:
            loaded: Mapping[str, Any] = schema.load(value, many=False)
            found = tuple(loaded.get(name, MISSING) for name in names)
        except Exception as error:
            raise NotPlain from error
        if not loaded.keys() <= set(names):
            raise NotPlain  # a hook has added something
        return found

    return row


def _compiled(schema: ma.Schema) -> Callable[[Any], tuple[Any, ...]]:
    """Return the function that makes a row of one object.

    Its source holds positions alone; names, loaders and defaults are given to it as values.
    """
    known: dict[str, Any] = {"MISSING": MISSING, "NotPlain": NotPlain}
    lines = ["def row(data):", " if type(data) is not dict: raise NotPlain", " left = len(data)"]
    values = []
    for at, (name, field) in enumerate(schema.load_fields.items()):
        known[f"name{at}"] = field.data_key if field.data_key is not None else name
        loader, takes_data = _loader_of(field, known[f"name{at}"])
        known[f"load{at}"] = loader
        lines += [f" v{at} = data.get(name{at}, MISSING)", f" if v{at} is MISSING:"]
        if field.required:
            lines.append("  raise NotPlain")
        elif callable(field.load_default):
            known[f"default{at}"] = field.load_default
            lines.append(f"  v{at} = default{at}()")
        else:
            known[f"default{at}"] = field.load_default
            lines.append(f"  v{at} = default{at}")
        lines += [" else:", "  left -= 1"]
        given = f"load{at}(v{at}, data)" if takes_data else f"load{at}(v{at})"
        if takes_data:
            lines.append(f"  v{at} = {given}")
        elif field.allow_none:
            lines.append(f"  if v{at} is not None: v{at} = {given}")
        else:  # every compiled loader refuses None
            lines.append(f"  v{at} = {given}")
        values.append(f"v{at}, ")
    lines += [" if left: raise NotPlain", f" return ({''.join(values)})"]
    exec("\n".join(lines), known)  # noqa: S102 - of positions alone, see above
    made: Callable[[Any], tuple[Any, ...]] = known["row"]
    return made


def _loader_of(field: ma.fields.Field[Any], name: str) -> tuple[Callable[..., Any], bool]:
    """Return what loads a value of *field*, and whether it wants the whole object as well."""
    if not getattr(field, "pre_load", None) and not getattr(field, "post_load", None):
        if type(field) is ma.fields.UUID:
            return with_checks(_load_uuid, field.validators), False
        if type(field) is ma.fields.String:
            return with_checks(_load_string, field.validators), False
        if declares(type(field), _COMPILED, _LOADING):
            loader: PlainLoader = getattr(field, _COMPILED)()
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
