# SPDX-License-Identifier: Apache-2.0
"""``edgepaas completion``: print what completes the command line in a shell."""

import argparse

from edgepaas.cli.completion_scripts import SHELLS, completion_script
from edgepaas.errors import EXIT_DONE

DESCRIPTION = """\
Print a script that completes commands, verbs and options when Tab is pressed.

An installed box has the scripts where the three shells look for them. Elsewhere:

  bash  source <(edgepaas completion bash)
  zsh   source <(edgepaas completion zsh)     after compinit
  fish  edgepaas completion fish | source
"""

NEEDS_SERVICE_USER = False


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the shell."""
    parser.add_argument("shell", choices=SHELLS, help="the shell that the script is for")


def run(arguments: argparse.Namespace) -> int:
    """Print the script."""
    from edgepaas.cli.command_tree import command_tree

    print(completion_script(arguments.shell, command_tree()), end="")
    return EXIT_DONE
