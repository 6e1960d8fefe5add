# SPDX-License-Identifier: Apache-2.0
"""A schema's fields compiled into one function that writes rows as JSON.

::

    encoder = compile_encoder(ReadingSchema())
    rows = box.database.fetch(query, parameters)    # of the columns encoder.names
    body = encoder.array(rows)

The text is, byte by byte, what ``jsonify(schema.dump(row, many=True))`` answers, at a tenth of
the price: values go into it as the driver returned them, whichever database that was.
"""

from collections.abc import Callable, Iterable, Sequence
from json.encoder import encode_basestring_ascii
from typing import Any

import marshmallow as ma

from edgepaas.apikit.plain_dumpers import dump_boolean, dump_integer, dump_text, dump_uuid
from edgepaas.apikit.plain_json import PlainDumper, declares, has_methods

#: What decides how a field writes a value: a class that changes one of these, and says nothing
#: of :data:`_COMPILED`, cannot be compiled.
_DUMPING = ("serialize", "_serialize", "get_value")
#: The method by which a field's class says how it writes a value.
_COMPILED = "plain_dumper"


class Encoder:
    """Writes rows as the JSON objects that the schema describes."""

    def __init__(self, schema: ma.Schema, order: Sequence[str] = ()) -> None:
        """See :func:`compile_encoder`."""
        fields = {name: schema.dump_fields[name] for name in order or schema.dump_fields}
        if has_methods(schema) or len(fields) != len(schema.dump_fields):
            raise TypeError(f"{type(schema).__name__} has methods, or fields beside {order}")
        #: The columns of a row, in their order.
        self.names: tuple[str, ...] = tuple(one.attribute or name for name, one in fields.items())
        self._write = _compiled(fields)

    def object(self, row: Sequence[Any]) -> str:
        """Return *row*, which holds values of :attr:`names`, as a JSON object."""
        return self._write(row)

    def array(self, rows: Iterable[Sequence[Any]]) -> str:
        """Return *rows* as a JSON array of objects."""
        return f"[{','.join(map(self._write, rows))}]"


def compile_encoder(schema: ma.Schema, *, order: Sequence[str] = ()) -> Encoder:
    """Return what writes rows as *schema* dumps them; *order* is that of the fields, if another.

    Raises TypeError for a schema with methods of its own, and for a field whose class does not
    say how a stored value is written (``plain_dumper()``).
    """
    return Encoder(schema, order)


def _compiled(fields: dict[str, ma.fields.Field[Any]]) -> Callable[[Sequence[Any]], str]:
    """Return the function that writes one row; its source holds positions alone."""
    known: dict[str, Any] = {"text": encode_basestring_ascii}
    values = "".join(f"v{at}, " for at in range(len(fields)))
    pieces = []
    for at, (name, field) in enumerate(fields.items()):
        key = field.data_key if field.data_key is not None else name
        known[f"key{at}"] = encode_basestring_ascii(key) + ":"
        dump = known[f"dump{at}"] = _dumper_of(field, name)
        written = f'"null" if v{at} is None else dump{at}(v{at})'
        if dump in (dump_text, dump_uuid):  # nearly all of them are: without a call
            written = f"text(v{at}) if type(v{at}) is str else {written}"
        pieces.append(f"{{key{at}}}{{{written}}}")
    source = f"def write(row):\n ({values}) = row\n return f'{{{{{','.join(pieces)}}}}}'"
    exec(source, known)  # noqa: S102 - of positions alone, see above
    made: Callable[[Sequence[Any]], str] = known["write"]
    return made


def _dumper_of(field: ma.fields.Field[Any], name: str) -> PlainDumper:
    if type(field) in _KNOWN:
        return _KNOWN[type(field)]
    if declares(type(field), _COMPILED, _DUMPING):
        dumper: PlainDumper = getattr(field, _COMPILED)()
        return dumper
    raise TypeError(f"{type(field).__name__} {name} does not say how a stored value is written")


_KNOWN: dict[type, PlainDumper] = {
    ma.fields.UUID: dump_uuid,
    ma.fields.String: dump_text,
    ma.fields.Integer: dump_integer,
    ma.fields.Boolean: dump_boolean,
}
