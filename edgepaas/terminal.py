# SPDX-License-Identifier: Apache-2.0
"""The terminal of commands: parsing arguments, one line a stage, tables for people, JSON."""

import argparse
import contextlib
import functools
import os
import re
import sys
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

from edgepaas.logs.printable import escaped, json_escaped

_COLUMNS = 80
#: What argparse says of a word that is none of those that may stand there.
_INVALID_CHOICE = re.compile("invalid choice: '(?P<given>.*)' \\(choose from (?P<choices>.*)\\)")


class CommandParser(argparse.ArgumentParser):
    """The parser of a command and of those below it, whose help is as wide as the terminal.

    ``argparse`` asks ``shutil`` for that width, help or not, and ``shutil`` imports every
    library of compression: 2 ms at the start of each stage of the boot chain.
    """

    def __init__(self, **options: Any) -> None:
        kind = options.pop("formatter_class", argparse.HelpFormatter)
        super().__init__(formatter_class=functools.partial(kind, width=_help_width()), **options)

    def error(self, message: str) -> NoReturn:
        """End the process with *message*, and the nearest of the words that would have been right.

        Python's own parser lists them all (argparse, "Invalid arguments").
        """
        if match := _INVALID_CHOICE.search(message):
            import difflib

            choices = [choice.strip(" '") for choice in match["choices"].split(",")]
            near = difflib.get_close_matches(match["given"], choices, n=1)
            message += f"; did you mean '{near[0]}'?" if near else ""
        super().error(message)


def _help_width() -> int:
    """Return the width of a help text: $COLUMNS or the terminal's, with a margin of two."""
    try:
        columns = int(os.environ.get("COLUMNS", "0"))
    except ValueError:
        columns = 0
    if columns <= 0:
        try:
            columns = os.get_terminal_size(sys.stdout.fileno()).columns or _COLUMNS
        except (OSError, ValueError, AttributeError):  # no terminal; no output at all
            columns = _COLUMNS
    return columns - 2


def say(stage: str, text: str) -> None:
    """Print a stage's one line, e.g. ``decision     SQLite, standalone: no DATABASE_URL``.

    A full disk or a reader that went away is no reason for a stage to fail: the line is
    lost, and what the stage does goes on.
    """
    try:
        print(f"{escaped(stage):<12} {escaped(text)}", flush=True)
    except OSError:
        discard_output()


def announce(stage: str, text: str) -> None:
    """Print a stage's one line as :func:`say` does, or as the log goes where that is JSON.

    What collects a container's output reads it as one stream of one format.
    """
    from edgepaas.logs import as_json

    line = None if sys.stdout.isatty() else as_json(f"edgepaas.{stage}", text)
    if line is None:
        say(stage, text)
        return
    try:
        print(line, flush=True)
    except OSError:
        discard_output()


def discard_output() -> None:
    """Let standard output go nowhere from now on, also what is buffered and was not written."""
    with contextlib.suppress(OSError, ValueError):  # ValueError: it has no descriptor
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def confirmed(what: str) -> bool:
    """Whether the operator at the terminal wants *what*; raises UsageError where nobody is."""
    from edgepaas.errors import UsageError

    if not sys.stdin.isatty():
        raise UsageError(f"to {what} without confirmation, use --yes")
    try:
        return input(f"{what}? [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        return False


def print_json(value: object) -> None:
    """Print *value* as indented JSON, one document."""
    import json

    document = json.dumps(value, indent=2, sort_keys=False, default=str, ensure_ascii=False)
    # JSON writes out what is below a blank; in its strings this writes out the rest.
    sys.stdout.write(json_escaped(document) + "\n")


def print_table(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print *rows* under *headers* in columns as wide as their widest cell."""
    cells = [list(headers), *[[_cell(cell) for cell in row] for row in rows]]
    widths = [max(len(row[column]) for row in cells) for column in range(len(headers))]
    for row in cells:
        padded = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print("  ".join(padded).rstrip())


def _cell(value: object) -> str:
    return escaped(str(value)).replace("\n", "\\n").replace("\t", " ")
