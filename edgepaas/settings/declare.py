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


def number(
    name: str, default: str, low: float, high: float, help: str, *, unit: str = ""
) -> Setting:
    """Return a number from *low* to *high*, fractions too."""
    return Setting(name, "number", default, help, unit, minimum=low, maximum=high)


def text(name: str, default: str, help: str, *, secret: bool = False) -> Setting:
    """Return a text; a *secret* one is never shown, logged or read from where others can look."""
    return Setting(name, "text", default, help, secret=secret)


def choice(name: str, default: str, choices: tuple[str, ...], help: str) -> Setting:
    """Return one of *choices*, in any case."""
    return Setting(name, "choice", default, help, choices=choices)


def items(name: str, default: str, help: str) -> Setting:
    """Return a list of names, separated by commas or blanks; *default* by commas."""
    return Setting(name, "list", default, help)
