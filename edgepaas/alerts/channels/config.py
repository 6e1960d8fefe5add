# SPDX-License-Identifier: Apache-2.0
"""The settings of alerting, also when the box's settings cannot be resolved."""

import contextlib
from dataclasses import dataclass, field, replace
from pathlib import Path

from edgepaas.alerts.channels.channel import Channel
from edgepaas.alerts.channels.table import CHANNELS
from edgepaas.alerts.channels.wording import BoxIdentity
from edgepaas.alerts.spool.alert import clean_word
from edgepaas.alerts.spool.folders import SpoolFolders
from edgepaas.build import build_version
from edgepaas.errors import EdgePaaSError
from edgepaas.files import shapes
from edgepaas.files.local_time import zone_named
from edgepaas.files.node_identity import RECORD as NODE
from edgepaas.files.paths import Paths
from edgepaas.files.records import RecordType
from edgepaas.settings import Settings

#: What is remembered for when the settings cannot be resolved: nothing else of them.
_REMEMBERED = ("ALERT_", "SMTP__", "NODE_NAME", "TZ")

RECORD = RecordType(
    "alert-settings",
    2,
    {"settings": shapes.map_of(shapes.text)},
    {1: lambda old: {"settings": old}},
)

#: As many of the id as 'edgepaas nodes' shows.
_NODE_LETTERS = 8


@dataclass(frozen=True)
class AlertConfig:
    """All that delivery needs; times in seconds, *channels* in the order of attempts."""

    box: BoxIdentity
    channels: tuple[Channel, ...]
    window: float
    files: int
    heartbeat_url: str = field(repr=False)
    heartbeat_interval: float
    timeout: float
    #: The proxy that the heartbeat is sent through; "": those of the environment.
    proxy: str = field(default="", repr=False)


def load_config(paths: Paths) -> AlertConfig:
    """Return the channels' settings.

    They are the contract's; where the environment stage failed and left none, those of its
    sources, as far as they can be read; where these name no channel, the last ones known.
    What is wrong with the settings may be the very thing to be notified of.
    """
    try:
        settings = Settings.read(paths.env_contract)
        _remember(paths, settings)
        return _with_node(read_config(settings), paths)
    except EdgePaaSError:
        pass
    with contextlib.suppress(EdgePaaSError, OSError, ValueError):
        from edgepaas.settings.resolve import resolve_box

        config = read_config(resolve_box(paths).settings)
        if config.channels:
            return _with_node(config, paths)
    return _with_node(read_config(_remembered(paths)), paths)


def _with_node(config: AlertConfig, paths: Paths) -> AlertConfig:
    """Say by its id, too, which box it is: host names are given by whoever clones a card."""
    known = NODE.read_or_none(paths.node)
    if known is None:
        return config
    return replace(config, box=replace(config.box, node=known["node_id"][:_NODE_LETTERS]))


def read_config(settings: Settings) -> AlertConfig:
    """Return the part of *settings* that delivery needs."""
    from edgepaas.logs import register_secret

    for secret in settings.secrets():
        register_secret(secret)
    channels = (kind.configured(settings) for kind in CHANNELS)
    return AlertConfig(
        box=_identity(settings),
        channels=tuple(channel for channel in channels if channel is not None),
        window=settings.number("ALERT_WINDOW"),
        files=settings.integer("ALERT_SPOOL_FILES"),
        heartbeat_url=settings.text("ALERT_HEARTBEAT_URL"),
        heartbeat_interval=settings.number("ALERT_HEARTBEAT_INTERVAL"),
        timeout=settings.number("ALERT_TIMEOUT"),
        proxy=settings.text("ALERT_PROXY"),
    )


def _identity(settings: Settings) -> BoxIdentity:
    # A line separator in a pasted name would have every mail refused for its subject.
    node = clean_word(settings.text("NODE_NAME")) or "box"
    return BoxIdentity(node, build_version(), zone_named(settings.text("TZ")))


def _remember(paths: Paths, settings: Settings) -> None:
    values = {
        name: settings.text(name)
        for name in settings.values()
        if name.startswith(_REMEMBERED) and settings.is_given(name)
    }
    content = RECORD.render({"settings": dict(sorted(values.items()))}, indent=2).encode()
    file = _memory(paths)
    with contextlib.suppress(OSError):  # the disk is full: the older ones are still there
        if not file.exists() or file.read_bytes() != content:
            SpoolFolders(paths.alerts).put(file, content)


def _remembered(paths: Paths) -> Settings:
    try:
        found = RECORD.read(_memory(paths))
        return Settings.of(**({} if found is None else found["settings"]))
    except (OSError, ValueError, TypeError, EdgePaaSError):
        return Settings.of()


def _memory(paths: Paths) -> Path:
    return paths.alerts / "settings.json"
