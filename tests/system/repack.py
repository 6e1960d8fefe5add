# SPDX-License-Identifier: Apache-2.0
"""Later builds of the package under test: the same one with something changed in it."""

import re
from pathlib import Path

from tests.system.network import run

LIBRARY = "usr/share/edgepaas/lib/edgepaas"

MIGRATION = '''\
"""A later release's change, made for a test."""

import sqlalchemy as sa
from alembic import op

revision = "9999"
down_revision = "{head}"
branch_labels = None
depends_on = None


def upgrade() -> None:
    {body}


def downgrade() -> None:
    pass  # no test goes back
'''
GOOD = 'op.add_column("devices", sa.Column("later", sa.Text(), nullable=True))'
BROKEN = 'raise RuntimeError("this migration is broken")'


def later_build(package: Path, folder: Path, *, version: str, migration: str = "") -> Path:
    """Return *package* repacked as *version*, with one more migration when one is given."""
    tree = folder / f"tree-{version}"
    run("dpkg-deb", "--raw-extract", str(package), str(tree))
    control = tree / "DEBIAN/control"
    control.write_text(re.sub(r"(?m)^Version: .*$", f"Version: {version}", control.read_text()))
    (tree / LIBRARY / "_build.py").write_text(f'BUILD_VERSION = "{version}"\n')
    if migration:
        versions = tree / LIBRARY / "_alembic/versions"
        target = versions / "9999_later.py"
        target.write_text(MIGRATION.format(head=_head(versions), body=migration))
    built = folder / f"edgepaas_{version}_all.deb"
    run("dpkg-deb", "--root-owner-group", "-Znone", "--build", str(tree), str(built))
    return built


def _head(versions: Path) -> str:
    """Return the revision that no other one is built on."""
    revisions, built_on = set(), set()
    for script in versions.glob("*.py"):
        text = script.read_text()
        revisions |= set(re.findall(r'(?m)^revision\b[^=]*=\s*"([^"]+)"', text))
        built_on |= set(re.findall(r'(?m)^down_revision\b[^=]*=\s*"([^"]+)"', text))
    head: str
    (head,) = revisions - built_on
    return head
