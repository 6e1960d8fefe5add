# SPDX-License-Identifier: Apache-2.0
"""Settings: the table, where values come from, and what they resolve to.

Nothing but the standard library, and little of it: every stage reads ``run/env`` at its
start.
"""

from edgepaas.settings.kinds import Setting
from edgepaas.settings.services import ServiceAddress
from edgepaas.settings.table import SETTINGS
from edgepaas.settings.urls import Address, AddressError, split_url
from edgepaas.settings.values import Settings

__all__ = [
    "SETTINGS",
    "Address",
    "AddressError",
    "ServiceAddress",
    "Setting",
    "Settings",
    "split_url",
]
