# SPDX-License-Identifier: Apache-2.0
"""Alerting with one promise broken on purpose is found out by what the receivers have."""

import logging
import re
import socket
from collections.abc import Iterator
from dataclasses import replace
from email.message import EmailMessage
from email.policy import SMTP
from pathlib import Path
from typing import Any

import pytest

from edgepaas.alerts import history
from edgepaas.alerts.channels import (
    channel_failover,
    http_answers,
    smtp,
    webhook,
    wording,
)
from edgepaas.alerts.channels.email_channel import EmailChannel
from edgepaas.alerts.channels.formats import webhook_format
from edgepaas.alerts.channels.webhook import WebhookChannel
from edgepaas.alerts.channels.webhook_formats import find_format
from edgepaas.alerts.channels.wording import BoxIdentity
from edgepaas.alerts.conditions.notification_policy import after_notification
from edgepaas.alerts.delivery import deliver
from edgepaas.files.paths import Paths, find_paths
from edgepaas.health import alerting
from edgepaas.health.checks import CheckFailed
from edgepaas.http_client import racing
from edgepaas.logs import redact
from edgepaas.settings import Settings
from tests.support.alert_box import AlertBox, make_config
from tests.support.known_receivers import answer_with
from tests.support.receivers import Handler, Receiver, mail_server, receiving, swallowing

TWINS = (BoxIdentity("box-7", "1", node="0a1b2c3d"), BoxIdentity("box-7", "1", node="4e5f6a7b"))
SECRET = "T0AB/xYz9SecretPart"
#: A passing fault of each kind, as Teams' connector, a proxy and a changed token make them.
FAULTS = (
    (200, "Webhook message delivery failed with error: returned HTTP error 429"),
    *[(404, f"Cannot POST /{SECRET}")] * 3,
    (401, "unauthorized"),
    (400, "bad payload"),
)
NAME = "pump =?utf-8?q?x=0D=0ABcc:_evil=40example.org?="


class Chat:
    """Teams' connector, ill for a while: ``heard`` is what people see there."""

    def __init__(self, *faults: tuple[int, str]) -> None:
        self.faults = list(faults)
        self.heard: list[str] = []

    def __call__(self, receiver: Receiver, handler: Handler) -> None:
        if self.faults:
            answer_with(handler, *self.faults.pop(0), "text/plain")
            return
        card = receiver.requests[-1].document["attachments"][0]["content"]
        self.heard.append(card["body"][0]["inlines"][0]["text"])
        answer_with(handler, 200, "1", "text/plain")


def new_box(home: Path, *channels: Any) -> AlertBox:
    paths = find_paths({"EDGEPAAS_HOME": str(home)})
    paths.create()
    config = replace(make_config(channels=channels), box=TWINS[0])
    return AlertBox(paths, config=config)


def chat_channel(url: str) -> WebhookChannel:
    return WebhookChannel(url, find_format("teams", url), "", 3.0)


def mail_channel(host: str, port: int) -> EmailChannel:
    sender, to = "edgepaas@plant.example", ("anna@example.org",)
    return EmailChannel(host, port, "none", "", "", sender, to, 1.5)


def boiler_difference(home: Path, chat: Chat) -> Iterator[str]:
    """The alarm of a boiler, and its end, through a *chat* that is ill for a while."""
    kept = ""
    with receiving(chat) as receiver:
        box = new_box(home, chat_channel(receiver.url.replace("hook", SECRET)))
        box.accept("the boiler is dry", severity="critical", fingerprint="boiler")
        for _ in range(len(chat.faults) + 1):
            box.deliverer_of_channels().run()
            box.clock.forward(3600)
            kept += "".join(path.read_text() for path in box.paths.alerts.rglob("*.json*"))
        heard = len(chat.heard)
        box.resolve("boiler", "there is water")
        box.deliverer_of_channels().run()
    entries = [entry for entry in history.read(box.paths) if entry["what"] == "delivered"]
    if len(entries) != len(chat.heard):
        yield f"{len(entries)} count as delivered, {len(chat.heard)} were heard"
    if not any("boiler is dry" in line or "PASSED" in line for line in chat.heard):
        yield "nobody heard of the boiler"
    if not heard and any("RESOLVED" in line for line in chat.heard):
        yield "the end of what nobody had heard of"
    if "9SecretPart" in kept:
        yield "the address is in the spool"


def no_channel_difference(home: Path) -> Iterator[str]:
    box = new_box(home)
    box.accept("the boiler is dry", severity="critical", fingerprint="boiler")
    box.deliver()
    if not box.waiting("boiler"):
        yield "without a channel it counts as told"


