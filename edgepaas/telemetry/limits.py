# SPDX-License-Identifier: Apache-2.0
"""Telemetry's own settings: how much it takes at once, and how much a token registers."""

from edgepaas.app.settings import integer

READINGS_MAX = integer("READINGS_MAX", 10000, 1, 1_000_000, "The most readings in one request.")
DEVICES_PER_TOKEN = integer(
    "DEVICES_PER_TOKEN",
    1000,
    1,
    1_000_000,
    "The most devices that one token may name within an hour: each new name makes a device.",
)
RULES_PER_TOKEN = integer(
    "RULES_PER_TOKEN", 1000, 1, 1_000_000, "The most rules that one token may make within an hour."
)
