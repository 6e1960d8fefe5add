"""``edgepaas status``: in which state the box is, and why; for anybody on the box."""

import argparse
import contextlib
import http.client
import json
import urllib.parse
from typing import Any

from edgepaas.cli.output import print_json, say
from edgepaas.errors import EXIT_DONE, EXIT_FAILED, EdgePaaSError, UsageError
from edgepaas.files.paths import Paths, find_paths

DESCRIPTION = """\
Ask the running service over loopback in which state the box is, and show it. Where it
does not answer, show what the contracts in run/ say, as far as this user may read them.

exit status: 0 the box is ready, 1 it is not, or does not answer.
"""

#: Everybody may ask; the service answers over HTTP.
NEEDS_SERVICE_USER = False

_TIMEOUT = 5.0
_MOST_BYTES = 1024 * 1024


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("--json", action="store_true", help="print a JSON document")
    parser.add_argument("--url", default="", help="where the service listens (default: as set)")


def run(arguments: argparse.Namespace) -> int:
    """Print the state; 0 when the box is ready."""
    paths = find_paths()
    url = arguments.url.rstrip("/") or _address(paths)
    document: dict[str, Any] = {"url": url, "answers": False, "ready": False}
    try:
        status, found = _ask(url)
        document |= found | {"answers": True, "ready": status == http.client.OK}
    except (OSError, http.client.HTTPException, ValueError) as error:
        document["problem"] = str(error) or type(error).__name__
        document |= _from_contracts(paths)
    waiting = _rows_waiting(paths)
    if waiting is not None:
        document["rows_waiting"] = waiting
    if arguments.json:
        print_json(document)
    else:
        _show(document)
    return EXIT_DONE if document["ready"] else EXIT_FAILED


def _address(paths: Paths) -> str:
    from edgepaas.settings import Settings

    with contextlib.suppress(OSError, ValueError):  # never served yet
        address = paths.address.read_text(encoding="ascii").strip()
        if address.startswith("http://"):
            return address
    try:
        settings = Settings.read(paths.env_contract)
    except EdgePaaSError:
        # Another user's contract, or none yet: where it listens unless told otherwise.
        settings = Settings.of()
    host = settings.text("HOST")
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return (
        f"http://[{host}]:{settings.text('PORT')}"
        if ":" in host
        else (f"http://{host}:{settings.text('PORT')}")
    )


def _ask(url: str) -> tuple[int, dict[str, Any]]:
    parts = urllib.parse.urlsplit(url if "//" in url else f"//{url}")
    if parts.scheme not in ("", "http") or not parts.hostname:
        raise UsageError(f"--url {url}: an address like http://127.0.0.1:8080 is needed")
    connection = http.client.HTTPConnection(parts.hostname, parts.port or 80, timeout=_TIMEOUT)
    try:
        connection.request("GET", "/health/ready", headers={"Accept": "application/json"})
        answer = connection.getresponse()
        found = json.loads(answer.read(_MOST_BYTES))
    finally:
        connection.close()
    if not isinstance(found, dict) or "state" not in found:
        said = found.get("message", "") if isinstance(found, dict) else ""
        raise ValueError(f"status {answer.status}, which says nothing of a state {said}".strip())
    return answer.status, found


def _from_contracts(paths: Paths) -> dict[str, Any]:
    """Return what the decision said and how often the service failed, where that is readable."""
    from edgepaas.decision.contract import DatabaseContract

    found: dict[str, Any] = {}
    try:
        contract = DatabaseContract.read(paths.db_contract)
        found |= {"mode": contract.db_state, "reasons": [contract.reason]}
    except EdgePaaSError as error:
        found["reasons"] = [str(error)]
    try:
        found["failures"] = int(json.loads(paths.crash_loop.read_text())["failures"])
    except (OSError, ValueError, KeyError, TypeError):
        found["failures"] = 0
    return found


def _rows_waiting(paths: Paths) -> int | None:
    from edgepaas.decision.contract import DatabaseContract
    from edgepaas.decision.waiting import rows_waiting

    try:
        waiting = rows_waiting(DatabaseContract.read(paths.db_contract).sqlite_path)
    except EdgePaaSError:
        return None
    return waiting.rows if waiting.readable else None


def _show(document: dict[str, Any]) -> None:
    if document["answers"]:
        since = f" since {document['since']}" if document.get("since") else ""
        say("state", f"{document['state']}{since}")
    else:
        say("state", f"does not answer on {document['url']}: {document['problem']}")
    for reason in document.get("reasons", []):
        say("why", reason)
    for check in document.get("checks", []):
        word = "ok" if check["ok"] else "FAILED" if check["required"] else "away"
        say("check", f"{check['name']}: {word}: {check['message']}")
    if "database" in document:
        say("database", f"{document['database']} ({document.get('mode', '')})")
    if "rows_waiting" in document:
        say("waiting", f"{document['rows_waiting']} rows to be sent")
    if document.get("build_version"):
        say("build", str(document["build_version"]))
    if document["answers"]:
        say("address", document["url"])
    else:
        if document["failures"]:
            say("failures", f"{document['failures']} in a row")
        say("to do", "'systemctl status edgepaas' or 'journalctl -u edgepaas' on an installed box;")
        say("", "'make run' or 'edgepaas up' in a checkout; 'edgepaas doctor' looks for causes")
