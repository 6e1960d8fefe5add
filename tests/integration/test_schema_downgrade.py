# SPDX-License-Identifier: Apache-2.0
"""``edgepaas schema --downgrade``: what is kept, checked and refused, on both sides."""

import argparse
import gzip
import json
import uuid
from collections.abc import Sequence
from pathlib import Path

import pytest
from sqlalchemy import Integer, String

from edgepaas.cli.stages import schema_downgrade
from edgepaas.errors import EXIT_DONE, EXIT_FAILED, UsageError
from edgepaas.files.locks import held
from edgepaas.files.paths import Paths
from edgepaas.schema.downgrade import rehearsal
from edgepaas.schema.errors import SchemaError
from edgepaas.sync.hub.connection import open_hub
from tests.support.chains import connected
from tests.support.hub_database import HubDatabase
from tests.support.in_process import edgepaas_here
from tests.support.one_box import chain_runs, execute
from tests.support.postgres_server import PostgresServer
from tests.support.revised_shop import Box, Columns, Shop, boxes, first_shop, reported, rows

BATCH = 'with op.batch_alter_table("goods") as batch: '
ADDED = ('op.add_column("goods", sa.Column("n", sa.Integer()))',)
NOT_ADDED = (BATCH + 'batch.drop_column("n")',)
GROWN: Columns = {"a": String(20), "c": String(20), "n": Integer()}

_DELETION = (
    "INSERT INTO reading_deletions (id, reading_id, device, metric, value, recorded_at, "
    "received_at, deleted_at, deleted_by, token_id, node, reason) VALUES ('{id}', '{id}', 'd', "
    "'m', 1.5, '{at}', '{at}', '{at}', 'who', 't', 'n', 'why')"
)


@pytest.fixture
def hub(postgres: PostgresServer, postgres_url: str) -> HubDatabase:
    """A PostgreSQL of its own."""
    return HubDatabase(postgres, postgres_url.rpartition("/")[2])


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    """A shop whose second revision adds a column, and takes it back."""
    made = first_shop(tmp_path / "shop")
    made.revision("0002", GROWN, *ADDED)
    made.taken_back["0002"] = NOT_ADDED
    return made


def deletion() -> str:
    """Return a statement that stores a row of the newest table, for either database."""
    return _DELETION.format(id=uuid.uuid4(), at="2026-01-31T12:00:00.000000Z")


def taken_back(box: Box, revision: str = "0002", to: str = "", **options: object) -> int:
    """Run the command on *box*, with the build at *revision*."""
    given: dict[str, object] = {"only": None, "dry_run": False, "yes": True, "json": False}
    arguments = argparse.Namespace(downgrade=to, **(given | options))
    application = box.shop.application(revision)
    return schema_downgrade.downgrade(arguments, box.contract, box.settings, box.paths, application)


def tables(paths: Paths) -> set[str]:
    """Return the names of the file's tables."""
    with connected(paths.sqlite) as connection:
        return {row[0] for row in connection.execute("SELECT name FROM sqlite_schema")}


def version(paths: Paths) -> str:
    """Return the telemetry's revision in the file."""
    with connected(paths.sqlite) as connection:
        statement = "SELECT version_num FROM alembic_version_telemetry"
        return str(connection.execute(statement).fetchone()[0])


def test_the_file_goes_back_and_as_it_was_is_kept(paths: Paths) -> None:
    """Nothing without confirmation; then by one revision, and up again with the next start."""
    assert chain_runs() == 0
    with connected(paths.sqlite) as connection:
        connection.execute(deletion())
    before = version(paths)
    looked = edgepaas_here("schema", "--downgrade", "0002", "--dry-run")
    assert looked.returncode == 0, looked.stderr
    assert "would lose: the table reading_deletions with 1 row" in looked.stdout
    unasked = edgepaas_here("schema", "--downgrade", "0002")
    assert unasked.returncode == 2
    assert "--yes" in unasked.stderr
    assert version(paths) == before
    done = edgepaas_here("schema", "--downgrade", "0002", "--yes", "--json")
    assert done.returncode == 0, done.stderr
    (told,) = json.loads(done.stdout)["databases"]
    assert (told["at"], told["done"]) == (["0002"], True)
    assert version(paths) == "0002"
    assert "reading_deletions" not in tables(paths)
    with connected(Path(told["kept"])) as connection:
        assert connection.execute("SELECT count(*) FROM reading_deletions").fetchone()[0] == 1
    again = edgepaas_here("schema", "--downgrade", "0002", "--yes")
    assert again.returncode == 0
    assert "nothing is to be taken back" in again.stdout
    assert chain_runs() == 0
    assert version(paths) == before


