# SPDX-License-Identifier: Apache-2.0
"""Tombstones: the hub's notes that a shared row was deleted, asked for by keys."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from edgepaas.outbox.reading import bounded_key, key_text

if TYPE_CHECKING:
    from edgepaas.sync.hub.connection import Hub

#: Keys that are asked about together.
_PAGE = 500
_TOMBSTONES = """
SELECT row_key FROM sync_tombstones
WHERE tbl = $1::text AND row_key IN (SELECT jsonb_array_elements_text($2::text::jsonb))"""


def deleted_keys(hub: "Hub", table: str, keys: Sequence[tuple[Any, ...]]) -> set[tuple[Any, ...]]:
    """Return those of *keys* of *table* that have a tombstone; raises HubError.

    One round trip for some hundred keys.
    """
    found: set[tuple[Any, ...]] = set()
    for start in range(0, len(keys), _PAGE):
        names = {bounded_key(key_text(key)): key for key in keys[start : start + _PAGE]}
        rows = hub.query(_TOMBSTONES, table, json.dumps(list(names)))
        found.update(names[str(name)] for (name,) in rows)
    return found
