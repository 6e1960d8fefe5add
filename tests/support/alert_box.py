# SPDX-License-Identifier: Apache-2.0
"""A box for tests of alerting: a clock that is set by hand, and channels that do as told."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from edgepaas.alerts.channels.answers import Answer
from edgepaas.alerts.channels.channel import Channel
from edgepaas.alerts.channels.config import AlertConfig
from edgepaas.alerts.channels.email_channel import EmailChannel
from edgepaas.alerts.channels.notification import Notification
from edgepaas.alerts.channels.webhook import WebhookChannel
from edgepaas.alerts.channels.webhook_formats import Json
from edgepaas.alerts.channels.wording import BoxIdentity
from edgepaas.alerts.conditions.due_notifications import DueNotifications
from edgepaas.alerts.delivery.deliver import Deliverer
from edgepaas.alerts.spool.accept import Spool
from edgepaas.alerts.spool.alert import Alert
from edgepaas.files.paths import Paths
from edgepaas.timing.moment import Moment

TAKEN = Answer("taken", "200", reached=True)
DOWN = Answer("later", "connection refused", down=True)
UNCLEAR = Answer("later", "no answer within 10 s", reached=True, down=True)
BROKEN = Answer("later", "it answered 500", reached=True)
REFUSED = Answer("refused", "it answered 400")


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self, wall: float = 1_800_000_000.0) -> None:
        self.now = Moment(wall, 1000.0, "boot-1")

    def __call__(self) -> Moment:
        return self.now

    def forward(self, seconds: float) -> None:
        """Let *seconds* pass."""
        self.now = replace(
            self.now, wall=self.now.wall + seconds, since_boot=self.now.since_boot + seconds
        )

    def reboot(self, *, wall: float | None = None) -> None:
        """Start the box anew; *wall*: what its clock says then."""
        found = self.now.wall + 60 if wall is None else wall
        self.now = Moment(found, 10.0, self.now.boot_id + "+")


WEBHOOK = WebhookChannel("http://127.0.0.1:1/hook", Json(), "", 10.0)
EMAIL = EmailChannel("127.0.0.1", 1, "none", "", "", "a@b.example", ("c@d.example",), 10.0)


def make_config(*channels: Channel, **changes: Any) -> AlertConfig:
    """*channels* (none given: a webhook and e-mail), a window of 600 s, with *changes*."""
    config = AlertConfig(
        box=BoxIdentity("box-7", "0.1.0"),
        channels=channels or (WEBHOOK, EMAIL),
        window=600.0,
        files=10_000,
        heartbeat_url="",
        heartbeat_interval=300.0,
        timeout=10.0,
    )
    return replace(config, **changes)


@dataclass
class AlertBox:
    """A spool, a clock, and what each channel was asked to send.

    *answers* says how a channel answers; a function is asked with the notification.
    """

    paths: Paths
    config: AlertConfig = field(default_factory=make_config)
    clock: Clock = field(default_factory=Clock)
    answers: dict[str, Answer | Callable[[Notification], Answer]] = field(default_factory=dict)
    asked: list[tuple[str, Notification]] = field(default_factory=list)
    taken: list[Notification] = field(default_factory=list)

    @property
    def spool(self) -> Spool:
        return Spool(self.paths)

    def accept(self, message: str = "it broke", **more: Any) -> Alert:
        """Raise an alert at the box's time."""
        return self.spool.accept(message, now=self.clock(), **more)

    def resolve(self, fingerprint: str, message: str = "it is well") -> Alert:
        """Resolve one."""
        return self.accept(message, fingerprint=fingerprint, severity="info", resolved=True)

    def deliver(self) -> DueNotifications:
        """One run."""
        return self.deliverer().run()

    def deliverer(self) -> Deliverer:
        """A run that is about to start."""
        return Deliverer(
            self.paths,
            self.config,
            clock=self.clock,
            jitter=lambda: 1.0,
            send=self._send,
            linger=0.0,
        )

    def deliverer_of_channels(self) -> Deliverer:
        """A run that sends through the channels themselves."""
        return Deliverer(self.paths, self.config, clock=self.clock, jitter=lambda: 1.0, linger=0.0)

    def _send(self, channel: Channel, notification: Notification) -> Answer:
        self.asked.append((channel.name, notification))
        answer = self.answers.get(channel.name, TAKEN)
        if not isinstance(answer, Answer):
            answer = answer(notification)
        if answer.kind == "taken":
            self.taken.append(notification)
        return answer

    @property
    def told(self) -> list[tuple[str, str]]:
        """What was taken, as (what, first line)."""
        return [
            (notification.what, notification.message.split("\n")[0]) for notification in self.taken
        ]

    def waiting(self, fingerprint: str) -> int:
        """How many alerts of *fingerprint* nobody was told of."""
        from edgepaas.alerts.conditions.listing import list_conditions

        return sum(
            entry["undelivered"]
            for entry in list_conditions(self.paths, everything=True)
            if entry["fingerprint"] == fingerprint
        )
