# SPDX-License-Identifier: Apache-2.0
"""``edgepaas telemetry delete``: readings deleted for good, with who and why."""

import argparse
import json
from pathlib import Path
from typing import Any

from edgepaas.app.commands import box_address, box_token, print_json
from edgepaas.app.errors import EXIT_DONE, EdgePaaSError, UsageError
from edgepaas.app.http import HttpFailure, HttpSession

_PATH = "/api/v1/readings/deletions"
_DEADLINE = 120.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.epilog = "exit status: 0 done, 1 failed, 2 usage"
    add = parser.add_argument
    add("--reason", required=True, help="why; kept for ever with what is deleted")
    add("--id", action="append", metavar="ID", help="id of a reading; may be given several times")
    add("--device", help="readings of this device, with --metric and --expect")
    add("--metric", help="readings of this metric")
    add("--from", dest="since", metavar="T", help="recorded at this moment or later")
    add("--to", dest="until", metavar="T", help="recorded before this moment")
    add(
        "--expect",
        type=int,
        metavar="N",
        help="how many these are; without it their number is shown and none is deleted",
    )
    add("--url", help="the box (default: this one, http://127.0.0.1 with its PORT)")
    add("--token-file", type=Path, metavar="F", help="file that holds an API token")
    add("--json", action="store_true", help="print the result as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Delete the readings, or show how many they are; return the exit status."""
    from edgepaas.telemetry.importer.command import read_token

    token = read_token(arguments.token_file)
    if token is None and not arguments.url:
        token = box_token() or None  # of this box, which no other one is shown
    body = _body(arguments)
    status, answer = _post(arguments.url or box_address(), token, body)
    if status != 201:
        raise EdgePaaSError(_problem(status, answer))
    numbers = {name: int(answer[name]) for name in ("deleted", "missing", "matching")}
    if arguments.json:
        print_json(numbers)
    elif "ids" in body or "expected" in body:
        missing = f", {numbers['missing']} not there" if numbers["missing"] else ""
        print(f"{numbers['deleted']} deleted{missing}")
    else:
        number = numbers["matching"]
        print(f"{number} match, none was deleted: --expect {number} deletes them")
    return EXIT_DONE


def _body(arguments: argparse.Namespace) -> dict[str, Any]:
    if arguments.id:
        if arguments.device or arguments.metric:
            raise UsageError("--id names readings; --device and --metric select them: give one")
        return {"reason": arguments.reason, "ids": arguments.id}
    if not (arguments.device and arguments.metric):
        raise UsageError("give --id, or --device and --metric")
    body = {
        "reason": arguments.reason,
        "device": arguments.device,
        "metric": arguments.metric,
        "from": arguments.since,
        "to": arguments.until,
        "expected": arguments.expect,
    }
    return {name: value for name, value in body.items() if value is not None}


def _post(url: str, token: str | None, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    headers = {"Content-Type": "application/json"}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    path = _PATH if "ids" in body else f"{_PATH}/selected"
    session = HttpSession(proxies=False, headers=headers)
    base = url.rstrip("/")
    try:
        answer = session.request(
            "POST", f"{base}{path}", deadline=_DEADLINE, body=json.dumps(body).encode()
        )
        found = json.loads(answer.body)
    except HttpFailure as failure:
        raise EdgePaaSError(
            f"{base}: no answer ({failure}); whether it was deleted shows GET {_PATH}"
        ) from failure
    except ValueError:
        found = {}
    return answer.status, found if isinstance(found, dict) else {}


def _problem(status: int, answer: dict[str, Any]) -> str:
    said = f"the box answered {status}: {answer.get('message', 'no reason')}"
    details = answer.get("details")
    if isinstance(details, list):
        said = "; ".join([said, *(f"{one.get('path')}: {one.get('message')}" for one in details)])
    if status in (401, 403):
        said += (
            "; run it as root on the box itself (sudo), or make a token with "
            "'edgepaas token create NAME' and name its file: --token-file"
        )
    return said