def mail_difference(home: Path, names: pytest.MonkeyPatch) -> Iterator[str]:
    """A mail server that wants names with a dot, behind a name whose first address is dead."""
    with swallowing() as dead, mail_server(dotted=True) as mails, names.context() as patched:
        places = [dead, ("127.0.0.1", mails.port)]
        found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", place) for place in places]
        patched.setattr(socket, "getaddrinfo", lambda *_, **__: found)
        patched.setattr(socket, "gethostname", lambda: "edge1")
        box = new_box(home, mail_channel("mail.test", mails.port))
        for identity in TWINS:
            box.config = replace(box.config, box=identity)
            box.accept(NAME, severity="critical", fingerprint=identity.node)
            box.deliverer_of_channels().run()
            box.clock.forward(3600)
    if len(mails.mails) != len(TWINS):
        yield f"{len(mails.mails)} of {len(TWINS)} mails arrived"
    if any("bcc" in {name.lower() for name in mail} for mail in mails.mails):
        yield "a name added a header"
    if len({str(mail["Subject"]) for mail in mails.mails}) != len(mails.mails):
        yield "one subject for two boxes"


def masked_difference(home: Path) -> Iterator[str]:
    box = new_box(home)
    (home / "edgepaas-alerts.service").symlink_to("/dev/null")
    settings = Settings.of(ALERT_WEBHOOK_URL="http://127.0.0.1:9/x")
    try:
        alerting.DeliveryWatch(box.paths, settings, unit_folders=(home,))()
    except CheckFailed:
        return
    yield "a masked deliverer is not noticed"


def masking_difference(names: pytest.MonkeyPatch) -> Iterator[str]:
    with names.context() as patched:
        patched.setattr(redact, "_secrets", {"edge", "hunter2"})
        patched.setattr(redact, "_patterns", {})
        said = redact.redact("edgepaas: login with hunter2 failed")
    if said != "edgepaas: login with **** failed":
        yield f"the log has: {said}"


def difference(home: Path, names: pytest.MonkeyPatch) -> list[str]:
    """Return where what the box says and what its receivers have differ."""
    return [
        *boiler_difference(home / "passing", Chat(*FAULTS)),
        *boiler_difference(home / "refused", Chat(*[(413, "too large")] * 3)),
        *no_channel_difference(home / "mute"),
        *mail_difference(home / "mail", names),
        *masked_difference(home / "masked"),
        *masking_difference(names),
    ]


def by_status_alone(self: Any, status: int, headers: Any, body: bytes) -> Any:
    return http_answers.judge_by(status, headers, body, lambda *_: False)


def given_up_is_told(condition: Any, notification: Any, _unheard: Any, now: Any) -> Any:
    return after_notification(condition, notification, now)


def by_the_email_package(config: Any, notification: Any, box: Any) -> bytes:
    mail = EmailMessage()
    mail["Subject"] = wording.title(notification, box)
    mail["From"], mail["To"] = config.sender, config.to
    mail.set_content("dry")
    return mail.as_bytes(policy=SMTP)


WEAKNESSES: dict[str, tuple[Any, str, Any]] = {
    "any 200 is taken": (webhook_format.WebhookFormat, "judge", by_status_alone),
    "a 404 is the message's fault": (http_answers, "_OF_THE_MESSAGE", (400, 404, 413)),
    "one refusal is believed": (channel_failover, "_REFUSALS", 1),
    "given up is told": (deliver, "after_unheard", given_up_is_told),
    "one address after the other": (racing, "_HEAD_START", 60.0),
    "greets with the host's name": (smtp, "_own_name", lambda _: socket.gethostname()),
    "subjects of the email package": (smtp, "compose_mail", by_the_email_package),
    "boxes by their name": (wording.BoxIdentity, "label", property(lambda self: self.name)),
    "answers as they come": (webhook, "foreign_text", lambda text, *_: text),
    "masks looked at by nobody": (alerting, "masked_units", lambda *_: []),
    "masking by letters": (redact, "_alone", re.escape),
}


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    logging.getLogger("edgepaas.alerts").setLevel(logging.CRITICAL)
    yield
    logging.getLogger("edgepaas.alerts").setLevel(logging.NOTSET)


def test_the_real_alerting_adds_up(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    assert difference(Path(paths.home), monkeypatch) == []


@pytest.mark.parametrize("name", WEAKNESSES)
def test_a_weakened_alerting_is_found_out(
    name: str, paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, attribute, weaker = WEAKNESSES[name]
    monkeypatch.setattr(target, attribute, weaker)
    assert difference(Path(paths.home), monkeypatch) != []
