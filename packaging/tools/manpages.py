# SPDX-License-Identifier: Apache-2.0
"""Write edgepaas(1) and edgepaas.env(5) from what the code says of itself.

    manpages.py LIBRARY TARGET

LIBRARY is the unpacked tree. The commands come from their argument parsers, the
settings from the table of settings: what the pages say is what the program does.
"""

import argparse
import importlib
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgepaas.settings import Setting

INTRODUCTION = """\
EdgePaaS turns a small Linux box into an appliance for one web application: it always
starts, always answers, keeps every write that it has acknowledged, and says what is
wrong. A chain of stages, each a command and a systemd unit, resolves the settings (env),
decides between PostgreSQL and SQLite (dbdecide), brings the schema to head (schema) and
serves (serve). What was written to SQLite while PostgreSQL was away goes home to it (sync),
and what needs a person is notified by webhook or mail (alerts).

Commands that read or write the box's own files run as the user edgepaas; root becomes
that user first. 'edgepaas status' needs no privilege.
"""
FILES = (
    ("/etc/edgepaas/edgepaas.env", "the settings; see edgepaas.env(5)"),
    ("/run/edgepaas/env", "the settings as the first stage resolved them"),
    ("/run/edgepaas/db.env", "which database was decided on, and why"),
    ("/run/edgepaas/state.json", "the state of the box, as the service published it"),
    ("/run/edgepaas/sync.json", "how rows are on their way to PostgreSQL"),
    ("/run/edgepaas/nodes.json", "the boxes that PostgreSQL knows, where SQLite serves"),
    ("/var/lib/edgepaas", "the SQLite file with the rows that wait, tokens, backups, quarantine"),
    ("/var/log/edgepaas/edgepaas.log", "the log, beside the journal"),
    ("/var/spool/edgepaas/alerts", "alerts, until they were delivered, and their history"),
    ("/usr/share/edgepaas/alembic", "the migrations"),
)
EXIT_STATUS = (
    ("0", "done"),
    ("1", "failed"),
    ("2", "wrong usage; of audit: PostgreSQL cannot be read"),
    ("75", "decide again: the boot chain is to be run once more"),
    ("78", "a setting has no sane reading and no default"),
)
UNITS = (
    "edgepaas.service, with edgepaas.socket in front of it, runs edgepaas-env.service, "
    "edgepaas-dbdecide.service and edgepaas-schema.service before each start, and "
    "edgepaas-sync.service beside it. edgepaas-alerts.service delivers what is in the spool, "
    "whenever edgepaas-alerts.path sees some or edgepaas-alerts.timer says that some is due. "
    "'systemctl reload edgepaas' reads again what can be read again."
)


def main(arguments: list[str]) -> int:
    """Write both pages; return the exit status."""
    library, target = arguments
    sys.path.insert(0, library)
    os.environ["COLUMNS"] = "80"
    from edgepaas import __version__
    from edgepaas.cli import COMMANDS
    from edgepaas.settings.table import SECTIONS

    write(Path(target), "edgepaas", 1, commands_page(Page(__version__), COMMANDS))
    write(Path(target), "edgepaas.env", 5, settings_page(Page(__version__), SECTIONS))
    return 0


class Page:
    """A manual page in the making: man(7) macros, one a line."""

    def __init__(self, version: str) -> None:
        self.version = version
        self.lines: list[str] = []

    def macro(self, name: str, text: str = "") -> None:
        """Add a macro with the rest of its line."""
        self.lines.append(f".{name} {quoted(text)}" if text else f".{name}")

    def title(self, name: str, section: int) -> None:
        """Start the page."""
        when = time.gmtime(int(os.environ.get("SOURCE_DATE_EPOCH", time.time())))
        date = time.strftime("%Y-%m-%d", when)
        fields = (name.upper(), str(section), date, f"EdgePaaS {self.version}", "EdgePaaS")
        self.lines.append(".TH " + " ".join(f'"{field}"' for field in fields))

    def prose(self, text: str) -> None:
        """Add paragraphs; an empty line parts them, indented lines stay as they are."""
        for paragraph in text.strip("\n").split("\n\n"):
            self.macro("PP")
            if paragraph.startswith("  "):
                self.lines += [".nf", *map(escaped, paragraph.splitlines()), ".fi"]
            else:
                self.lines.append(escaped(" ".join(paragraph.split())))

    def entry(self, tag: str, text: str) -> None:
        """Add a tagged paragraph."""
        self.lines += [".TP", f"\\fB{escaped(tag)}\\fR", escaped(" ".join(text.split())) or "\\&"]


