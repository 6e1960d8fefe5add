# SPDX-License-Identifier: Apache-2.0
"""``edgepaas sync status|conflicts|dead-letters``: inspect forwarding, and act on it.

Sub-commands of ``edgepaas sync``; its module ``sync.py`` calls this one.
"""

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgepaas.files.paths import Paths
    from edgepaas.settings import Settings
    from edgepaas.sync.hub.connection import Hub
    from edgepaas.sync.inspect import Entry, Kind

_STATUS = """\
Show the state of forwarding: how many rows wait and since when, whether PostgreSQL accepts
them, when it serves again, and what needs an operator.

exit status: 0 all is well, 1 something needs an operator, or sync does not run.
"""
_CONFLICTS = """\
Rows that differed from those in PostgreSQL when they arrived. In a shared row the value that
arrived last is kept, a fact stays as it was; the other value is recorded here. 'list' (the
default) shows the open conflicts, 'show ID' one of them with both values, 'settle ID|all' marks
them as seen and changes no row. An ID may be shortened.
"""
_LETTERS = """\
Changes that PostgreSQL refused, and later ones of the same rows. 'list' (the default) shows
those that wait, 'show ID' one of them with its values, 'retry ID|all' applies them again in
order, 'discard ID|all' discards them: they stay listed with --all. An ID may be shortened.

exit status: 0 done, 1 PostgreSQL refused again, or there is no such dead letter.
"""


