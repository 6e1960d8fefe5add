# SPDX-License-Identifier: Apache-2.0
"""A box in fallback and the hub beside it, for commands that look at both."""

import contextlib
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Self

import pytest

from edgepaas.cli import main
from edgepaas.database.sqlite.connection import open_sqlite
from edgepaas.files.node_identity import node_identity
from edgepaas.files.paths import Paths
from edgepaas.outbox import capture
from edgepaas.schema.table_contract import describe
from edgepaas.settings import Settings
from edgepaas.sync.delivery.drain import drain_batch
from edgepaas.sync.hub.connection import Hub, open_hub
from edgepaas.telemetry.models import Model
from tests.support.boxes import contract
from tests.support.databases import create_sqlite_file
from tests.support.telemetry_box import open_box


@dataclass
class BothSides:
    """Telemetry's tables on both sides; rows are sent when a test says so."""

    paths: Paths
    connection: sqlite3.Connection
    hub: Hub
    capsys: pytest.CaptureFixture[str]
    said: str = field(default="", init=False)

    @classmethod
    @contextlib.contextmanager
    def opened(
        cls, paths: Paths, postgres_url: str, capsys: pytest.CaptureFixture[str]
    ) -> Iterator[Self]:
        """Make both, with nothing in them."""
        with open_box(paths, postgres_url):
            pass  # the hub's schema, both chains
        create_sqlite_file(paths.sqlite)
        Settings.of().write(paths.env_contract)
        decided = contract(paths, hub_url=postgres_url, db_state="fallback", db_fallback=True)
        decided.write(paths.db_contract)
        document = {"revision": ["1"], "tables": describe(Model.metadata)}
        with (
            contextlib.closing(open_sqlite(paths.sqlite)) as connection,
            open_hub(Settings.of(), postgres_url) as hub,
        ):
            capture.install(connection, document, node_id=node_identity(paths).node_id)
            yield cls(paths, connection, hub, capsys)

    def drain(self) -> None:
        """Send everything."""
        while drain_batch(self.connection, self.hub, rows=100, log=lambda *_: None).remaining:
            continue

    def command(self, *arguments: str) -> int:
        """Run ``edgepaas ARGUMENTS``; what it prints, errors last, is in ``said``."""
        self.capsys.readouterr()
        status = main(arguments)
        captured = self.capsys.readouterr()
        self.said = captured.out + captured.err
        return status
