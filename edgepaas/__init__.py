"""EdgePaaS: an edge-device appliance packaged as systemd services."""

__version__ = "0.1.0"
