# SPDX-License-Identifier: Apache-2.0
"""Applications with migrations of their own, for tests of the schema stage."""

import contextlib
import shutil
import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from sqlalchemy import Column, ForeignKey, Index, Integer, MetaData, String, Table

from edgepaas.app import Application
from edgepaas.database.model import new_metadata
from edgepaas.database.sqlite.connection import open_sqlite
from edgepaas.decision.contract import DatabaseContract
from edgepaas.files.paths import Paths
from edgepaas.schema.report import SchemaReport
from edgepaas.schema.stage import prepare_database
from edgepaas.settings import Settings

REPOSITORY = Path(__file__).parents[2]

#: Revisions of the shop: what each upgrade does.
SHOP = {
    "0001": (
        None,
        """
    op.create_table(
        "items",
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("name", sa.String(100), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_items"),
    )
    op.create_table(
        "sales",
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("item", sa.String(36), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_sales"),
        sa.ForeignKeyConstraint(
            ["item"], ["items.id"], name="fk_sales_item", ondelete="CASCADE"
        ),
    )
""",
    ),
    "0002": (
        "0001",
        """
    with op.batch_alter_table("items", recreate="auto") as batch:
        batch.add_column(sa.Column("price", sa.Integer(), nullable=True))
        batch.alter_column("name", type_=sa.String(200), existing_nullable=False)
    op.create_index("ix_items_price", "items", ["price"])
""",
    ),
}


def write_revision(
    folder: Path, revision: str, before: str | None, upgrade: str, downgrade: str = ""
) -> Path:
    """Write one migration script; *upgrade*, *downgrade*: the indented bodies of its functions."""
    script = folder / "versions" / f"{revision}_test.py"
    script.write_text(
        f'"""Test."""\n\nimport sqlalchemy as sa\nfrom alembic import op\n\n'
        f"revision = {revision!r}\ndown_revision = {before!r}\n"
        f"branch_labels = None\ndepends_on = None\n\n\n"
        f"def upgrade():\n{upgrade or '    pass'}\n\n\n"
        f"def downgrade():\n{downgrade or '    pass'}\n",
        encoding="utf-8",
    )
    return script


def migrations_folder(folder: Path, revisions: Iterable[str]) -> Path:
    """Make a folder as Alembic wants it, with these *revisions* of the shop."""
    (folder / "versions").mkdir(parents=True)
    for name in ("env.py", "script.py.mako"):
        shutil.copy(REPOSITORY / "alembic" / name, folder / name)
    for revision in revisions:
        write_revision(folder, revision, *SHOP[revision])
    return folder


def shop_models(revision: str) -> MetaData:
    """Return the shop's models as they are at *revision*."""
    metadata = new_metadata()
    newer = revision >= "0002"
    items = Table(
        "items",
        metadata,
        Column("id", String(36), primary_key=True),
        Column("name", String(200 if newer else 100), nullable=False),
        info={"kind": "shared"},
    )
    if newer:
        items.append_column(Column("price", Integer))
        Index(None, items.c.price)
    Table(
        "sales",
        metadata,
        Column("id", String(36), primary_key=True),
        Column(
            "item",
            String(36),
            ForeignKey("items.id", name="fk_sales_item", ondelete="CASCADE"),
            nullable=False,
        ),
        info={"kind": "shared"},
    )
    return metadata


def shop(folder: Path, revision: str) -> Application:
    """Return the shop's build at *revision*, with its scripts in a folder below *folder*."""
    revisions = [name for name in SHOP if name <= revision]
    scripts = folder / f"shop-{revision}"
    if not scripts.exists():
        migrations_folder(scripts, revisions)
    return Application(
        name="shop",
        version=revision,
        models=lambda: shop_models(revision),
        migrations=scripts,
        blueprints=lambda _box: [],
    )


def sqlite_contract(paths: Paths) -> DatabaseContract:
    """Return the decision of a box in ``standalone``."""
    return DatabaseContract(
        database_url=f"sqlite:///{paths.sqlite}",
        run_migrations=False,
        final_db_mode="sqlite_only",
        db_state="standalone",
        db_fallback=False,
        hub_url="",
        sqlite_path=paths.sqlite,
        reason="a test",
        generation="1",
        decided_at="2026-01-01T00:00:00Z",
    )


def hub_contract(paths: Paths) -> DatabaseContract:
    """Return the decision of a box whose SQLite serves and whose hub, which is away, receives."""
    return replace(
        sqlite_contract(paths), db_state="local-first", hub_url="postgresql://u:p@127.0.0.1:1/hub"
    )


def postgres_contract(paths: Paths, url: str, *, fallback: bool) -> DatabaseContract:
    """Return the decision for the PostgreSQL at *url*."""
    return DatabaseContract(
        database_url=url,
        run_migrations=True,
        final_db_mode="try_postgres" if fallback else "postgres_only",
        db_state="primary",
        db_fallback=False,
        hub_url=url,
        sqlite_path=paths.sqlite,
        reason="a test",
        generation="1",
        decided_at="2026-01-01T00:00:00Z",
    )


def upgrade_body(*lines: str) -> str:
    """Return the body of an upgrade made of *lines*."""
    return "\n".join(f"    {line}" for line in lines)


def bring(paths: Paths, application: Application) -> SchemaReport:
    """Run the stage on the box's SQLite file."""
    settings = Settings.of(EDGEPAAS_APP="shop")
    return prepare_database(sqlite_contract(paths), settings, paths, application)


@contextlib.contextmanager
def connected(path: Path) -> Iterator[sqlite3.Connection]:
    """Open the file as the box does."""
    with contextlib.closing(open_sqlite(path)) as connection:
        yield connection


def sell(paths: Paths, count: int = 3) -> None:
    """Put *count* items and a sale of each into the shop."""
    with connected(paths.sqlite) as connection:
        for number in range(count):
            connection.execute("INSERT INTO items(id, name) VALUES (?, ?)", (f"i{number}", "tea"))
            connection.execute("INSERT INTO sales VALUES (?, ?)", (f"s{number}", f"i{number}"))


def rows_in(path: Path, table: str) -> list[tuple[object, ...]]:
    """Return the rows of *table*, sorted."""
    with connected(path) as connection:
        return sorted(connection.execute(f"SELECT * FROM {table}").fetchall())


def version_of(path: Path) -> str:
    """Return the file's one revision."""
    with connected(path) as connection:
        ((version,),) = connection.execute(
            "SELECT version_num FROM alembic_version_shop"
        ).fetchall()
    return str(version)