def test_postgresql_goes_back_with_the_file_and_its_rows_are_written_down(
    paths: Paths, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In ``primary``: both, and what PostgreSQL loses lies in a file of the box."""
    monkeypatch.setenv("DATABASE_URL", postgres_url)
    assert chain_runs() == 0
    execute(postgres_url, deletion(), deletion())
    looked = edgepaas_here("schema", "--downgrade", "0002", "--dry-run")
    assert "PostgreSQL: from" in looked.stdout, looked.stderr
    assert "the table reading_deletions with 2 rows" in looked.stdout
    done = edgepaas_here("schema", "--downgrade", "0002", "--yes")
    assert done.returncode == 0, done.stderr
    found = execute(postgres_url, "SELECT version_num FROM alembic_version_telemetry")
    assert [tuple(row) for row in found] == [("0002",)]
    assert execute(postgres_url, "SELECT to_regclass('reading_deletions') IS NULL")[0][0]
    (kept,) = paths.state.glob("postgres-before-downgrade-*.ndjson.gz")
    assert kept.stat().st_mode & 0o777 == 0o600
    lines = [json.loads(line) for line in gzip.decompress(kept.read_bytes()).splitlines()]
    assert [(one["table"], one["row"]["reason"]) for one in lines] == [
        ("reading_deletions", "why")
    ] * 2
    assert version(paths) == "0002"
    assert chain_runs() == 0
    assert execute(postgres_url, "SELECT count(*) FROM reading_deletions")[0][0] == 0
    assert edgepaas_here("schema", "--check").returncode == 0


@pytest.mark.parametrize("only", ["sqlite", "postgresql"])
def test_one_database_alone_goes_back(
    paths: Paths, postgres_url: str, monkeypatch: pytest.MonkeyPatch, only: str
) -> None:
    """The other one stays where it is."""
    monkeypatch.setenv("DATABASE_URL", postgres_url)
    assert chain_runs() == 0
    newest = version(paths)
    done = edgepaas_here("schema", "--downgrade", "0002", "--only", only, "--yes")
    assert done.returncode == 0, done.stderr
    found = execute(postgres_url, "SELECT version_num FROM alembic_version_telemetry")[0][0]
    expected = ("0002", newest) if only == "sqlite" else (newest, "0002")
    assert (version(paths), found) == expected


def test_rows_that_wait_keep_the_file_and_postgresql_where_they_are(
    paths: Paths, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In ``local-first``, with a row of the table that would go: their number, and the way out."""
    monkeypatch.setenv("DATABASE_URL", postgres_url)
    monkeypatch.setenv("USE_SQLITE", "true")
    assert chain_runs() == 0
    assert edgepaas_here("schema", "--hub").returncode == 0
    with connected(paths.sqlite) as connection:
        connection.execute(deletion())
    for options in (["--dry-run"], ["--yes"]):
        done = edgepaas_here("schema", "--downgrade", "0002", *options)
        assert done.returncode == 1
        assert "1 row waits with a value of the table reading_deletions" in done.stdout
        assert "edgepaas sync status" in done.stdout
    assert "reading_deletions" in tables(paths)
    sent = edgepaas_here("sync", "--once")
    assert sent.returncode == 0, sent.stdout + sent.stderr
    assert edgepaas_here("schema", "--downgrade", "0002", "--yes").returncode == 0
    assert "reading_deletions" not in tables(paths)


def test_nothing_is_done_while_the_box_runs(paths: Paths) -> None:
    """It says what to stop; looking is allowed."""
    assert chain_runs() == 0
    before = version(paths)
    with held(paths.database_lock, shared=True):
        assert edgepaas_here("schema", "--downgrade", "0002", "--dry-run").returncode == 0
        done = edgepaas_here("schema", "--downgrade", "0002", "--yes")
    assert done.returncode == 1
    assert "systemctl stop edgepaas.socket edgepaas edgepaas-sync" in done.stderr
    assert version(paths) == before


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--downgrade", "0009"], "there is no revision 0009"),
        (["--downgrade", "base"], "there is no revision base"),
        (["--downgrade", "-1"], "-1"),
        (["--downgrade", "0001", "--only", "postgresql"], "there is no PostgreSQL"),
        (["--yes"], "belong to --downgrade"),
        (["--dry-run", "--check"], "belong to --downgrade"),
    ],
)
def test_what_cannot_be_meant_is_a_wrong_use(paths: Paths, words: list[str], said: str) -> None:
    """Exit status 2, and what there is."""
    assert chain_runs() == 0
    done = edgepaas_here("schema", *words)
    assert done.returncode == 2, done.stdout
    assert said in done.stderr


