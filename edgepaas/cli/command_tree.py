# SPDX-License-Identifier: Apache-2.0
"""The commands, their verbs and options as data, read from their argument parsers.

argparse has no documented way to ask a parser what it takes: ``_actions`` lists its arguments,
``_SubParsersAction`` is the one that holds verbs, ``_choices_actions`` the help of each.
"""

import argparse
import importlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from edgepaas.terminal import CommandParser


@dataclass(frozen=True)
class Option:
    """One option: its names, as they are typed; ``choices`` are the values that it may have."""

    names: tuple[str, ...]
    help: str
    takes_value: bool
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Node:
    """A command or verb, and what may follow it."""

    name: str
    help: str = ""
    options: tuple[Option, ...] = ()
    #: The values of its arguments, where they are a set.
    choices: tuple[str, ...] = ()
    below: Mapping[str, "Node"] = field(default_factory=dict)

    def walk(self, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], "Node"]]:
        """Yield the words that lead to each node, and the node: this one first."""
        yield path, self
        for name, node in self.below.items():
            yield from node.walk((*path, name))


def command_tree() -> Node:
    """Return the program's own commands and those of the installed applications."""
    from edgepaas.cli import COMMANDS
    from edgepaas.errors import ConfigurationError
    from edgepaas.hosting.commands import parser_of
    from edgepaas.hosting.installed import installed_applications
    from edgepaas.hosting.loading import load_application

    below = {}
    for name, (module, summary) in COMMANDS.items():
        parser = CommandParser(prog=f"edgepaas {name}")
        importlib.import_module(f"edgepaas.{module}").add_arguments(parser)
        below[name] = _node(name, summary, parser)
    for name in sorted(installed_applications()):
        try:
            application = load_application(name)
        except ConfigurationError:
            continue  # 'edgepaas --help' says why
        if application.commands and application.name not in below:
            summary = f"commands of the application {application.name}"
            below[application.name] = _node(application.name, summary, parser_of(application))
    options = (
        Option(("-h", "--help"), "list the commands", False),
        Option(("-V", "--version"), "print the version", False),
    )
    below["help"] = Node("help", "explain a command", choices=tuple(below))
    return Node("edgepaas", options=options, below=below)


def _node(name: str, summary: str, parser: argparse.ArgumentParser) -> Node:
    options: list[Option] = []
    choices: list[str] = []
    below: dict[str, Node] = {}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            helps = {choice.dest: choice.help or "" for choice in action._choices_actions}
            below |= {verb: _node(verb, helps[verb], one) for verb, one in action.choices.items()}
        elif action.help == argparse.SUPPRESS:
            continue
        elif action.option_strings:
            text = (action.help or "") % {**vars(action), "prog": parser.prog}
            takes_value = action.nargs != 0
            given = tuple(map(str, action.choices or ()))
            options.append(Option(tuple(action.option_strings), text, takes_value, given))
        else:
            choices += map(str, action.choices or ())
    return Node(name, summary, tuple(options), tuple(choices), below)
