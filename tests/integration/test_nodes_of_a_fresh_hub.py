# SPDX-License-Identifier: Apache-2.0
"""``edgepaas nodes`` at a PostgreSQL in which no box has made its tables yet."""

import json

import pytest

from edgepaas.cli import main


@pytest.mark.usefixtures("paths")
def test_a_hub_without_tables_knows_no_box(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is no error of PostgreSQL's that an operator has to make out."""
    monkeypatch.setenv("DATABASE_URL", postgres_url)
    assert [main([stage]) for stage in ("env", "dbdecide")] == [0, 0]
    capsys.readouterr()
    assert main(["nodes", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []
    assert main(["nodes"]) == 0
    assert "PostgreSQL knows no box" in capsys.readouterr().out
    assert main(["nodes", "forget", "press", "--yes"]) == 1
    said = capsys.readouterr().err
    assert "knows no box 'press'" in said and "42P01" not in said, said
