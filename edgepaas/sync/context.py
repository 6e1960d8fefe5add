# SPDX-License-Identifier: Apache-2.0
"""What a drainer works with: settings, decision, paths, and how it is asked to stop."""

import logging
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from edgepaas.build import build_version
from edgepaas.decision.link_record import recorded_link
from edgepaas.files.node_identity import node_identity
from edgepaas.outbox.layout import read_document
from edgepaas.settings.urls import split_url
from edgepaas.sync.hub.heartbeat import LocalNode
from edgepaas.sync.hub.schema_upgrade import HubSchemaUpgrade, SchemaBlocked
from edgepaas.sync.shutdown import StopRequest
from edgepaas.timing.link import Link
from edgepaas.timing.moment import current_moment

if TYPE_CHECKING:
    from edgepaas.decision.contract import DatabaseContract
    from edgepaas.files.paths import Paths
    from edgepaas.settings import Settings
    from edgepaas.sync.hub.connection import Hub

logger = logging.getLogger("edgepaas.sync")


@dataclass(frozen=True)
class SyncContext:
    """Passed from the command line to everything that drains."""

    settings: "Settings"
    contract: "DatabaseContract"
    paths: "Paths"
    stop: StopRequest
    #: The command line that runs this EdgePaaS, and the environment for it.
    program: Sequence[str]
    environ: Mapping[str, str]

    def hub_schema(self) -> HubSchemaUpgrade:
        """Return the upgrade of the hub's schema.

        Where PostgreSQL serves, the schema stage has just brought it to head.
        """
        command = [*self.program, "schema", "--hub"]
        at_head = not self.contract.sqlite_active
        return HubSchemaUpgrade(command, self.environ, self.stop, at_head=at_head)

    @cached_property
    def link(self) -> Link:
        """Return what is known of the link to the hub."""
        return recorded_link(self.paths, split_url(self.contract.hub_url))

    def local_node(self) -> LocalNode:
        """Return the identity of this box; raises OSError, LockHeld."""
        build = build_version()
        return LocalNode(
            node_id=node_identity(self.paths).node_id,
            name=self.settings.text("NODE_NAME"),
            version=build.partition("+")[0],
            build=build,
            # Without a boot id, two starts of this process may be taken for two boxes.
            boot_id=current_moment().boot_id or str(uuid.uuid4()),
        )

    def connect(self, schema: HubSchemaUpgrade) -> "Hub":
        """Return a connection to a hub whose schema is at head.

        Raises what :func:`edgepaas.sync.hub.connection.open_hub` and
        :meth:`HubSchemaUpgrade.run` raise; HubUnreachable rather than SchemaBlocked when
        the hub became unreachable meanwhile.
        """
        from edgepaas.sync.hub.connection import open_hub

        hub = open_hub(self.settings, self.contract.hub_url, link=self.link)
        try:
            if not schema.at_head:
                try:
                    schema.run()
                except SchemaBlocked:
                    hub.query("SELECT 1")
                    raise
                hub.forget_tables()
        except BaseException:
            hub.close()
            raise
        return hub

    def table_document(self) -> dict[str, Any]:
        """Return ``run/tables.json``; a document without tables where it cannot be read.

        Captured rows are delivered all the same, by the layouts that the file holds.
        """
        try:
            return read_document(self.paths.tables)
        except (OSError, ValueError) as error:
            logger.warning("shared tables are not mirrored: %s", error)
            return {"tables": {}, "revision": []}
