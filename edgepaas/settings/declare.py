# SPDX-License-Identifier: Apache-2.0
"""Short forms in which the table declares its settings."""

from edgepaas.settings.kinds import Setting


def flag(name: str, default: str, help: str, derived: str = "") -> Setting:
    """Return a setting that is on or off."""
    return Setting(name, "flag", default, help, derived=derived)


def integer(name: str, default: int, low: int, high: int, help: str) -> Setting:
    """Return a whole number from *low* to *high*."""
    return Setting(name, "integer", str(default), help, minimum=low, maximum=high)


def seconds(
    name: str, default: str, low: float, high: float, help: str, *, off: bool = False
) -> Setting:
    """Return a span of time in seconds; *off*: 0 or "off" switches off what it bounds."""
    return Setting(name, "seconds", default, help, "s", minimum=low, maximum=high, off=off)


def size(name: str, default: int, low: int, high: int, help: str, *, off: bool = False) -> Setting:
    """Return a size in bytes; *off* as with :func:`seconds`."""
    return Setting(name, "size", str(default), help, "bytes", minimum=low, maximum=high, off=off)


def percent(name: str, what: str) -> Setting:
    """Return a threshold of what the machine uses up."""
    text = f"{what} in use above which /health/system is 503."
    return Setting(name, "percent", "90", text, "%", minimum=1, maximum=100)
