# SPDX-License-Identifier: Apache-2.0
"""What the digests of a shared table depend on: those of another shape cannot be compared."""

import hashlib

from edgepaas.outbox.layout import Layout
from edgepaas.sync.content.content import HubContent, NotComparable
from edgepaas.sync.content.digest import RowDigest


def digest_and_shape(hub: HubContent, layout: Layout) -> tuple[RowDigest, str] | None:
    """Return how rows of *layout* become digests, and what they depend on; None: they cannot.

    Raises HubError.
    """
    try:
        table = hub.table(layout)
    except NotComparable:
        return None
    if table.problems or len(table.mapping.columns) != len(layout.columns):
        return None
    text = f"{table.digest.sql}\n{layout.definition()}"
    return table.digest, hashlib.sha256(text.encode()).hexdigest()[:32]
