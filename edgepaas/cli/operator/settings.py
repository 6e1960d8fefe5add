# SPDX-License-Identifier: Apache-2.0
"""``edgepaas settings``: the table, each value in force, and the documents made from it."""

import argparse
import sys
from typing import Any

from edgepaas.cli.privileges import become_service_user
from edgepaas.errors import EXIT_DONE
from edgepaas.files.contract import ContractMissing
from edgepaas.files.paths import Paths, find_paths
from edgepaas.hosting.settings import declared_by, documented_sections
from edgepaas.settings import SETTINGS, Setting, Settings
from edgepaas.settings.render import (
    Groups,
    default_of,
    env_file_template,
    markdown_reference,
    masked_value,
    readable_size,
    sections,
)
from edgepaas.settings.resolve import resolve_box
from edgepaas.terminal import print_json, print_table

DESCRIPTION = """\
List every setting with the value in force and where it came from; secrets are masked.

In force is what run/env holds. Where the environment stage has not run, the values are
resolved as it would, and the last line notes that.
"""

#: --markdown and --env-file-template hold no values; run() guards the values.
NEEDS_SERVICE_USER = False


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="one JSON document")
    form.add_argument(
        "--env-file-template",
        action="store_true",
        help="a commented edgepaas.env, as the package ships it",
    )
    form.add_argument("--markdown", action="store_true", help="the reference, docs/settings.md")


def run(arguments: argparse.Namespace) -> int:
    """Print what was asked for."""
    if arguments.env_file_template:
        print(env_file_template({"ENV": "production"}, documented_sections()), end="")
        return EXIT_DONE
    if arguments.markdown:
        print(markdown_reference(documented_sections()), end="")
        return EXIT_DONE
    become_service_user("settings")
    paths = find_paths()
    settings, origins, groups, in_force = _values(paths)
    if arguments.json:
        print_json(_document(settings, origins, groups, paths, in_force=in_force))
        return EXIT_DONE
    for title, group in groups.items():
        print(f"\n{title}")
        print_table(
            ("  SETTING", "VALUE", "SOURCE", "MEANING"),
            [
                (f"  {s.name}", _readable(s, settings, paths), origins[s.name], s.help)
                for s in group
            ],
        )
    if settings.extra:
        print(f"\nvariables of the application's own: {', '.join(sorted(settings.extra))}")
    where = f"in force: {paths.env_contract}" if in_force else "not in force yet: no run/env"
    print(f"\n{where}; settings are written to {paths.env_file}")
    return EXIT_DONE


def _values(paths: Paths) -> tuple[Settings, dict[str, str], Groups, bool]:
    """Return the settings, each one's source, their sections, and whether they are in force."""
    try:
        settings = Settings.read(paths.env_contract)
    except ContractMissing:
        resolution = resolve_box(paths, declared_by)
        origins = {name: origin.source for name, origin in resolution.provenance.items()}
        groups = sections(resolution.settings.text("EDGEPAAS_APP"), resolution.own.values())
        return resolution.settings, origins, groups, False
    application = settings.text("EDGEPAAS_APP")
    own, findings = declared_by(application)
    for finding in findings:
        print(f"warning: {finding.message}", file=sys.stderr)
    settings = settings.declared(own)
    known = {**SETTINGS, **own}
    origins = {name: _source(settings, setting, paths) for name, setting in known.items()}
    return settings, origins, sections(application, own.values()), True


def _in_force(setting: Setting, settings: Settings, paths: Paths) -> str:
    """Return the value as every user may see it; where it is blank, the path that it leads to."""
    text = masked_value(setting, settings.text(setting.name))
    if text:
        return text
    if setting.name == "LOG_FILE":
        return str(paths.log_file)
    if setting.name == "DATABASE_URL_SQLITE":
        return f"sqlite:///{settings.sqlite_file(paths.state)}"
    return ""


def _readable(setting: Setting, settings: Settings, paths: Paths) -> str:
    text = _in_force(setting, settings, paths)
    return readable_size(int(text)) if setting.kind == "size" and text else text


def _source(settings: Settings, setting: Setting, paths: Paths) -> str:
    """Return the origin in the words of 'env --explain', as far as the contract kept it."""
    name = setting.name
    if not settings.is_given(name):
        return "default" if settings.text(name) == setting.default else "derived"
    kind, _, line = settings.sources.get(name, "given").partition(":")
    if kind == "file":
        return f"{paths.env_file} line {line}" if line else str(paths.env_file)
    if kind == "credentials":
        return f"the credential {name}"
    if kind == "vault":
        return f"Vault {settings.text('VAULT__PATH')}"
    return "the package" if kind == "package" else kind


def _document(
    settings: Settings, origins: dict[str, str], groups: Groups, paths: Paths, *, in_force: bool
) -> dict[str, Any]:
    return {
        "in_force": in_force,
        "settings": [
            {
                "name": s.name,
                "section": title,
                "type": s.kind,
                "value": _in_force(s, settings, paths),
                "source": origins[s.name],
                "given": settings.is_given(s.name),
                "default": default_of(s),
                "allowed": s.allowed,
                "unit": s.unit,
                "secret": s.secret,
                "help": s.help,
            }
            for title, group in groups.items()
            for s in group
        ],
        "services": [
            {"name": s.name, "address": s.address, "required": s.required}
            for s in settings.services
        ],
        "own": sorted(settings.extra),
    }
