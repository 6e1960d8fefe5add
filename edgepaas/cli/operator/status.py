# SPDX-License-Identifier: Apache-2.0
"""``edgepaas status``: the state of the box and the reasons; for every user of the box."""

import argparse
import json
import urllib.parse
from typing import Any

from edgepaas.alerts import counts
from edgepaas.errors import EXIT_DONE, EXIT_FAILED, EdgePaaSError, UsageError
from edgepaas.files.paths import Paths, find_paths
from edgepaas.terminal import print_json, say

DESCRIPTION = """\
Ask the running service over loopback for the state of the box, and show it. If it does not
answer, show what the contract files in run/ contain, as far as this user may read them.

exit status: 0 the box is ready, 1 it is not, or does not answer.
"""

#: Any user may run it: the service answers over HTTP.
NEEDS_SERVICE_USER = False

_TIMEOUT = 5.0
_NO_URL = "--url {}: an address like http://127.0.0.1:8080 is needed"
_NOT_OURS = "another program answers there, not EdgePaaS"

#: What a person reads of why there is no answer; else the failure's own message.
_FAILURES = {
    "refused": "nothing listens there",
    "name": "the name cannot be resolved",
    "closed": "the connection was closed without an answer",
    "protocol": _NOT_OURS,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("--json", action="store_true", help="print a JSON document")
    parser.add_argument(
        "--addresses", action="store_true", help="print where the box is reached, and no more"
    )
    parser.add_argument("--url", default="", help="where the service listens (default: as set)")


def run(arguments: argparse.Namespace) -> int:
    """Print the state; 0 when the box is ready."""
    from edgepaas.settings.own_url import listens_on_the_box_alone, network_urls, own_url

    paths = find_paths()
    if arguments.addresses:
        print("\n".join(network_urls(paths) or [own_url(paths)]))
        return EXIT_DONE
    url = _given(arguments.url) or own_url(paths)
    document: dict[str, Any] = {"url": url, "answers": False, "ready": False}
    if not arguments.url:
        document["addresses"] = network_urls(paths)
        document["box_alone"] = listens_on_the_box_alone(paths)
    try:
        status, found = _ask(url)
        document |= found | {"answers": True, "ready": status == 200}
    except _NoState as problem:
        document["problem"] = str(problem)
        document |= _from_contracts(paths)
    forwarding = document.get("forwarding") or _forwarding(paths)
    if forwarding is not None:
        document |= {"forwarding": forwarding, "rows_waiting": forwarding["rows_waiting"]}
    elif (waiting := _rows_waiting(paths)) is not None:
        document["rows_waiting"] = waiting
    if "alerts" not in document:  # no answer: counted in the spool
        document["alerts"] = counts(paths).as_dict()
    if arguments.json:
        print_json(document)
    else:
        _show(document)
    return EXIT_DONE if document["ready"] else EXIT_FAILED


def _given(text: str) -> str:
    """Return --url as a URL; raises UsageError for an invalid one."""
    if not text:
        return ""
    parts = urllib.parse.urlsplit(text if "://" in text else f"//{text}")
    try:
        port = parts.port
    except ValueError:  # not a number, or out of range
        raise UsageError(_NO_URL.format(text)) from None
    # A single word is more likely a mistake than the name of a host with a service on port 80.
    if parts.scheme not in ("", "http") or not parts.hostname or not (parts.scheme or port):
        raise UsageError(_NO_URL.format(text))
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"http://{host}:{port}" if port else f"http://{host}"


class _NoState(Exception):
    """The service does not say in which state it is; the message says why."""


def _ask(url: str) -> tuple[int, dict[str, Any]]:
    """Return the status and the document of ``/health/ready``; raises _NoState."""
    # The standard library's transport: this command is to answer at once.
    from edgepaas.http_client import HttpFailure, fetch

    try:
        answer = fetch(
            "GET",
            f"{url}/health/ready",
            deadline=_TIMEOUT,
            headers={"Accept": "application/json"},
        )
        found = json.loads(answer.body)
    except HttpFailure as failure:
        raise _NoState(_FAILURES.get(failure.kind, str(failure))) from None
    except (ValueError, RecursionError):
        raise _NoState(_NOT_OURS) from None
    if not isinstance(found, dict) or "state" not in found:
        message = found.get("message", "") if isinstance(found, dict) else ""
        raise _NoState(f"status {answer.status} without a state {message}".strip())
    return answer.status, found


def _from_contracts(paths: Paths) -> dict[str, Any]:
    """Return the decision and how often the service failed, as far as it is readable."""
    from edgepaas.decision.contract import DatabaseContract
    from edgepaas.service.crash_loop import RECORD

    found: dict[str, Any] = {}
    try:
        contract = DatabaseContract.read(paths.db_contract)
        found |= {"mode": contract.db_state, "reasons": [contract.reason]}
    except EdgePaaSError as error:
        found["reasons"] = [str(error)]
    crashes = RECORD.read_or_none(paths.crash_loop)
    found["failures"] = 0 if crashes is None else crashes["failures"]
    return found


def _forwarding(paths: Paths) -> dict[str, Any] | None:
    """Return what the drainer wrote, as the service does not answer; None: unknown."""
    from edgepaas.decision.contract import DatabaseContract
    from edgepaas.health.forwarding import current_forwarding

    try:
        found = current_forwarding(paths, DatabaseContract.read(paths.db_contract))
    except EdgePaaSError:
        return None
    return found.as_dict() if found is not None and found.running else None


def _rows_waiting(paths: Paths) -> int | None:
    from edgepaas.decision.contract import DatabaseContract
    from edgepaas.decision.waiting import rows_not_in_postgres

    try:
        contract = DatabaseContract.read(paths.db_contract)
    except EdgePaaSError:
        return None
    waiting = rows_not_in_postgres(contract)
    # If they cannot be counted now: as many as the decision counted.
    return contract.rows_waiting if waiting is None else waiting


def _show(document: dict[str, Any]) -> None:
    from edgepaas.files.local_time import people_time

    if document["answers"]:
        since = f" since {people_time()(document['since'])}" if document.get("since") else ""
        say("state", f"{document['state']}{since}")
    else:
        say("state", f"does not answer on {document['url']}: {document['problem']}")
    for reason in document.get("reasons", []):
        say("why", reason)
    for check in document.get("checks", []):
        if check["name"] == "forwarding":
            continue  # printed by _show_forwarding
        word = "ok" if check["ok"] else "FAILED" if check["required"] else "warning"
        say("check", f"{check['name']}: {word}: {check['message']}")
    if "database" in document:
        say("database", f"{document['database']} ({document.get('mode', '')})")
    _show_forwarding(document)
    _show_alerts(document["alerts"])
    if document.get("build_version"):
        say("build", str(document["build_version"]))
    if document["answers"]:
        _show_addresses(document)
    else:
        if document["failures"]:
            say("failures", f"{document['failures']} in a row")
        say("to do", "'systemctl status edgepaas' or 'journalctl -u edgepaas' on an installed box;")
        say("", "'make run' or 'edgepaas up' in a checkout; 'edgepaas doctor' looks for the cause")


def _show_addresses(document: dict[str, Any]) -> None:
    """Show where other machines reach the box, else where programs of the box do."""
    found = document.get("addresses")
    for url in found or [document["url"]]:
        say("address", url)
    if found == []:
        why = "as HOST says" if document["box_alone"] else "since it has no network at the moment"
        say("", f"for programs of this box alone, {why}")


def _show_forwarding(document: dict[str, Any]) -> None:
    from edgepaas.files.local_time import people_time
    from edgepaas.outbox.forwarding_state import display_lines

    found = document.get("forwarding")
    if not found:
        # Without a hub no rows wait.
        if document.get("rows_waiting"):
            say("waiting", f"{document['rows_waiting']:,} rows to be sent")
        return
    at = people_time()
    for label, text in display_lines(found):
        say(label, at(text) if label == "since" else text)


def _show_alerts(found: dict[str, Any]) -> None:
    from edgepaas.alerts.status import AlertCounts

    known = AlertCounts().as_dict().keys() & found.keys()
    if line := AlertCounts(**{name: found[name] for name in known}).line():
        say("alerts", f"{line}; 'edgepaas alerts list'")
