# SPDX-License-Identifier: Apache-2.0
"""``edgepaas alerts``: see, deliver, test and silence alerts."""

import argparse
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from edgepaas.cli.operator import alerts_export
from edgepaas.errors import EXIT_DONE, EXIT_FAILED, UsageError
from edgepaas.files.paths import Paths, find_paths
from edgepaas.terminal import print_json, print_table, say

DESCRIPTION = """\
See, deliver, test and silence alerts.

An alert lies in the spool, as a file that 'cat' shows, until it was delivered to an operator:
by the webhook, else by e-mail; to the log where neither is configured. What every channel
refused is kept as dead until you 'retry' or 'discard' it.

exit status: 0 done; 1 failed, 'retry': something still waits or is dead, 'test': a channel did
not take it, or there is none.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verbs."""
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    def add(name: str, help: str) -> argparse.ArgumentParser:
        return verbs.add_parser(name, help=help, description=help)

    listing = add("list", "list what holds, and what waits for delivery")
    listing.add_argument("--all", action="store_true", help="also what is over and was delivered")
    listing.add_argument("--json", action="store_true", help="print a JSON document")
    show = add("show", "show one with all its fields, and its history")
    show.add_argument("name", metavar="NAME", help="as 'list' shows it, its beginning, or a"
                      " fingerprint")  # fmt: skip
    show.add_argument("--json", action="store_true", help="print a JSON document")
    history = add("history", "list what was raised, resolved and delivered, the newest first")
    history.add_argument("--limit", type=int, default=50, help="how many entries (default: 50)")
    history.add_argument("--json", action="store_true", help="print a JSON document")
    alerts_export.add_arguments(add("export", "print the history as CSV or NDJSON"))
    deliver = add("deliver", "send what is due, and end")
    deliver.add_argument(
        "--watch", action="store_true", help="stay, and send whenever an alert is raised"
    )
    # A pipe's descriptor: its other end closes when 'edgepaas up' is gone.
    deliver.add_argument("--lifeline", type=int, default=-1, help=argparse.SUPPRESS)
    add("retry", "retry everything that waits, and what is dead, at once")
    discard = add("discard", "delete alerts without a notification")
    discard.add_argument("names", metavar="NAME", nargs="*", help="as 'list' shows them")
    discard.add_argument("--dead", action="store_true", help="all that are dead")
    add("test", "send a test through every channel, and print what each answered")
    catalogue = add("catalogue", "list every alert that the platform can raise")
    catalogue.add_argument("--json", action="store_true", help="print a JSON document")
    catalogue.add_argument("--markdown", action="store_true", help="print docs/alerts.md")
    silence = add(
        "silence",
        "send no notification of some alerts for a while; without --for, list the silences",
    )
    silence.add_argument("pattern", metavar="FINGERPRINT", nargs="?", default="*",
                         help="which; * and ? stand for anything (default: all)")  # fmt: skip
    silence.add_argument(
        "--for", dest="seconds", default="", metavar="TIME", help="for how long: 30min, 2h, …"
    )
    silence.add_argument("--reason", default="", help="why; shown with the silence")
    silence.add_argument("--end", action="store_true", help="end the silences of FINGERPRINT")


def run(arguments: argparse.Namespace) -> int:
    """Do what is asked for."""
    actions: dict[str, Callable[[Paths, argparse.Namespace], int]] = {
        "list": _list,
        "show": _show,
        "history": _history,
        "export": alerts_export.run,
        "deliver": _deliver,
        "retry": _retry,
        "discard": _discard,
        "test": _test,
        "silence": _silence,
        "catalogue": _catalogue,
    }
    return actions[arguments.verb](find_paths(), arguments)


