# SPDX-License-Identifier: Apache-2.0
"""run/db.env: what is written is read back, by us and by a shell; anything else is refused."""

import dataclasses
import stat
import subprocess
from pathlib import Path

import pytest

from edgepaas.decision.contract import DatabaseContract
from edgepaas.errors import EXIT_CONFIGURATION
from edgepaas.files.contract import ContractMissing, write_contract

CONTRACT = DatabaseContract(
    database_url='sqlite:////var/lib/edge paas/$x`y"z\\.db',
    run_migrations=False,
    final_db_mode="sqlite_only",
    db_state="fallback",
    db_fallback=True,
    hub_url="postgresql://u:p%40ss@hub:5432/d",
    sqlite_path=Path('/var/lib/edge paas/$x`y"z\\.db'),
    reason="hub:5432 refuses the connection: it's away; “really”",
    generation="0123456789abcdef",
    decided_at="2026-01-01T00:00:00Z",
)


def test_the_contract_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    """Odd characters included; nobody else may read it."""
    path = tmp_path / "run" / "db.env"
    CONTRACT.write(path)
    assert DatabaseContract.read(path) == CONTRACT
    assert CONTRACT.sqlite_active
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_shell_reads_the_same_values(tmp_path: Path) -> None:
    """As systemd's EnvironmentFile= does (systemd.exec(5))."""
    path = tmp_path / "db.env"
    CONTRACT.write(path)
    script = f'. "{path}"; printf "%s\\n" "$DATABASE_URL" "$DB_REASON" "$DB_FALLBACK"'
    result = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines() == [CONTRACT.database_url, CONTRACT.reason, "true"]


def test_an_absent_contract_names_the_stage(tmp_path: Path) -> None:
    """The way out stands in the message."""
    with pytest.raises(ContractMissing, match="edgepaas dbdecide") as caught:
        DatabaseContract.read(tmp_path / "db.env")
    assert caught.value.exit_code == EXIT_CONFIGURATION


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DB_STATE", "happy"), ("FINAL_DB_MODE", ""), ("DB_FALLBACK", "yes"),
        ("RUN_MIGRATIONS", ""), ("DATABASE_URL", ""), ("SQLITE_PATH", ""), ("DB_GENERATION", ""),
        ("DB_REASON", None), ("HUB_URL", None),
    ],
)  # fmt: skip
def test_a_contract_that_no_decision_writes_is_refused(
    tmp_path: Path, name: str, value: str | None
) -> None:
    """The message names the entry."""
    values = CONTRACT.values()
    del values[name]
    if value is not None:
        values[name] = value
    write_contract(tmp_path / "db.env", values)
    with pytest.raises(ContractMissing, match=name):
        DatabaseContract.read(tmp_path / "db.env")


def test_postgresql_is_not_sqlite() -> None:
    """And only try_postgres has a fallback armed."""
    contract = dataclasses.replace(CONTRACT, database_url=CONTRACT.hub_url)
    assert not contract.sqlite_active
    assert not contract.fallback_armed
    assert dataclasses.replace(contract, final_db_mode="try_postgres").fallback_armed
