# SPDX-License-Identifier: Apache-2.0
"""The README is true: every setting, command, endpoint and stage that exists stands in it."""

import re
from pathlib import Path

import pytest

from edgepaas.cli import COMMANDS
from edgepaas.files.paths import Paths
from edgepaas.hosting.settings import documented_sections
from edgepaas.settings.render import markdown_reference
from tests.support.telemetry_box import open_box

README = (Path(__file__).resolve().parents[2] / "README.md").read_text(encoding="utf-8")
BEGIN = "<!-- settings: begin (written by 'edgepaas settings --markdown') -->\n"
END = "<!-- settings: end -->"


def test_the_settings_reference_is_what_the_table_says() -> None:
    written = README.split(BEGIN)[1].split(END)[0]
    assert written.strip() == markdown_reference(documented_sections()).strip(), (
        "README.md is behind the settings table: put 'edgepaas settings --markdown' between its "
        "two markers"
    )


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_stands_in_the_readme(command: str) -> None:
    assert re.search(rf"`edgepaas {command}\b", README)


def test_every_endpoint_stands_in_the_readme(paths: Paths) -> None:
    """Asked of the application itself, so that a new route cannot be forgotten here."""
    with open_box(paths) as (app, _):
        rules = {re.sub(r"<[^>]*>", "{id}", rule.rule) for rule in app.url_map.iter_rules()}
    missing = sorted(rule for rule in rules if f"`{rule}`" not in README)
    assert not missing


def test_the_two_commands_are_the_first_thing_to_type() -> None:
    first = README.split("```")[1]
    assert [line.split("#")[0].strip() for line in first.strip().splitlines()] == [
        "make run",
        "make test",
    ]


@pytest.mark.parametrize("target", re.findall(r"`make ([a-z-]+)", README))
def test_every_make_target_that_the_readme_names_is_there(target: str) -> None:
    makefile = (Path(__file__).resolve().parents[2] / "Makefile").read_text(encoding="utf-8")
    assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE)


def test_the_documented_application_is_the_one_that_is_tested() -> None:
    root = Path(__file__).resolve().parents[2]
    source = root / "tests/support/second_application/one_file.py"
    document = (root / "docs/applications.md").read_text(encoding="utf-8")
    licence, _, application = source.read_text(encoding="utf-8").partition("\n")
    assert "SPDX" in licence
    assert application.strip() in document


def test_the_applications_document_lists_the_public_modules() -> None:
    root = Path(__file__).resolve().parents[2]
    document = (root / "docs/applications.md").read_text(encoding="utf-8")
    inner = {"__init__", "application", "box"}  # offered by edgepaas.app itself
    names = {path.stem for path in (root / "edgepaas/app").glob("*.py")} - inner
    assert [name for name in sorted(names) if f"| `edgepaas.app.{name}` |" not in document] == []