def commands_page(page: Page, commands: dict[str, tuple[str, str]]) -> Page:
    """Fill edgepaas(1)."""
    page.title("edgepaas", 1)
    page.macro("SH", "NAME")
    page.lines.append("edgepaas \\- appliance that keeps one web application running")
    page.macro("SH", "SYNOPSIS")
    page.lines += [
        "\\fBedgepaas\\fR \\fICOMMAND\\fR [\\fIOPTION\\fR...]",
        ".br",
        "\\fBedgepaas \\-\\-version\\fR",
    ]
    page.macro("SH", "DESCRIPTION")
    page.prose(INTRODUCTION)
    page.macro("SH", "COMMANDS")
    for name, (module, summary) in commands.items():
        describe_command(page, name, module, summary)
    page.macro("SH", "UNITS")
    page.prose(UNITS)
    for title, entries in (("FILES", FILES), ("EXIT STATUS", EXIT_STATUS)):
        page.macro("SH", title)
        for tag, text in entries:
            page.entry(tag, text)
    page.macro("SH", "SEE ALSO")
    page.lines.append("\\fBedgepaas.env\\fR(5), \\fBsystemctl\\fR(1), \\fBjournalctl\\fR(1)")
    return page


def describe_command(page: Page, name: str, module_name: str, summary: str) -> None:
    """Add one command with its verbs, arguments and options."""
    page.macro("SS", f"edgepaas {name}")
    module = importlib.import_module(f"edgepaas.{module_name}")
    parser = argparse.ArgumentParser(prog=f"edgepaas {name}", add_help=False)
    module.add_arguments(parser)
    page.prose(module.DESCRIPTION or summary)
    describe_parser(page, parser)


def describe_parser(page: Page, parser: argparse.ArgumentParser) -> None:
    """Add a parser's arguments, then those of its verbs."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            summaries = {choice.dest: choice.help for choice in action._choices_actions}
            for verb, verb_parser in action.choices.items():
                usage = " ".join(verb_parser.format_usage().split()[1:])
                page.entry(usage.replace(" [-h]", ""), summaries[verb] or "")
                page.macro("RS")
                if verb_parser.description and verb_parser.description != summaries[verb]:
                    page.prose(verb_parser.description)
                describe_parser(page, verb_parser)
                page.macro("RE")
        elif not isinstance(action, argparse._HelpAction) and action.help != argparse.SUPPRESS:
            page.entry(tag_of(action), (action.help or "") % variables(action))


def variables(action: argparse.Action) -> dict[str, object]:
    """Return what a help text may refer to, as argparse itself offers it."""
    return {**vars(action), "prog": "edgepaas"}


def tag_of(action: argparse.Action) -> str:
    """Return an argument as it is typed."""
    value = action.metavar or (action.dest.upper() if action.option_strings else action.dest)
    if action.choices and not action.metavar:
        value = "|".join(map(str, action.choices))
    if not action.option_strings:
        return str(value)
    names = ", ".join(action.option_strings)
    return names if action.nargs == 0 else f"{names} {value}"


def settings_page(page: Page, sections: "Mapping[str, tuple[Setting, ...]]") -> Page:
    """Fill edgepaas.env(5)."""
    from edgepaas.settings.render import default_of

    page.title("edgepaas.env", 5)
    page.macro("SH", "NAME")
    page.lines.append("edgepaas.env \\- settings of EdgePaaS")
    page.macro("SH", "SYNOPSIS")
    page.lines.append("\\fI/etc/edgepaas/edgepaas.env\\fR")
    page.macro("SH", "DESCRIPTION")
    page.prose(
        "One NAME=value a line; '#' starts a comment. A setting in the process environment or "
        "a systemd credential of its name wins over this file. NAME_FILE=/path reads the value "
        "from a file. A value that cannot be read is reported and takes its default. "
        "'edgepaas env --explain' shows each value in force and where it came from; 'systemctl "
        "restart edgepaas' puts changes into force, after 'systemctl daemon-reload' and with "
        "edgepaas.socket named beside it where HOST or PORT changed."
    )
    for title, settings in sections.items():
        page.macro("SH", title.upper())
        for s in settings:
            page.entry(s.name, f"{s.help} Allowed: {s.allowed}. Default: {default_of(s)}.")
    page.macro("SH", "SEE ALSO")
    page.lines.append("\\fBedgepaas\\fR(1)")
    return page


def escaped(text: str) -> str:
    """Return text that troff prints as it is."""
    text = text.replace("\\", "\\e").replace("-", "\\-").replace("…", "...")
    return "\\&" + text if text.startswith((".", "'")) else text


def quoted(text: str) -> str:
    """Return a macro's one argument."""
    return '"' + escaped(text).replace('"', "\\(dq") + '"'


def write(folder: Path, name: str, section: int, page: Page) -> None:
    """Write one page."""
    (folder / f"{name}.{section}").write_text("\n".join(page.lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
