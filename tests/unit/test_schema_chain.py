# SPDX-License-Identifier: Apache-2.0
"""Reading the migrations' scripts without Alembic."""

from pathlib import Path

import pytest

from edgepaas.schema.chain import Chain, chain_of, show
from edgepaas.schema.errors import SchemaError
from edgepaas.telemetry import application
from tests.support.chains import migrations_folder, write_revision


def test_the_heads_are_those_that_alembic_finds() -> None:
    """On the project's own scripts."""
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    chain = chain_of(application)
    config = Config()
    config.set_main_option("script_location", str(chain.folder))
    assert chain.heads == set(ScriptDirectory.from_config(config).get_heads())


def test_branches_and_merges_are_followed(tmp_path: Path) -> None:
    """Two heads until a revision has both before it."""
    folder = migrations_folder(tmp_path / "m", ["0001", "0002"])
    write_revision(folder, "b", "0001", "")
    assert Chain("shop", folder).heads == {"0002", "b"}
    write_revision(folder, "c", ("0002", "b"), "")  # type: ignore[arg-type]
    chain = Chain("shop", folder)
    assert chain.heads == {"c"}
    assert chain.ancestors("c") == {"0001", "0002", "b"}
    assert show(chain.heads) == "c"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("revision = ", "cannot be read"),
        ("x = 1", "names no revision"),
        ("revision = 'z'\ndown_revision = 'gone'", "follows gone"),
        ("revision = '0001'\ndown_revision = None", "another script"),
        ("revision = made()", "cannot be read"),
    ],
)
def test_a_script_that_is_none_is_named(tmp_path: Path, text: str, told: str) -> None:
    """No traceback for a typing error in a migration."""
    folder = migrations_folder(tmp_path / "m", ["0001"])
    (folder / "versions" / "9999_bad.py").write_text(text)
    with pytest.raises(SchemaError, match=told):
        _ = Chain("shop", folder).heads


def test_annotated_assignments_are_read(tmp_path: Path) -> None:
    """Alembic's own template writes them so."""
    folder = migrations_folder(tmp_path / "m", [])
    (folder / "versions" / "a.py").write_text(
        "revision: str = 'a'\ndown_revision: str | None = None\nother: int\n"
    )
    assert Chain("shop", folder).heads == {"a"}
