# SPDX-License-Identifier: Apache-2.0
"""``edgepaas token``: create, list and revoke API tokens."""

import argparse
import sys

from edgepaas.errors import EXIT_DONE
from edgepaas.files.paths import find_paths
from edgepaas.terminal import print_json, print_table
from edgepaas.web.access.tokens import TokenStore

DESCRIPTION = """\
Create, list and revoke the tokens that clients send as 'Authorization: Bearer TOKEN'.

A token is shown once, when it is created; the box keeps only its hash. A running
service sees every change at once. 'create' prints the token alone on standard
output, so that it can go straight into a file.
"""

_EPILOG = "exit status: 0 done, 1 failed, 2 usage"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the three verbs."""
    parser.epilog = _EPILOG
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    create = verbs.add_parser("create", help="make a token and print it, once", epilog=_EPILOG)
    create.add_argument("name", help="what it is for, e.g. the device or the person that holds it")
    create.add_argument("--read-only", action="store_true", help="a token that may not write")
    create.add_argument("--json", action="store_true", help="print a JSON document")
    listing = verbs.add_parser(
        "list", help="list the tokens, without their secrets", epilog=_EPILOG
    )
    listing.add_argument("--json", action="store_true", help="print a JSON document")
    revoke = verbs.add_parser("revoke", help="make a token worthless", epilog=_EPILOG)
    revoke.add_argument("token", metavar="NAME|ID", help="as 'edgepaas token list' shows it")


def run(arguments: argparse.Namespace) -> int:
    """Do what the verb says; raises TokenProblem."""
    store = TokenStore(find_paths().tokens)
    if arguments.verb == "create":
        _create(store, arguments.name, read_only=arguments.read_only, as_json=arguments.json)
    elif arguments.verb == "list":
        _list(store, as_json=arguments.json)
    else:
        token = store.revoke(arguments.token)
        print(f"revoked the token {token.name} ({token.id})")
    return EXIT_DONE


def _create(store: TokenStore, name: str, *, read_only: bool, as_json: bool) -> None:
    token, secret = store.create(name, read_only=read_only)
    if as_json:
        print_json({**token.as_dict(), "token": secret})
        return
    rights = "may only read" if read_only else "may read and write"
    print(f"the token {token.name} {rights}; this is the only time it is shown:", file=sys.stderr)
    print(secret)


def _list(store: TokenStore, *, as_json: bool) -> None:
    tokens = store.read()
    if as_json:
        print_json([token.as_dict() for token in tokens])
        return
    if not tokens:
        print("there are no tokens; 'edgepaas token create NAME' makes one")
        return
    from edgepaas.files.local_time import people_time

    at = people_time()
    print_table(
        ("ID", "NAME", "RIGHTS", "CREATED"),
        [
            (
                token.id,
                token.name,
                "read" if token.read_only else "read, write",
                at(token.created_at),
            )
            for token in tokens
        ],
    )
