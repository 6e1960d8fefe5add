# SPDX-License-Identifier: Apache-2.0
"""Where the columns of a layout stand on the hub, and at the box's own head."""

from dataclasses import dataclass, field

from edgepaas.outbox.layout import Layout
from edgepaas.outbox.revisions.changes import Names
from edgepaas.outbox.revisions.record import RevisionRecord, way_to_hub


@dataclass(frozen=True)
class Naming:
    """The records of both sides; ``hub`` is None where PostgreSQL keeps none."""

    hub: RevisionRecord | None = None
    box: RevisionRecord = field(default_factory=RevisionRecord)

    def at_hub(self, layout: Layout) -> Names:
        """Return where the table and the columns of *layout* stand on the hub."""
        names = Names.of(layout.table, layout.names)
        return names.after(way_to_hub(layout.revision, self.hub, self.box))

    def at_box(self, layout: Layout) -> Names:
        """Return where they stand in the box's own tables."""
        names = Names.of(layout.table, layout.names)
        known = self.box.knows(layout.revision)
        return names.after(self.box.after(layout.revision) if known else ())