def _list(paths: Paths, arguments: argparse.Namespace) -> int:
    from edgepaas.alerts import counts
    from edgepaas.alerts.conditions.listing import list_conditions
    from edgepaas.alerts.delivery.dead_notifications import read_dead
    from edgepaas.alerts.spool.folders import SpoolFolders
    from edgepaas.files.local_time import people_time

    found = list_conditions(paths, everything=arguments.all)
    dead = read_dead(SpoolFolders(paths.alerts))
    if arguments.json:
        print_json(
            {"conditions": found, "dead": [notification.as_dict() for _, notification in dead]}
        )
        return EXIT_DONE
    at = people_time()
    rows = [
        (
            entry["state"],
            entry["severity"],
            at(entry["since_time"]),
            entry["count"],
            _delivered(entry),
            entry["name"],
            entry["message"].split("\n")[0][:80],
        )
        for entry in found
    ]
    rows += [
        ("dead", n.severity, "", n.count, "refused", path.stem, n.message.split("\n")[0][:80])
        for path, n in dead
    ]
    if rows:
        print_table(("STATE", "SEVERITY", "SINCE", "COUNT", "DELIVERED", "NAME", "MESSAGE"), rows)
    # As listed: the deliverer's own counts are those of its last run that ended.
    holding = [entry for entry in found if entry["state"] == "raised"]
    now = replace(
        counts(paths),
        open=len(holding),
        critical=sum(entry["severity"] == "critical" for entry in holding),
        waiting=sum(_delivered(entry) == "waits" or bool(entry["sending"]) for entry in found),
    )
    print(now.line() or "nothing is raised and nothing waits")
    return EXIT_DONE


def _delivered(entry: dict[str, Any]) -> str:
    """Return whether people were notified of a condition, and if not, why."""
    if entry["silenced_for"]:
        return "silenced"
    notified = entry["delivered"]
    if entry["undelivered"] > notified["missed"]:
        return "waits"
    if not notified["missed"]:
        return "yes"
    return "no: log only" if notified["unheard"] == "log" else "no: refused"


def _show(paths: Paths, arguments: argparse.Namespace) -> int:
    from edgepaas.alerts import history
    from edgepaas.alerts.conditions.listing import list_conditions
    from edgepaas.alerts.delivery.dead_notifications import read_dead
    from edgepaas.alerts.spool.folders import SpoolFolders

    name = arguments.name
    every = list_conditions(paths, everything=True)
    found = [e for e in every if name in (e["name"], e["fingerprint"])] or [
        e for e in every if e["name"].startswith(name)
    ]
    dead = [notification.as_dict() for path, notification in read_dead(SpoolFolders(paths.alerts))
            if path.stem.startswith(name)]  # fmt: skip
    condition = found[0]["name"] if found else name
    past = history.read(paths, limit=50, condition=condition) or history.read(
        paths, limit=50, fingerprint=name
    )
    if not (found or dead or past):
        raise UsageError(f"there is no alert {name}; 'edgepaas alerts list --all' lists them")
    document = {"conditions": found, "dead": dead, "history": past}
    if arguments.json:
        print_json(document)
        return EXIT_DONE
    for entry in (*found, *dead):
        print_json(entry)
    _print_history(past)
    return EXIT_DONE


def _history(paths: Paths, arguments: argparse.Namespace) -> int:
    from edgepaas.alerts import history

    entries = history.read(paths, limit=max(1, arguments.limit))
    if arguments.json:
        print_json(entries)
    else:
        _print_history(entries)
    return EXIT_DONE


def _print_history(entries: list[dict[str, object]]) -> None:
    from edgepaas.files.local_time import people_time

    at = people_time()
    print_table(
        ("TIME", "WHAT", "SEVERITY", "COUNT", "VIA", "NAME", "MESSAGE"),
        [
            (
                at(entry.get("time", "")),
                _what(entry),
                entry.get("severity", ""),
                entry.get("count", ""),
                entry.get("via", ""),
                entry.get("condition", ""),
                str(entry.get("message", "")).split("\n")[0][:80],
            )
            for entry in entries
        ],
    )


def _what(entry: dict[str, object]) -> str:
    """Return what happened, as people read it."""
    return f"{entry.get('what')} {entry.get('notice', '')}".strip()


