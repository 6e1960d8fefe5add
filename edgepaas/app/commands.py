# SPDX-License-Identifier: Apache-2.0
"""Sub-commands of an application's own: ``edgepaas APPLICATION COMMAND``.

::

    def add_arguments(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("file")

    def run(arguments: argparse.Namespace) -> int:
        print_json({"imported": arguments.file})
        return EXIT_DONE

    application = Application(
        name="notes",
        commands=(Command("import", "import notes from a file", run, add_arguments),),
        …
    )

``edgepaas --help`` lists them, ``edgepaas notes import --help`` explains one. An expected
failure is an :class:`edgepaas.app.errors.EdgePaaSError`: it is printed as one line. What is
slow to import is imported in the functions.
"""

import argparse
from collections.abc import Callable
from typing import NamedTuple

from edgepaas.terminal import print_json, print_table

__all__ = ["Command", "box_address", "box_token", "print_json", "print_table"]


def _no_arguments(parser: argparse.ArgumentParser) -> None:
    """Take none."""


class Command(NamedTuple):
    """One sub-command: *name* as it is typed, *help* one line about it.

    *run* is given the parsed arguments and returns the exit status; *add_arguments*
    declares them. *description* stands at the top of its own help (*help* if empty). A
    command that reads or writes files of the box *needs_service_user*: root becomes the
    service's user before it runs, and any other user is refused on an installed box. One
    that prints or writes what the application holds says what it *exports*, in a word:
    ``edgepaas export readings`` is then another way to call it.
    """

    name: str
    help: str
    run: Callable[[argparse.Namespace], int]
    add_arguments: Callable[[argparse.ArgumentParser], None] = _no_arguments
    description: str = ""
    needs_service_user: bool = True
    exports: str = ""


def box_address() -> str:
    """Return the address of the service on this box, e.g. ``http://127.0.0.1:8080``.

    It is the one that the service published, else that of the settings as far as this user may
    read them, else of the defaults.
    """
    from edgepaas.files.paths import find_paths
    from edgepaas.settings.own_url import own_url

    return own_url(find_paths())


def box_token() -> str:
    """Return what the service on this box takes for a token; "" for a user who may not read it.

    Root and the service's user may. It is for :func:`box_address` alone: no other machine is to
    see it, and none would take it.
    """
    from edgepaas.files.local_token import read_local_token
    from edgepaas.files.paths import find_paths

    return read_local_token(find_paths().local_token)