def test_the_column_of_rows_that_wait_stays(shop: Shop, hub: HubDatabase, tmp_path: Path) -> None:
    """On both sides; rows without a value there hold nothing up."""
    (box,) = boxes(shop, tmp_path, hub, "box")
    box.upgrade("0002")
    box.upgrade_hub("0002")
    written: dict[str, Sequence[object]] = {box.add(a="a", n=7): ("a", 7)}
    written[box.add(a="b")] = ("b", None)
    assert taken_back(box) == EXIT_FAILED
    assert taken_back(box, only="sqlite") == EXIT_FAILED
    assert taken_back(box, only="postgresql") == EXIT_FAILED
    box.drain()
    assert rows(hub, "a, n") == written
    written[box.add(a="c")] = ("c", None)
    assert taken_back(box) == EXIT_DONE
    box.upgrade("0001")
    box.drain()
    assert rows(hub, "a") == {key: (a,) for key, (a, _) in written.items()}
    assert box.counts()["conflicts"] == 0


def test_another_box_that_still_writes_a_column_keeps_it(
    shop: Shop, hub: HubDatabase, tmp_path: Path
) -> None:
    """Its own file is another matter: it goes back."""
    first, other = boxes(shop, tmp_path, hub, "first", "other")
    for box in (first, other):
        box.upgrade("0002")
    first.upgrade_hub("0002")
    with open_hub(first.settings, hub.url) as link:
        reported(other, link, hub)
        assert taken_back(first) == EXIT_FAILED
        assert taken_back(first, only="sqlite") == EXIT_DONE
        assert taken_back(other, only="sqlite") == EXIT_DONE
        other.upgrade("0001")
        reported(other, link, hub)
        assert taken_back(first, only="postgresql") == EXIT_DONE
    assert taken_back(first, to="0001") == EXIT_DONE  # nothing is left to be done


def test_values_that_wait_under_a_name_that_goes_back_hold_it_up(
    shop: Shop, hub: HubDatabase, tmp_path: Path
) -> None:
    """The record that would lead them goes back too; at home they follow the rename."""
    shop.revision(
        "0003",
        {"b": String(20), "c": String(20), "n": Integer()},
        BATCH + 'batch.alter_column("a", new_column_name="b")',
    )
    shop.taken_back["0003"] = (BATCH + 'batch.alter_column("b", new_column_name="a")',)
    (box,) = boxes(shop, tmp_path, hub, "box")
    box.upgrade("0003")
    box.upgrade_hub("0003")
    key = box.add(b="x", n=1)
    assert taken_back(box, "0003") == EXIT_FAILED
    box.drain()
    assert taken_back(box, "0003") == EXIT_DONE
    box.upgrade("0002")
    other = box.add(a="y")
    box.drain()
    assert rows(hub, "a") == {key: ("x",), other: ("y",)}
    box.upgrade("0003")
    box.upgrade_hub("0003")
    third = box.add(b="z")
    box.drain()
    assert rows(hub, "b") == {key: ("x",), other: ("y",), third: ("z",)}


