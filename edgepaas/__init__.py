# SPDX-License-Identifier: Apache-2.0
"""EdgePaaS: an edge-device appliance packaged as systemd services."""

__version__ = "0.1.0"
