# SPDX-License-Identifier: Apache-2.0
"""Telemetry's own settings: how much it takes at once."""

from edgepaas.app.settings import integer

READINGS_MAX = integer("READINGS_MAX", 10000, 1, 1_000_000, "The most readings in one request.")
