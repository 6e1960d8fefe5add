# SPDX-License-Identifier: Apache-2.0
"""The channels, in the order in which they are tried; a new one is added here."""

from edgepaas.alerts.channels.channel import Channel
from edgepaas.alerts.channels.email_channel import EmailChannel
from edgepaas.alerts.channels.webhook import WebhookChannel

CHANNELS: tuple[type[Channel], ...] = (WebhookChannel, EmailChannel)
