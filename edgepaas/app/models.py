# SPDX-License-Identifier: Apache-2.0
"""Tables: their base, their kinds, column types, keys, and the database's own interface.

An application makes its base in one line and names the kind of each table::

    Model = new_model_base()

    class Note(Model, kind="facts"):
        __tablename__ = "notes"
        id = mapped_column(Uuid, primary_key=True, default=uuid7)
        text = mapped_column(Text(200), nullable=False)
        written_at = mapped_column(UtcDateTime, default=utc_now)

``facts`` are append-only and forwarded to PostgreSQL, ``shared`` tables are mutable and
go both ways, ``local`` ones never leave the box (:data:`Kind`). Where boxes write the same
shared row, PostgreSQL merges it column by column; ``info={"merge": …}`` of a column says
how (:data:`Merge`, :mod:`edgepaas.database.model`).

Column types hold the same value on SQLite and PostgreSQL, and refuse what PostgreSQL would
refuse later: :class:`Text`, :class:`Number`, :class:`Numeric`, :class:`UtcDateTime`,
:class:`Uuid`, :class:`Json`; beside them SQLAlchemy's ``Integer``, ``BigInteger``, ``Boolean``
and ``Enum``.

Keys are made by the application: :func:`uuid7` for a new row, :func:`name_id` for a row
that is known by a name (boxes that met the same device agree), :func:`content_id` for one
that is the same whenever its content is.

:class:`Database` is what ``box.database`` is: ``with box.database.read() as session``, and
``box.database.write(lambda session: session.add(note))``, which returns once it is durable.
A list that is asked for often is a :class:`PlainSelect`, made once, and comes from
``box.database.fetch(select, parameters)``.
"""

from edgepaas.database.database import Database
from edgepaas.database.engine import PlainSelect
from edgepaas.database.ids import content_id, name_id, uuid7
from edgepaas.database.model import Kind, KindedModel, Merge, new_metadata, new_model_base
from edgepaas.database.types import Json, Number, Numeric, Text, UtcDateTime, Uuid, utc_now

__all__ = [
    "Database",
    "Json",
    "Kind",
    "KindedModel",
    "Merge",
    "Number",
    "Numeric",
    "PlainSelect",
    "Text",
    "UtcDateTime",
    "Uuid",
    "content_id",
    "name_id",
    "new_metadata",
    "new_model_base",
    "utc_now",
    "uuid7",
]
