# SPDX-License-Identifier: Apache-2.0
"""Backups of a test's hub, and their return: a hub that goes back in time."""

from tests.support.forwarding import TestHub


class Backups:
    """Backups of the hub's database, put back in its place."""

    def __init__(self, hub: TestHub) -> None:
        self._hub = hub

    def take(self) -> None:
        """Keep the hub as it is now."""
        server = self._hub.server
        server.drop_database(f"{self._hub.name}_b")
        self._free()
        server.execute(f'CREATE DATABASE "{self._hub.name}_b" TEMPLATE "{self._hub.name}"')

    def restore(self) -> None:
        """Put the hub back to what was kept."""
        server, name = self._hub.server, self._hub.name
        server.drop_database(name)
        server.execute(f'CREATE DATABASE "{name}" TEMPLATE "{name}_b"')

    def _free(self) -> None:
        self._hub.server.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            f"WHERE datname = '{self._hub.name}'"
        )
