# SPDX-License-Identifier: Apache-2.0
"""The documents are true: what exists stands in them, and what they name exists."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from edgepaas.cli import COMMANDS
from edgepaas.files.paths import Paths
from edgepaas.hosting.settings import documented_sections
from edgepaas.supervisor.stage_processes import CHAIN
from edgepaas.telemetry import application as telemetry
from tests.support.telemetry_box import open_box

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted(
    [
        *(path for path in ROOT.glob("*.md") if path.name != "CHANGELOG.md"),
        *(ROOT / "docs").rglob("*.md"),
    ]
)
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
TARGETS = set(re.findall(r"^([a-z][a-z-]*):", MAKEFILE, flags=re.MULTILINE))


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def documents(pattern: str) -> list[tuple[str, str]]:
    """(document, what the pattern's group found) over all documents, each pair once."""
    return sorted(
        {
            (str(path.relative_to(ROOT)), found)
            for path in DOCUMENTS
            for found in re.findall(pattern, path.read_text(encoding="utf-8"))
        }
    )


# -- the README --


def test_the_two_commands_are_the_first_thing_to_type() -> None:
    first = read("README.md").split("```")[1]
    assert [line.split("#")[0].strip() for line in first.strip().splitlines()] == [
        "make run",
        "make test",
    ]


def test_the_readme_is_short() -> None:
    assert len(read("README.md").splitlines()) <= 200


@pytest.mark.parametrize("path", sorted((ROOT / "docs").glob("*.md")), ids=lambda p: str(p.name))
def test_the_readme_leads_to_every_document(path: Path) -> None:
    assert f"](docs/{path.name})" in read("README.md")


# -- what exists stands in the documents --


def test_the_generated_documents_are_what_the_code_says() -> None:
    """'make docs' writes them."""
    result = subprocess.run(
        [sys.executable, ROOT / "packaging/tools/reference.py", "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize(
    "setting",
    sorted(setting.name for group in documented_sections().values() for setting in group),
)
def test_every_setting_stands_in_the_reference(setting: str) -> None:
    assert f"| `{setting}` |" in read("docs/settings.md")


@pytest.mark.parametrize(
    "command",
    sorted([*COMMANDS, *(f"{telemetry.name} {command.name}" for command in telemetry.commands)]),
)
def test_every_command_stands_in_the_operators_table(command: str) -> None:
    """Those of the built-in application as well."""
    assert re.search(rf"^\| `edgepaas {command}\b", read("docs/operations.md"), flags=re.MULTILINE)


@pytest.mark.parametrize("stage", CHAIN)
def test_every_stage_stands_in_the_architecture(stage: str) -> None:
    assert f"`edgepaas {stage}`" in read("docs/architecture.md")


@pytest.mark.parametrize(
    "unit", sorted(p.name for p in (ROOT / "systemd").iterdir() if p.name.startswith("edgepaas"))
)
def test_every_unit_stands_in_the_operators_table(unit: str) -> None:
    if unit.endswith((".preset", ".sysusers", ".tmpfiles")):
        assert "edgepaas" in unit  # what they set up is told as folders and the user
    else:
        assert f"`{unit}`" in read("docs/operations.md")


def test_every_endpoint_stands_in_the_reference(paths: Paths) -> None:
    """Asked of the application itself, so that a new route cannot be forgotten here."""
    with open_box(paths) as (app, _):
        rules = {re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", r.rule) for r in app.url_map.iter_rules()}
    reference = read("docs/api.md")
    missing = sorted(rule for rule in rules if f"`{rule}`" not in reference)
    assert not missing


def test_every_field_and_parameter_of_the_api_has_a_description(paths: Paths) -> None:
    """Of the platform and of the built-in application."""
    with open_box(paths) as (app, _):
        document = app.test_client().get("/openapi.json").get_json()
    fields = {
        f"{schema}.{name}": field
        for schema, content in document["components"]["schemas"].items()
        for name, field in content.get("properties", {}).items()
    }
    parameters = {
        f"{path} {parameter['name']}": parameter
        for path, item in document["paths"].items()
        for holder in (item, *(item[method] for method in item if method != "parameters"))
        for parameter in holder.get("parameters", ())
    }
    assert {"Alert.ended", "Ready.checks", "Reading.value"} <= fields.keys()
    assert "/api/v1/readings device" in parameters
    described = {**fields, **parameters}
    missing = sorted(at for at, one in described.items() if not one.get("description", "").strip())
    assert not missing


def test_every_state_is_explained() -> None:
    from edgepaas.health.state import STATES

    operations = read("docs/operations.md")
    missing = [state for state in STATES if f"\n| `{state}` |" not in operations]
    assert not missing


def test_every_room_stands_in_the_architecture() -> None:
    rooms = {
        path.parent.relative_to(ROOT / "edgepaas")
        for path in (ROOT / "edgepaas").rglob("__init__.py")
        if "_alembic" not in path.parts
    }
    architecture = read("docs/architecture.md")
    missing = sorted(
        str(room) for room in rooms if room.parts and f"`{room.as_posix()}`" not in architecture
    )
    assert not missing


def test_every_decision_stands_in_the_list_with_a_date_and_a_status() -> None:
    listed = read("docs/decisions/README.md")
    for path in sorted((ROOT / "docs/decisions").glob("[0-9]*.md")):
        text = path.read_text(encoding="utf-8")
        assert f"]({path.name})" in listed, path.name
        assert re.search(r"^Date: \d{4}-\d\d-\d\d · Status: \w+", text, re.MULTILINE), path.name


# -- what the documents name exists --


@pytest.mark.parametrize(("document", "target"), documents(r"(?:`|\n)make ([a-z-]+)"))
def test_every_make_target_that_a_document_names_is_there(document: str, target: str) -> None:
    assert target in TARGETS, document


@pytest.mark.parametrize(("document", "command"), documents(r"`edgepaas ([a-z]+)\b"))
def test_every_command_that_a_document_names_is_there(document: str, command: str) -> None:
    assert command in {*COMMANDS, telemetry.name}, document


@pytest.mark.parametrize(
    ("document", "path"),
    documents(
        r"`((?:edgepaas|tests|packaging|systemd|alembic)/[\w./-]+\.(?:py|md|yaml|yml|service))\b"
    ),
)
def test_every_file_that_a_document_names_is_there(document: str, path: str) -> None:
    assert (ROOT / path).exists(), document


@pytest.mark.parametrize(("document", "name"), documents(r"`([a-z_]+\.py)`"))
def test_every_module_that_a_document_names_is_somewhere(document: str, name: str) -> None:
    """The text says beside which other one."""
    places = [ROOT / folder for folder in ("edgepaas", "tests", "packaging")]
    examples = {"notes.py"} if document == "docs/applications.md" else set()
    assert name in examples or any(list(place.rglob(name)) for place in places), document


@pytest.mark.parametrize(("document", "link"), documents(r"\]\((?!https?:)([^)\s]+)\)"))
def test_every_link_leads_somewhere(document: str, link: str) -> None:
    """To a file of the tree, and to a heading of it where the link names one."""
    name, _, anchor = link.partition("#")
    target = ((ROOT / document).parent / name).resolve() if name else ROOT / document
    assert target.exists()
    if anchor:
        text = target.read_text(encoding="utf-8")
        assert anchor in {heading_anchor(line) for line in text.splitlines()}


def heading_anchor(line: str) -> str:
    """What a link to a heading is; empty for a line that is none."""
    if not re.match(r"#{1,6} ", line):
        return ""
    kept = re.sub(r"[^\w\s-]", "", line.lstrip("#").strip().lower())
    return re.sub(r"\s", "-", kept)


def test_the_application_in_the_documents_is_the_one_that_is_tested() -> None:
    source = read("tests/support/second_application/one_file.py")
    licence, _, application = source.partition("\n")
    assert "SPDX" in licence
    assert application.strip() in read("docs/applications.md")


# -- the hooks --


def test_the_hooks_run_what_make_check_runs() -> None:
    recipe = MAKEFILE.split("\ncheck:")[1].split("\n\n")[0]
    commands = [
        line.strip().replace("$(BIN)", ".venv/bin")
        for line in recipe.splitlines()[1:]
        if line.startswith("\t")
    ]
    configuration = yaml.safe_load(read(".pre-commit-config.yaml"))
    (local,) = configuration["repos"]
    assert local["repo"] == "local"
    assert [hook["entry"] for hook in local["hooks"]] == commands


def test_the_help_of_make_groups_every_target() -> None:
    result = subprocess.run(
        ["make", "--no-print-directory", "help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    shown = re.findall(r"^  make ([a-z-]+)", result.stdout, flags=re.MULTILINE)
    assert sorted(shown) == sorted(set(shown))
    documented = set(re.findall(r"^([a-z-]+):.*## ", MAKEFILE, flags=re.MULTILINE))
    assert set(shown) == documented
    groups = re.findall(r"^##@ (.+)$", MAKEFILE, flags=re.MULTILINE)
    assert len(groups) >= 5
    assert all(f"\n{group}\n" in result.stdout for group in groups)
