# SPDX-License-Identifier: Apache-2.0
"""``edgepaas dbdecide`` as the unit runs it: contract, one line, exit status, time."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edgepaas.decision.contract import DatabaseContract
from edgepaas.decision.hold import read_hold, write_hold
from edgepaas.decision.losses import loss_reason, mark_loss
from edgepaas.errors import EXIT_CONFIGURATION, EXIT_FAILED
from edgepaas.files.contract import ContractMissing
from edgepaas.files.paths import Paths
from edgepaas.settings import Settings, split_url
from tests.support import hostile_postgres as hostile
from tests.support.hostile_postgres import HostileServer

#: DECISION_DEADLINE is 10 s by default; process start and a loaded machine come on top.
LIMIT = 10.0 + 8.0
#: The same with less waiting, where the defaults have been seen to hold elsewhere.
SHORTER = {"DECISION_DEADLINE": "3", "DB_CONNECT_TIMEOUT": "1"}


def dbdecide(*options: str) -> subprocess.CompletedProcess[str]:
    """Run the stage to its end; it must print no traceback and no password."""
    result = subprocess.run(
        [sys.executable, "-m", "edgepaas", "dbdecide", *options],
        capture_output=True, text=True, timeout=60, check=False,
        env={**os.environ, "PYTHONPATH": str(Path.cwd())},
    )  # fmt: skip
    assert "Traceback" not in result.stderr
    assert "tr0ub4dor" not in result.stdout + result.stderr
    return result


def given(paths: Paths, **settings: str) -> None:
    """Leave what the environment stage would have left."""
    Settings.of(**settings).write(paths.env_contract)


def test_a_real_postgresql_is_chosen(paths: Paths, postgres_url: str) -> None:
    """One line says which, in which state, and why."""
    given(paths, DATABASE_URL=postgres_url)
    result = dbdecide()
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("decision")
    assert "PostgreSQL, primary, fallback armed" in result.stdout
    contract = DatabaseContract.read(paths.db_contract)
    assert contract.db_state == "primary"
    assert contract.database_url == contract.hub_url == split_url(postgres_url).url()
    assert contract.run_migrations and contract.fallback_armed and not contract.db_fallback


def test_without_an_address_sqlite_serves_and_no_driver_is_loaded(paths: Paths) -> None:
    """A lean process: neither pg8000 nor SQLAlchemy nor Alembic."""
    given(paths)
    result = dbdecide()
    assert result.returncode == 0, result.stderr
    contract = DatabaseContract.read(paths.db_contract)
    assert contract.db_state == "standalone"
    assert contract.sqlite_active and contract.sqlite_path == paths.sqlite
    assert not paths.sqlite.exists()
    code = (
        "import sys; from edgepaas.cli import main; main(['dbdecide']); "
        "print([m for m in ('pg8000', 'sqlalchemy', 'alembic', 'ssl') if m in sys.modules])"
    )
    lean = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert lean.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("behaviour", "word"),
    [
        (hostile.silent, "did not finish"),
        (hostile.dripping, "did not finish"),
        (hostile.http, "not PostgreSQL"),
        (hostile.version("9.6.24"), "9.6.24"),
        (hostile.error("28P01", "password authentication failed"), "does not admit"),
    ],
    ids=["silent", "dripping", "http", "too old", "password"],
)
def test_with_a_hostile_server_the_box_starts_on_sqlite_and_says_why(
    paths: Paths, behaviour: hostile.Behaviour, word: str
) -> None:
    """Within the deadline (the default one where it is silent), with an alert."""
    shorter = {} if behaviour is hostile.silent else SHORTER
    with HostileServer(behaviour) as server:
        given(paths, DATABASE_URL=server.url(), **shorter)
        begin = time.monotonic()
        result = dbdecide()
    assert time.monotonic() - begin < LIMIT
    assert result.returncode == 0, result.stderr
    assert "ALERT" in result.stderr
    contract = DatabaseContract.read(paths.db_contract)
    assert (contract.db_state, contract.db_fallback) == ("fallback", True)
    assert contract.hub_url == split_url(server.url()).url()
    assert word in contract.reason
    assert word in result.stdout


def test_silent_in_tls_ends_within_the_deadline_too(paths: Paths) -> None:
    """The attempt is bounded by DB_CONNECT_TIMEOUT, all of them by DECISION_DEADLINE."""
    with HostileServer(hostile.silent_in_tls) as server:
        given(paths, DATABASE_URL=server.url(), DB_SSLMODE="verify-full", **SHORTER)
        begin = time.monotonic()
        assert dbdecide().returncode == 0
    assert time.monotonic() - begin < LIMIT
    assert "TLS handshake" in DatabaseContract.read(paths.db_contract).reason
    assert server.connections > 1


def test_a_black_hole_ends_within_the_deadline_too(paths: Paths) -> None:
    """No packet comes back."""
    with hostile.black_hole() as url:
        given(paths, DATABASE_URL=url, **SHORTER)
        begin = time.monotonic()
        assert dbdecide().returncode == 0
    assert time.monotonic() - begin < LIMIT
    assert "cannot be reached" in DatabaseContract.read(paths.db_contract).reason


def test_postgresql_alone_fails_and_leaves_no_contract(paths: Paths) -> None:
    """BOTH_DB=false never falls back; the earlier contract is withdrawn as well."""
    given(paths)
    assert dbdecide().returncode == 0
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"postgresql://u:tr0ub4dor@127.0.0.1:{closed.getsockname()[1]}/d"
        given(paths, DATABASE_URL=url, BOTH_DB="false", DECISION_DEADLINE="1")
        result = dbdecide()
    assert result.returncode == EXIT_FAILED
    assert "BOTH_DB=false" in result.stderr and "refuses" in result.stderr
    with pytest.raises(ContractMissing):
        DatabaseContract.read(paths.db_contract)


def test_after_a_loss_the_mark_is_honoured_and_removed(paths: Paths) -> None:
    """One attempt of at most a second; PostgreSQL is then held."""
    mark_loss(paths, "the server closed the connection")
    with HostileServer(hostile.silent) as server:
        given(paths, DATABASE_URL=server.url())
        result = dbdecide()
        assert result.returncode == 0
        assert server.connections == 1
    assert "within 1 s" in result.stdout
    assert loss_reason(paths) is None
    assert read_hold(paths.postgres_hold) is not None


def test_the_option_says_the_same_as_the_mark(paths: Paths, postgres_url: str) -> None:
    """A server that is back at once is chosen again."""
    given(paths, DATABASE_URL=postgres_url)
    assert dbdecide("--after-loss").returncode == 0
    assert DatabaseContract.read(paths.db_contract).db_state == "primary"


def test_a_hold_is_honoured(paths: Paths, postgres_url: str) -> None:
    """Nobody is asked while it lasts."""
    given(paths, DATABASE_URL=postgres_url)
    write_hold(paths.postgres_hold, "its schema is of a later revision", 600)
    assert "later revision" in dbdecide().stdout
    assert DatabaseContract.read(paths.db_contract).db_state == "fallback"


def test_a_dry_run_changes_nothing(paths: Paths, postgres_url: str) -> None:
    """Neither contract, nor mark, nor hold."""
    given(paths, DATABASE_URL=postgres_url)
    mark_loss(paths, "x")
    before = sorted(p for p in paths.runtime.parent.rglob("*") if p.is_file())
    result = dbdecide("--dry-run")
    assert result.returncode == 0, result.stderr
    assert "primary" in result.stdout
    assert sorted(p for p in paths.runtime.parent.rglob("*") if p.is_file()) == before


def test_json_is_the_contract_without_the_password(paths: Paths, postgres_url: str) -> None:
    """For programs."""
    given(paths, DATABASE_URL=postgres_url)
    values = json.loads(dbdecide("--json").stdout)
    assert values["DB_STATE"] == "primary"
    assert values["DATABASE_URL"] == values["HUB_URL"] == split_url(postgres_url).masked()
    assert split_url(postgres_url).password not in json.dumps(values)
    assert values["DB_GENERATION"] == DatabaseContract.read(paths.db_contract).generation


def test_without_the_environment_stage_it_says_what_to_run(paths: Paths) -> None:
    """Exit status 78 and no contract."""
    result = dbdecide()
    assert result.returncode == EXIT_CONFIGURATION
    assert "edgepaas env" in result.stderr
    assert not Path(paths.db_contract).exists()
