# SPDX-License-Identifier: Apache-2.0
"""Where alerts go: the settings of the channels, also when the box's settings cannot be had."""

import contextlib
import json
import re
from dataclasses import dataclass, field
from pathlib import Path

from edgepaas.alerts.channels.wording import BoxIdentity
from edgepaas.alerts.spool.alert import clean_word
from edgepaas.alerts.spool.folders import SpoolFolders
from edgepaas.build import build_version
from edgepaas.errors import EdgePaaSError
from edgepaas.files.paths import Paths
from edgepaas.settings import Settings

#: What is remembered for when the settings cannot be resolved: nothing else of them.
_REMEMBERED = ("ALERT_", "SMTP__", "NODE_NAME", "TZ")


@dataclass(frozen=True)
class WebhookConfig:
    """Where and how to post; *form* is never ``auto``."""

    url: str = field(repr=False)
    form: str
    secret: str = field(repr=False)
    timeout: float


@dataclass(frozen=True)
class EmailConfig:
    """The mail server, and whom to write to."""

    host: str
    port: int
    security: str
    username: str
    password: str = field(repr=False)
    sender: str
    to: tuple[str, ...]
    timeout: float


@dataclass(frozen=True)
class AlertConfig:
    """All that delivering needs; times in seconds."""

    sender: BoxIdentity
    webhook: WebhookConfig | None
    email: EmailConfig | None
    window: float
    files: int
    heartbeat_url: str = field(repr=False)
    heartbeat_interval: float
    timeout: float

    @property
    def channels(self) -> tuple[str, ...]:
        """The channels that are configured, in the order in which they are tried."""
        found = (("webhook", self.webhook), ("email", self.email))
        return tuple(name for name, config in found if config is not None)


def load_config(paths: Paths) -> AlertConfig:
    """Return the channels' settings.

    They are the contract's; where the environment stage failed and left none, those of its
    sources, as far as they can be read; where these name no channel, the last ones known.
    What is wrong with the settings is the very thing that may have to be told.
    """
    try:
        settings = Settings.read(paths.env_contract)
        _remember(paths, settings)
        return read_config(settings)
    except EdgePaaSError:
        pass
    with contextlib.suppress(EdgePaaSError, OSError, ValueError):
        from edgepaas.settings.resolve import resolve_box

        config = read_config(resolve_box(paths).settings)
        if config.channels:
            return config
    return read_config(_remembered(paths))


def read_config(settings: Settings) -> AlertConfig:
    """Return what *settings* say about alerts."""
    from edgepaas.logs import register_secret

    for secret in settings.secrets():
        register_secret(secret)
    timeout = settings.number("ALERT_TIMEOUT")
    url = settings.text("ALERT_WEBHOOK_URL")
    webhook = WebhookConfig(
        url=url,
        form=webhook_form(settings.text("ALERT_WEBHOOK_FORMAT"), url),
        secret=settings.text("ALERT_WEBHOOK_SECRET"),
        timeout=timeout,
    )
    node = settings.text("NODE_NAME")
    email = EmailConfig(
        host=settings.text("SMTP__HOST"),
        port=settings.integer("SMTP__PORT"),
        security=settings.text("SMTP__SECURITY"),
        username=settings.text("SMTP__USERNAME"),
        password=settings.text("SMTP__PASSWORD"),
        sender=settings.text("ALERT_EMAIL_FROM") or f"edgepaas@{_domain(node)}",
        to=settings.items("ALERT_EMAIL_TO"),
        timeout=timeout,
    )
    return AlertConfig(
        sender=_sender(settings, node),
        webhook=webhook if url else None,
        email=email if email.host and email.to else None,
        window=settings.number("ALERT_WINDOW"),
        files=settings.integer("ALERT_SPOOL_FILES"),
        heartbeat_url=settings.text("ALERT_HEARTBEAT_URL"),
        heartbeat_interval=settings.number("ALERT_HEARTBEAT_INTERVAL"),
        timeout=timeout,
    )


def webhook_form(form: str, url: str) -> str:
    """Return the body's form: *form* itself, or what the address tells when it is ``auto``."""
    if form != "auto":
        return form
    host, _, path = url.partition("://")[2].partition("/")
    host = host.partition(":")[0].lower()
    if host in ("hooks.slack.com", "hooks.slack-gov.com"):
        return "slack"
    if f".{host}".endswith((".discord.com", ".discordapp.com")) and path.startswith("api/webhooks"):
        # Discord takes Slack's form at such an address ("Execute Slack-Compatible Webhook").
        return "slack" if path.rstrip("/").endswith("/slack") else "discord"
    teams = ("outlook.office.com", ".webhook.office.com", ".logic.azure.com", ".powerplatform.com")
    if host.endswith(teams):
        return "teams"
    return "json"


def _domain(node: str) -> str:
    """Return a box's name as a mail server takes it behind the @."""
    return re.sub(r"[^A-Za-z0-9.-]+", "-", node).strip("-.") or "localhost"


def _sender(settings: Settings, node: str) -> BoxIdentity:
    # A line separator in a pasted name would have every mail refused for its subject.
    node = clean_word(node) or "box"
    zone = settings.text("TZ")
    if zone == "UTC":
        return BoxIdentity(node, build_version())
    import zoneinfo

    try:
        return BoxIdentity(node, build_version(), zoneinfo.ZoneInfo(zone))
    except (KeyError, ValueError, OSError):  # no time zone database on this box
        return BoxIdentity(node, build_version())


def _remember(paths: Paths, settings: Settings) -> None:
    values = {
        name: settings.text(name)
        for name in settings.values()
        if name.startswith(_REMEMBERED) and settings.is_given(name)
    }
    content = (json.dumps(values, indent=2, sort_keys=True) + "\n").encode()
    file = _memory(paths)
    with contextlib.suppress(OSError):  # the disk is full: the older ones are still there
        if not file.exists() or file.read_bytes() != content:
            SpoolFolders(paths.alerts).put(file, content)


def _remembered(paths: Paths) -> Settings:
    try:
        values = json.loads(_memory(paths).read_text(encoding="utf-8"))
        return Settings.of(**{str(name): str(text) for name, text in values.items()})
    except (OSError, ValueError, AttributeError, TypeError, EdgePaaSError):
        return Settings.of()


def _memory(paths: Paths) -> Path:
    return paths.alerts / "settings.json"