def _deliver(paths: Paths, arguments: argparse.Namespace) -> int:
    from edgepaas.alerts.delivery.run import deliver_once, watch
    from edgepaas.logs import configure_logging

    configure_logging(file=paths.log_file if paths.log_file.exists() else None)
    if arguments.watch:
        return watch(paths, lifeline=arguments.lifeline)
    report = deliver_once(paths)
    waits = f", {report.waiting} wait for delivery" if report.waiting else ""
    logged = f", {report.logged} in the log alone: no channel is set up" if report.logged else ""
    say("alerts", f"{report.delivered} delivered{waits}{logged}")
    return EXIT_DONE


def _retry(paths: Paths, _: argparse.Namespace) -> int:
    from edgepaas.alerts.delivery.operator_actions import retry

    report = retry(paths)
    say("alerts", f"{report.delivered} delivered, {report.waiting} wait, {report.dead} dead")
    for name, words in report.answers.items():
        say(name, words)
    return EXIT_DONE if not (report.waiting or report.dead) else EXIT_FAILED


def _discard(paths: Paths, arguments: argparse.Namespace) -> int:
    from edgepaas.alerts.delivery.operator_actions import discard

    if not (arguments.names or arguments.dead):
        raise UsageError("name what is to be deleted, as 'edgepaas alerts list' shows it")
    for name in discard(paths, arguments.names, all_dead=arguments.dead):
        say("discarded", name)
    return EXIT_DONE


def _test(paths: Paths, _: argparse.Namespace) -> int:
    from edgepaas.alerts.channels.table import CHANNELS
    from edgepaas.alerts.delivery.operator_actions import try_channels

    answers = try_channels(paths)
    if not answers:
        ways = ", or ".join(" and ".join(channel.needs) for channel in CHANNELS)
        say("alerts", f"no channel is configured: alerts are in the log alone; set {ways}")
        return EXIT_FAILED
    for name, answer in answers.items():
        say(name, f"{'ok' if answer.kind == 'taken' else 'FAILED'}: {answer.words}")
    return EXIT_DONE if all(a.kind == "taken" for a in answers.values()) else EXIT_FAILED


def _catalogue(_: Paths, arguments: argparse.Namespace) -> int:
    from edgepaas.alerts.catalogue import CATALOGUE
    from edgepaas.alerts.catalogue_reference import as_documents, markdown_reference

    if arguments.markdown:
        print(markdown_reference(), end="")
    elif arguments.json:
        print_json(as_documents())
    else:
        print_table(
            ("FINGERPRINT", "KIND", "SEVERITY", "WHAT HAPPENED"),
            [(one.pattern, one.kind, one.severity, one.what_happened) for one in CATALOGUE],
        )
    return EXIT_DONE


def _silence(paths: Paths, arguments: argparse.Namespace) -> int:
    from edgepaas.alerts.conditions.silences import (
        LONGEST,
        add_silence,
        end_silences,
        read_silences,
    )
    from edgepaas.alerts.spool.folders import SpoolFolders
    from edgepaas.settings.kinds import Malformed, Setting
    from edgepaas.timing.moment import current_moment

    folders, now = SpoolFolders(paths.alerts), current_moment()
    if arguments.end:
        say("silence", f"{end_silences(folders, arguments.pattern, now)} ended")
        return EXIT_DONE
    if not arguments.seconds:
        for silence in read_silences(folders, now):
            entry = silence.as_dict()
            say(entry["id"], f"{entry['pattern']} until {entry['until']} {entry['reason']}")
        return EXIT_DONE
    length = Setting("--for", "seconds", "", "", minimum=1, maximum=LONGEST)
    try:
        seconds = float(length.read(arguments.seconds))
    except Malformed as error:
        raise UsageError(f"--for {arguments.seconds} {error}; allowed: {length.allowed}") from None
    silence = add_silence(folders, arguments.pattern, seconds, arguments.reason, now)
    entry = silence.as_dict()
    say("silence", f"{entry['id']}: no notification of {entry['pattern']} until {entry['until']}")
    return EXIT_DONE
