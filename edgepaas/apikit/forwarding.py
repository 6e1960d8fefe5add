# SPDX-License-Identifier: Apache-2.0
"""How the API shows the forwarding state: a schema made from its declarations."""

from collections.abc import Callable
from typing import Any

import marshmallow as ma

from edgepaas.outbox.forwarding_state import DECLARATIONS, Declaration, Forwarding

_FIELDS: dict[str, Callable[..., Any]] = {
    "text": ma.fields.String,
    "word": ma.fields.String,
    "moment": ma.fields.String,
    "rows": ma.fields.Integer,
    "flag": ma.fields.Boolean,
}


def _field(one: Declaration) -> Any:
    metadata: dict[str, object] = {"description": one.meaning}
    if one.words is not None:
        metadata["enum"] = list(one.words)
    return _FIELDS[one.unit](required=True, allow_none=one.optional, metadata=metadata)


#: How the rows are on their way to PostgreSQL.
ForwardingSchema = ma.Schema.from_dict(
    {one.name: _field(one) for one in DECLARATIONS}, name=f"{Forwarding.__name__}Schema"
)
