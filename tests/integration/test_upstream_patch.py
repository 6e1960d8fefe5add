# SPDX-License-Identifier: Apache-2.0
"""The patch that is offered to pg8000: it applies, and does what its words say."""

import json
import re
import shutil
import subprocess
import sys
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.support.postgres_server import PostgresServer
from tests.support.relay import Relay

PATCH = Path(__file__).resolve().parents[2] / "docs/decisions/upstream/pg8000-one-sync.patch"

#: Runs with the patched driver before all others; prints what it saw.
SCRIPT = """
import io, json, sys, pg8000
url = json.loads(sys.argv[1])
connection = pg8000.connect(**url)
assert "patched" in pg8000.__file__, pg8000.__file__
cursor = connection.cursor()
connection.autocommit = True
cursor.execute("CREATE TABLE IF NOT EXISTS t (n integer, name text)")
print(json.dumps("ready"), flush=True)
for line in sys.stdin:
    what = json.loads(line)
    try:
        stream = io.BytesIO(what["copy"].encode()) if "copy" in what else None
        cursor.execute(what["sql"], what["args"], stream)
        found = cursor.fetchall() if cursor.description else cursor.rowcount
    except pg8000.DatabaseError as error:
        found = error.args[0]["C"]
    print(json.dumps(found), flush=True)
"""


@pytest.fixture
def patched(tmp_path: Path) -> Path:
    """A folder with the installed pg8000, patched; skipped for a version it is not made for."""
    made_for = re.search(r"Made against (\d+\.\d+\.\d+)", PATCH.read_text(encoding="utf-8"))
    assert made_for
    if version("pg8000") != made_for[1]:
        pytest.skip(f"the patch is made against {made_for[1]}")
    program = shutil.which("patch")
    if program is None:
        pytest.skip("there is no patch(1) here")
    spec = find_spec("pg8000")
    assert spec is not None
    assert spec.origin is not None
    folder = tmp_path / "patched"
    shutil.copytree(Path(spec.origin).parent, folder / "src" / "pg8000")
    done = subprocess.run(
        [program, "-p1", "--fuzz=0", "-d", str(folder), "-i", str(PATCH)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "src"


def test_a_statement_with_parameters_costs_one_round_trip(
    patched: Path, postgres: PostgresServer
) -> None:
    name = postgres.create_database()
    with Relay(postgres.port) as relay:
        address = {
            "user": "edgepaas", "password": postgres.password, "database": name,
            "host": "127.0.0.1", "port": relay.port, "ssl_context": False,
        }  # fmt: skip
        process = subprocess.Popen(
            [sys.executable, "-c", SCRIPT, json.dumps(address)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={"PYTHONPATH": str(patched)},
        )  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            assert json.loads(process.stdout.readline()) == "ready"

            def ask(sql: str, *args: object, **more: str) -> tuple[object, int]:
                assert process.stdin is not None
                assert process.stdout is not None
                before = relay.round_trips
                process.stdin.write(json.dumps({"sql": sql, "args": args, **more}) + "\n")
                process.stdin.flush()
                return json.loads(process.stdout.readline()), relay.round_trips - before

            assert ask("INSERT INTO t VALUES (%s, %s)", 1, "ä") == (1, 1)
            assert ask("SELECT n, name FROM t WHERE n = %s", 1) == ([[1, "ä"]], 1)
            assert ask("SELECT 1 / %s::int", 0) == ("22012", 1)
            assert ask("SELECT no_such(%s)", 0) == ("42883", 1)
            assert ask("SELECT n FROM t WHERE name = %s", "x" * 100_000)[0] == []
            assert ask("COPY t FROM STDIN", copy="2\tb\n3\tc\n")[0] == 2
            assert ask("SELECT count(*) FROM t WHERE n > %s", 0) == ([[3]], 1)
        finally:
            process.stdin.close()
            process.wait(60)
    postgres.drop_database(name)
