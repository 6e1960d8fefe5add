# SPDX-License-Identifier: Apache-2.0
"""Fixtures shared by all tests: a worker's own PostgreSQL, a test's empty database, a clean box."""

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from edgepaas.files.paths import Paths, find_paths
from edgepaas.pgdriver.sessions import forget_identity
from tests.support import machine_readings, search
from tests.support.postgres_server import PostgresServer, temporary_home

if TYPE_CHECKING:
    from tests.support.hub_database import HubDatabase


search.set_up()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Deal the tests out in our own way where 'make test' says ``--dist loadscope``."""
    if config.getoption("dist") != "loadscope":
        return None
    from tests.support.dealing import OneByOne

    return OneByOne(config, log)


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A running PostgreSQL of this test session, on loopback."""
    server = PostgresServer(temporary_home())
    try:
        server.create_cluster()
        server.start()
        yield server
    finally:
        server.remove()


@pytest.fixture
def postgres_url(postgres: PostgresServer) -> Iterator[str]:
    """The address of a database that is empty at the start of the test and gone after it."""
    name = postgres.create_database()
    yield postgres.url(name)
    postgres.drop_database(name)


@pytest.fixture(scope="session")
def _hub_template(postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> str:
    from tests.support.hub_database import make_template

    return make_template(postgres, tmp_path_factory.mktemp("hub"))


@pytest.fixture
def hub_database(postgres: PostgresServer, _hub_template: str) -> Iterator["HubDatabase"]:
    """A database at the telemetry application's head, with the platform's tables, and empty."""
    from tests.support.hub_database import HubDatabase

    with HubDatabase.copy_of(postgres, _hub_template) as database:
        yield database


@pytest.fixture(scope="session")
def machine_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CSV file of ``machine_readings.SOME`` readings; 12 share their time with another one."""
    folder = tmp_path_factory.mktemp("readings")
    return machine_readings.write(folder / "machine.csv", machine_readings.SOME)


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No test sees the settings of whoever runs it, nor writes outside its own folder."""
    keep = {"PATH", "LANG", "LC_ALL", "TMPDIR", "TERM", "USER", "LOGNAME", "PG_BINDIR", "CI"}
    for name in list(os.environ):
        if name not in keep and not name.startswith(("PYTEST_", "PYTHON", "COVERAGE")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("EDGEPAAS_HOME", str(tmp_path / "box"))


@pytest.fixture(autouse=True)
def _no_identity() -> Iterator[None]:
    """A command that a test runs gives this process a name at PostgreSQL: for that test alone."""
    yield
    forget_identity()


@pytest.fixture(autouse=True)
def _restored_logging() -> Iterator[None]:
    """A command that a test runs sets up logging to streams which are gone after the test."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture
def paths(_clean_environment: None) -> Paths:
    """The folders of an empty box of this test's own."""
    found = find_paths()
    found.create()
    return found
