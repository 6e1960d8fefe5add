"""``edgepaas status``: in which state the box is, and why; for anybody on the box."""

import argparse
import contextlib
import http.client
import json
import socket
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
_NO_URL = "--url {}: an address like http://127.0.0.1:8080 is needed"
_MOST_BYTES = 1024 * 1024

#: What a person reads instead of an exception's text; the first that fits.
_WORDS: tuple[tuple[tuple[type[Exception], ...], str], ...] = (
    ((ConnectionRefusedError,), "nothing listens there"),
    ((socket.gaierror,), "the name cannot be resolved"),
    ((TimeoutError,), f"no answer within {_TIMEOUT:g} s"),
    ((ConnectionError,), "the connection was closed without an answer"),
    (
        (http.client.HTTPException, json.JSONDecodeError, UnicodeDecodeError),
        "what answers there is no EdgePaaS",
    ),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("--json", action="store_true", help="print a JSON document")
    parser.add_argument("--url", default="", help="where the service listens (default: as set)")


def run(arguments: argparse.Namespace) -> int:
    """Print the state; 0 when the box is ready."""
    paths = find_paths()
    url = _given(arguments.url) or _address(paths)
    document: dict[str, Any] = {"url": url, "answers": False, "ready": False}
    try:
        status, found = _ask(url)
        document |= found | {"answers": True, "ready": status == http.client.OK}
    except (OSError, http.client.HTTPException, ValueError) as error:
        document["problem"] = _in_words(error)
        document |= _from_contracts(paths)
    if "rows_waiting" not in document and (waiting := _rows_waiting(paths)) is not None:
        document["rows_waiting"] = waiting
    if arguments.json:
        print_json(document)
    else:
        _show(document)
    return EXIT_DONE if document["ready"] else EXIT_FAILED


def _given(text: str) -> str:
    """Return --url as an URL; raises UsageError for what is none."""
    if not text:
        return ""
    parts = urllib.parse.urlsplit(text if "://" in text else f"//{text}")
    try:
        port = parts.port
    except ValueError:  # no number, or none that a port can have
        raise UsageError(_NO_URL.format(text)) from None
    # A bare word is more likely to be a slip than the name of a host with a service on 80.
    if parts.scheme not in ("", "http") or not parts.hostname or not (parts.scheme or port):
        raise UsageError(_NO_URL.format(text))
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"http://{host}:{port}" if port else f"http://{host}"


def _in_words(error: Exception) -> str:
    for kinds, words in _WORDS:
        if isinstance(error, kinds):
            return words
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    return str(error)


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
    parts = urllib.parse.urlsplit(url)
    connection = http.client.HTTPConnection(
        parts.hostname or "", parts.port or 80, timeout=_TIMEOUT
    )
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
    from edgepaas.decision.waiting import rows_not_in_postgres

    try:
        contract = DatabaseContract.read(paths.db_contract)
    except EdgePaaSError:
        return None
    waiting = rows_not_in_postgres(contract)
    # Where they cannot be counted now: what the decision counted.
    return contract.rows_waiting if waiting is None else waiting


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
    # Without a hub there is nowhere that rows could be waiting to go.
    if document.get("rows_waiting") or (
        "rows_waiting" in document and document.get("mode", "standalone") != "standalone"
    ):
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