def add_subcommands(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare these sub-commands of ``edgepaas sync``."""
    from edgepaas.cli.operator import sync_losses

    form = argparse.RawDescriptionHelpFormatter
    status = subparsers.add_parser(
        "status", help="show what waits, and for what", description=_STATUS, formatter_class=form
    )
    status.add_argument("--json", action="store_true", help="print a JSON document")
    for name, help_text, text, verbs in (
        ("conflicts", "rows that differed on arrival", _CONFLICTS, ("list", "show", "settle")),
        ("dead-letters", "rows that were refused", _LETTERS, ("list", "show", "retry", "discard")),
    ):
        parser = subparsers.add_parser(name, help=help_text, description=text, formatter_class=form)
        parser.add_argument(
            "verb", nargs="?", default="list", choices=verbs, help="what to do (default: list)"
        )
        parser.add_argument(
            "id",
            nargs="?",
            default="",
            metavar="ID",
            help="as 'list' shows it, or 'all' where allowed",
        )
        parser.add_argument("--json", action="store_true", help="print a JSON document")
        parser.add_argument("--all", action="store_true", help="also list those that are settled")
        parser.add_argument(
            "--every-node", action="store_true", help="those of every box, not only of this one"
        )
        parser.add_argument("--yes", action="store_true", help="do not ask for confirmation")
    sync_losses.add_subcommands(subparsers)


def run(arguments: argparse.Namespace) -> int:
    """Do what ``arguments.subcommand`` says; raises HubError, EntryNotFound, UsageError."""
    from edgepaas.cli.operator import sync_losses
    from edgepaas.logs import configure_logging

    configure_logging(level="ERROR")
    actions: dict[str, Callable[[argparse.Namespace], int]] = {
        "status": _status,
        "conflicts": _conflicts,
        "dead-letters": _dead_letters,
        "acknowledge": sync_losses.acknowledge,
        "unsent": sync_losses.unsent,
    }
    return actions[arguments.subcommand](arguments)


# -- status --


def _status(arguments: argparse.Namespace) -> int:
    from edgepaas.cli.operator.sync_losses import read_ledger
    from edgepaas.decision.contract import DatabaseContract
    from edgepaas.errors import EXIT_DONE, EXIT_FAILED
    from edgepaas.files.local_time import people_time
    from edgepaas.files.paths import find_paths
    from edgepaas.health.forwarding import current_forwarding
    from edgepaas.outbox.forwarding_state import display_lines
    from edgepaas.sync import status as sync_status
    from edgepaas.terminal import print_json, say

    paths = find_paths()
    contract = DatabaseContract.read(paths.db_contract)
    found, status = current_forwarding(paths, contract), sync_status.read(paths)
    counters = read_ledger(paths, contract)
    if arguments.json:
        print_json(
            {
                "forwarding": found and found.as_dict(),
                "sync": status and {**status.values(), "fresh": status.fresh},
                "ledger": counters,
            }
        )
    elif found is None:
        say("sync", "there is no PostgreSQL to forward to (DATABASE_URL is empty)")
    else:
        at = people_time()
        say("sync", f"{found.state}{f': {found.reason}' if found.reason else ''}")
        for label, text in display_lines({**found.as_dict(), "reason": ""}):
            say(label, at(text) if label == "since" else text)
        if status is not None and status.mirror is not None:
            say("mirror", f"{status.mirror.rows:,} shared rows as of {at(status.mirror.at)}")
        if status is not None and status.clock_offset is not None:
            say("clock", f"PostgreSQL's clock differs by {status.clock_offset:+.3f} s")
        if counters is not None:
            figures = ("accepted", "delivered", "pending", "dead", "shed", "conflicts", "hub_lost")
            say("ledger", ", ".join(f"{name} {counters[name]:,}" for name in figures))
        for line in found.problems:
            say("to do", line)
    return EXIT_FAILED if found is not None and found.problems else EXIT_DONE


# -- conflicts and dead letters --


def _conflicts(arguments: argparse.Namespace) -> int:
    from edgepaas.sync.inspect import settle_conflicts

    def act(hub: "Hub", chosen: "list[Entry]") -> tuple[int, list[str]]:
        return settle_conflicts(hub, [one.id for one in chosen]), []

    return _listed(arguments, "conflicts", {"settle": ("settled", act)})


def _dead_letters(arguments: argparse.Namespace) -> int:
    from edgepaas.sync.inspect import discard_all, retry_all

    def apply_again(hub: "Hub", chosen: "list[Entry]") -> tuple[int, list[str]]:
        return retry_all(hub, chosen, _models())

    def discard(hub: "Hub", chosen: "list[Entry]") -> tuple[int, list[str]]:
        return discard_all(hub, chosen), []

    return _listed(
        arguments,
        "dead-letters",
        {"retry": ("sent", apply_again), "discard": ("discarded", discard)},
    )


def _models() -> dict[str, Any]:
    """Return the tables of tables.json, so that a retry notices what the hub lacks."""
    from edgepaas.files.paths import find_paths
    from edgepaas.outbox.layout import read_document

    try:
        return dict(read_document(find_paths().tables)["tables"])
    except (OSError, ValueError):
        return {}  # no schema stage has run since the boot; the hub's own tables are used


_Act = Callable[["Hub", "list[Entry]"], "tuple[int, list[str]]"]


def _listed(arguments: argparse.Namespace, kind: "Kind", acts: dict[str, tuple[str, _Act]]) -> int:
    from edgepaas.errors import EXIT_DONE, UsageError
    from edgepaas.sync.inspect import find_entry, list_entries

    if (arguments.verb == "list") == bool(arguments.id):
        raise UsageError(
            f"'edgepaas sync {kind} {arguments.verb}' takes "
            + ("no id" if arguments.verb == "list" else "an id; 'list' shows them")
        )
    with opened_hub() as (hub, node_id):
        of_node = "" if arguments.every_node else node_id
        if arguments.verb == "list":
            found = list_entries(hub, kind, node_id=of_node, settled=arguments.all)
            _show_list(arguments, kind, found)
            return EXIT_DONE
        if arguments.verb == "show":
            _show_entry(arguments, find_entry(hub, kind, arguments.id))
            return EXIT_DONE
        if arguments.id == "all":
            chosen = list_entries(hub, kind, node_id=of_node, limit=1_000_000)
        else:
            chosen = [find_entry(hub, kind, arguments.id)]
        return _act(arguments, hub, chosen, *acts[arguments.verb])


def _act(
    arguments: argparse.Namespace, hub: "Hub", chosen: "list[Entry]", done: str, act: _Act
) -> int:
    from edgepaas.errors import EXIT_DONE, EXIT_FAILED
    from edgepaas.terminal import confirmed, print_json, say

    if chosen and not arguments.yes and not confirmed(f"{arguments.verb} {len(chosen)} rows"):
        say("sync", "nothing was done")
        return EXIT_FAILED
    number, problems = act(hub, chosen) if chosen else (0, [])
    if arguments.json:
        print_json({done: number, "problems": problems})
    else:
        say("sync", f"{number} {done}")
        for problem in problems:
            say("refused", problem)
    return EXIT_FAILED if problems else EXIT_DONE


def _show_list(arguments: argparse.Namespace, kind: "Kind", found: "list[Entry]") -> None:
    from edgepaas.files.local_time import people_time
    from edgepaas.terminal import print_json, print_table, say

    if arguments.json:
        print_json([one.as_dict() for one in found])
        return
    if not found:
        say("sync", f"no {kind.replace('-', ' ')}{'' if arguments.all else ' wait'}")
        return
    at = people_time()
    print_table(
        ("ID", "SINCE", "NODE", "ROW", "STATE", "WHAT"),
        [
            (
                one.id[:8],
                at(one.created_at),
                one.node or one.node_id[:8],
                f"{one.table} {one.key}",
                one.state,
                one.summary,
            )
            for one in found
        ],
    )


def _show_entry(arguments: argparse.Namespace, one: "Entry") -> None:
    from edgepaas.files.local_time import people_time
    from edgepaas.sync.inspect import display_value
    from edgepaas.terminal import print_json, print_table, say

    if arguments.json:
        print_json(one.as_dict())
        return
    say("id", one.id)
    say("row", f"{one.table} {one.key}")
    say("from", f"node {one.node or one.node_id}, stream {one.stream_id}, row {one.seq}")
    at = people_time()
    say("state", one.state + (f" at {at(one.settled_at)}" if one.settled_at else ""))
    say("since", at(one.created_at))
    say("what", one.summary)
    sides = ("hub", "box") if "hub" in one.details else ("old", "new")
    values: list[dict[str, Any]] = [dict(one.details[side] or {}) for side in sides]
    names = list(dict.fromkeys([*values[0], *values[1]]))
    print_table(
        ("COLUMN", *(side.upper() for side in sides)),
        [
            (name, *(display_value(side[name]) if name in side else "" for side in values))
            for name in names
        ],
    )


@contextmanager
def opened_hub() -> "Iterator[tuple[Hub, str]]":
    """Give a connection to the hub, and the id of this box (empty: it has none)."""
    from edgepaas.decision.contract import DatabaseContract
    from edgepaas.errors import ConfigurationError
    from edgepaas.files.node_identity import node_identity
    from edgepaas.files.paths import find_paths
    from edgepaas.sync.hub.connection import open_hub

    paths = find_paths()
    settings = _settings(paths)
    contract = DatabaseContract.read(paths.db_contract)
    if not contract.hub_url:
        raise ConfigurationError("there is no PostgreSQL to look at: DATABASE_URL is empty")
    with open_hub(settings, contract.hub_url, name="edgepaas-sync-inspect") as hub:
        yield hub, node_identity(paths).node_id


def _settings(paths: "Paths") -> "Settings":
    from edgepaas.logs import register_secret
    from edgepaas.settings import Settings

    settings = Settings.read(paths.env_contract)
    for secret in settings.secrets():
        register_secret(secret)
    return settings
