# SPDX-License-Identifier: Apache-2.0
"""Logging as the settings want it, and no secret of theirs in it."""

from edgepaas.files.paths import Paths
from edgepaas.logs import configure_logging, register_secret
from edgepaas.settings.values import Settings


def start_logging(settings: Settings, paths: Paths) -> None:
    """Configure this process's logging by LOG_LEVEL, LOG_FORMAT and LOG_FILE.

    May be called again when the settings have changed.
    """
    for secret in settings.secrets():
        register_secret(secret)
    configure_logging(
        level=settings.text("LOG_LEVEL"),
        style=settings.text("LOG_FORMAT"),
        file=settings.log_file(paths.log_file),
    )
