# SPDX-License-Identifier: Apache-2.0
"""What a channel is: it takes a notification to an operator, and knows what the answer means."""

from typing import ClassVar, Protocol, Self

from edgepaas.alerts.channels.answers import Answer
from edgepaas.alerts.channels.notification import Notification
from edgepaas.alerts.channels.wording import BoxIdentity
from edgepaas.settings import Settings


class Channel(Protocol):
    """One way to an operator; a frozen dataclass whose fields are what it is set up with.

    A new one is a class in this folder and a line in edgepaas.alerts.channels.table; its
    settings are in edgepaas.settings.table, and those that it cannot do without in
    ``CHANNEL_SETTINGS`` there. They begin with ``ALERT_``: these are remembered for when no
    settings can be read.
    """

    #: What status, history and metrics call it.
    name: ClassVar[str]
    #: The settings without which it is not set up, from ``CHANNEL_SETTINGS`` by its name.
    needs: ClassVar[tuple[str, ...]]

    @classmethod
    def configured(cls, settings: Settings) -> Self | None:
        """Return the channel as *settings* have it, None where they do not set it up."""

    def send(self, notification: Notification, box: BoxIdentity) -> Answer:
        """Send *notification* of *box*; returns what became of it, whatever the network does."""