#: What a downgrade may say, and what is said of it.
WRONG = {
    "empty": ((), "goods.n is too many"),
    "not written": (("raise NotImplementedError()",), "says nothing of how it is taken back"),
    "too much": (
        (*NOT_ADDED, BATCH + 'batch.drop_column("c")'),
        "goods.c is missing",
    ),
    "fails": (("op.execute('DROP TABLE nowhere')",), "nowhere"),
}


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("only", ["sqlite", "postgresql"])
def test_scripts_that_do_not_lead_back_change_nothing(
    shop: Shop, hub: HubDatabase, tmp_path: Path, wrong: str, only: str
) -> None:
    """Looked at before anything is done, in the dry run too."""
    lines, said = WRONG[wrong]
    shop.taken_back["0002"] = lines
    (box,) = boxes(shop, tmp_path, hub, "box")
    box.upgrade("0002")
    box.upgrade_hub("0002")
    key = box.add(a="a", c="c", n=1)
    box.drain()
    for dry in (True, False):
        with pytest.raises(SchemaError, match=said):
            taken_back(box, only=only, dry_run=dry)
    assert rows(hub, "a, c, n") == {key: ("a", "c", 1)}
    with box.file() as connection:
        assert connection.execute("SELECT a, c, n FROM goods").fetchall() == [("a", "c", 1)]
        assert len(list(box.paths.sqlite.parent.glob("*.new*"))) == 0


def test_rows_that_a_downgrade_deletes_are_said(
    shop: Shop, hub: HubDatabase, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where no table and no column goes."""
    shop.taken_back["0002"] = ("op.execute('DELETE FROM goods WHERE n > 1')", *NOT_ADDED)
    (box,) = boxes(shop, tmp_path, hub, "box")
    box.upgrade("0002")
    box.upgrade_hub("0002")
    for number in range(3):
        box.add(n=number)
    box.drain()
    assert taken_back(box, dry_run=True) == EXIT_DONE
    said = capsys.readouterr().out
    assert said.count("3 values of goods.n; 1 row of goods") == 2


def test_a_first_revision_and_a_branch_are_no_target(
    shop: Shop, hub: HubDatabase, tmp_path: Path
) -> None:
    """Nothing comes before the first one."""
    (box,) = boxes(shop, tmp_path, hub, "box")
    with pytest.raises(UsageError, match="is the first revision"):
        taken_back(box, "0001")


def test_a_postgresql_that_is_away_leaves_the_file_as_it_was(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All or nothing: with ``--only sqlite`` it may still be done."""
    monkeypatch.setenv("DATABASE_URL", "postgresql://u:p@127.0.0.1:1/hub")
    assert chain_runs() == 0
    before = version(paths)
    assert edgepaas_here("schema", "--downgrade", "0002", "--yes").returncode == 1
    assert version(paths) == before
    done = edgepaas_here("schema", "--downgrade", "0002", "--only", "sqlite", "--yes")
    assert done.returncode == 0, done.stderr


def test_a_weakened_build_is_found_out(
    shop: Shop, hub: HubDatabase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the comparison an empty downgrade would pass for one that was done."""
    shop.taken_back["0002"] = ()
    (box,) = boxes(shop, tmp_path, hub, "box")
    box.upgrade("0002")
    monkeypatch.setattr(rehearsal, "_require_shape", lambda *_: None)
    assert taken_back(box, only="sqlite") == EXIT_DONE
    with box.file() as connection:
        names = [row[1] for row in connection.execute("PRAGMA table_info(goods)")]
    assert "n" in names
