# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the tests of forwarding: a hub with every table, a link to it, a box."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from edgepaas.sync.hub.connection import Hub
from tests.support.forwarding import Hubs, TestBox, TestHub
from tests.support.postgres_server import PostgresServer


@pytest.fixture(scope="session")
def hubs(postgres: PostgresServer) -> Hubs:
    """Where the hubs of this session come from."""
    return Hubs(postgres)


@pytest.fixture
def hub(hubs: Hubs) -> Iterator[TestHub]:
    """A hub that knows no box yet."""
    found = hubs.take()
    yield found
    hubs.give_back(found)


@pytest.fixture
def link(hub: TestHub) -> Iterator[Hub]:
    """A connection to the hub."""
    with hub.link() as connection:
        yield connection


@pytest.fixture
def box(tmp_path: Path) -> Iterator[TestBox]:
    """A box that has sent nothing yet."""
    found = TestBox(tmp_path / "box.db")
    yield found
    found.close()


@pytest.fixture
def other(tmp_path: Path) -> Iterator[TestBox]:
    """A second box."""
    found = TestBox(tmp_path / "other.db")
    yield found
    found.close()
