# SPDX-License-Identifier: Apache-2.0
"""Receivers that take what the services of their name take, and answer in their words.

Each is a reply for :class:`tests.support.receivers.Receiver`; what it took is in ``taken`` of
the receiver, as a person would see it there.
"""

import json
from collections.abc import Callable
from typing import Any

from tests.support.receivers import Handler, Receiver

Answer = tuple[int, str, str]

_TEXT, _JSON = "text/plain;charset=utf-8", "application/json"


def _slack(_: str, headers: dict[str, str], body: bytes) -> tuple[Answer, str]:
    if not headers["content-type"].startswith("application/json"):
        return (400, _TEXT, "invalid_payload"), ""
    said = json.loads(body).get("text", "")
    return ((200, _TEXT, "ok"), said) if said else ((400, _TEXT, "no_text"), "")


def _discord(_: str, headers: dict[str, str], body: bytes) -> tuple[Answer, str]:
    said = json.loads(body).get("content", "")
    if not 1 <= len(said) <= 2000:
        return (400, _JSON, '{"content": ["Must be 2000 or fewer in length."]}'), ""
    return (204, _JSON, ""), said


def _card(body: bytes) -> str:
    document = json.loads(body)
    (attachment,) = document["attachments"]
    card = attachment["content"]
    assert document["type"] == "message"
    assert attachment["contentType"] == "application/vnd.microsoft.card.adaptive"
    assert card["type"] == "AdaptiveCard"
    lines = []
    for block in card["body"]:
        # A TextBlock reads Markdown; the runs of a RichTextBlock are text.
        assert block["type"] == "RichTextBlock"
        assert all(run["type"] == "TextRun" for run in block["inlines"])
        lines.append("".join(run["text"] for run in block["inlines"]))
    return "\n".join(lines)


def _teams_connector(_: str, headers: dict[str, str], body: bytes) -> tuple[Answer, str]:
    return (200, _TEXT, "1"), _card(body)


def _teams_workflow(_: str, headers: dict[str, str], body: bytes) -> tuple[Answer, str]:
    return (202, _TEXT, ""), _card(body)


def _ntfy(path: str, headers: dict[str, str], body: bytes) -> tuple[Answer, str]:
    if len(body) > 4096 or path.strip("/").count("/"):
        return (400, _JSON, '{"code":40000,"http":400,"error":"invalid request"}'), ""
    event = {"id": "xE73Iyuabi", "time": 1, "event": "message", "topic": path.strip("/")}
    return (200, _JSON, json.dumps(event)), f"{headers['x-title']}\n{body.decode()}"


def _pagerduty(_: str, headers: dict[str, str], body: bytes) -> tuple[Answer, str]:
    event = json.loads(body)
    if event.get("routing_key") != "R0UT1NGKEY":
        report = {"status": "invalid event", "message": "Event object is invalid"}
        return (400, _JSON, json.dumps({**report, "errors": ["'routing_key' is invalid"]})), ""
    assert event["payload"]["severity"] in ("critical", "error", "warning", "info")
    report = {"status": "success", "message": "Event processed", "dedup_key": event["dedup_key"]}
    said = f"{event['event_action']} {event['dedup_key']} {event['payload']['summary']}"
    return (202, _JSON, json.dumps(report)), said


def _alertmanager(_: str, headers: dict[str, str], body: bytes) -> tuple[Answer, str]:
    alerts = json.loads(body)
    if not isinstance(alerts, list) or not all(alert["labels"] for alert in alerts):
        return (400, _JSON, '{"code":601,"message":"bad data"}'), ""
    for alert in alerts:
        if alert.get("startsAt", "") > alert.get("endsAt", "9"):
            return (400, _JSON, '"start time must be before end time"'), ""
    return (200, _JSON, ""), json.dumps(alerts)


KNOWN: dict[str, Callable[[str, dict[str, str], bytes], tuple[Answer, str]]] = {
    "slack": _slack,
    "discord": _discord,
    "teams connector": _teams_connector,
    "teams workflow": _teams_workflow,
    "ntfy": _ntfy,
    "pagerduty": _pagerduty,
    "alertmanager": _alertmanager,
}


def as_known(name: str, taken: list[str]) -> Callable[[Receiver, Handler], None]:
    """Return a reply that judges the request as *name* does; *taken* has what a person sees."""

    def reply(receiver: Receiver, handler: Handler) -> None:
        request = receiver.requests[-1]
        (status, kind, said), seen = KNOWN[name](request.path, request.headers, request.body)
        if seen:
            taken.append(seen)
        answer_with(handler, status, said, kind)

    return reply


def answer_with(handler: Any, status: int, said: str, kind: str = _TEXT) -> None:
    """Answer with this status and body."""
    handler.send_response_only(status)
    handler.send_header("Content-Type", kind)
    handler.send_header("Content-Length", str(len(said.encode())))
    handler.end_headers()
    handler.wfile.write(said.encode())
