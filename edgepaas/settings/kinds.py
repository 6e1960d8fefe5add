# SPDX-License-Identifier: Apache-2.0
"""What a setting's text means: each kind of value, read into the one form that is kept.

Every reader takes what a person wrote and returns the canonical text, or raises
Malformed with what is allowed. Reading the canonical text again returns it unchanged,
so that a contract can be read back through the same functions.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePosixPath

from edgepaas.settings.urls import MOST_HOSTS, AddressError, checked_host, split_url

#: Longer values would not pass through execve(2) to an application (MAX_ARG_STRLEN, 128 KiB).
LONGEST_VALUE = 32 * 1024

TRUE_WORDS = frozenset({"true", "t", "yes", "y", "on", "1", "enabled", "enable"})
FALSE_WORDS = frozenset({"false", "f", "no", "n", "off", "0", "disabled", "disable"})
OFF_WORDS = frozenset({"none", "off", "no", "false", "disabled", "never"})

#: systemd drops lines of an EnvironmentFile= with control characters, surrogates or Unicode
#: noncharacters (utf8_is_valid() in its basic/utf8.c), so no value of a contract has them.
_UNFIT = re.compile("[\x00-\x08\x0a-\x1f\x7f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")
_INVISIBLE = "\ufeff\u200b\u200c\u200d\u2060"
_INTEGER = re.compile(r"[+-]?[0-9]{1,15}\Z")
_NUMBER = re.compile(r"([+-]?(?:[0-9]{1,15}(?:\.[0-9]{0,9})?|\.[0-9]{1,9}))\s*([A-Za-z%°/]*)\Z")
_SECONDS = {"": 1.0, "s": 1.0, "sec": 1.0, "seconds": 1.0, "second": 1.0, "ms": 0.001}
_SECONDS |= {"m": 60.0, "min": 60.0, "minutes": 60.0, "h": 3600.0, "hours": 3600.0, "d": 86400.0}
_BYTES = {"": 1, "b": 1, "bytes": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
_BYTES |= {f"{letter}{tail}": 1024**n for n, letter in enumerate("kmgt", 1) for tail in ("", "ib")}
_TIMEZONE = re.compile(r"[A-Za-z][A-Za-z0-9_+-]*(?:/[A-Za-z0-9_+-]+){0,2}\Z")


class Malformed(ValueError):
    """The text is no value of its kind; the message says what is allowed."""


@dataclass(frozen=True)
class Setting:
    """One row of the table: all that is known about one setting.

    *default* is canonical text; where it follows from other settings, *derived* says
    how. *off* allows the words none and off: no value, or the number 0. *if_malformed*
    is taken instead of the default when what was given cannot be read.
    """

    name: str
    kind: str
    default: str
    help: str
    unit: str = ""
    choices: tuple[str, ...] = ()
    aliases: tuple[tuple[str, str], ...] = ()
    minimum: float | None = None
    maximum: float | None = None
    secret: bool = False
    derived: str = ""
    off: bool = False
    if_malformed: str = ""

    def read(self, text: str) -> str:
        """Return *text* in canonical form, or raise Malformed."""
        if len(text) > LONGEST_VALUE:
            raise Malformed(f"is {len(text)} characters long, {LONGEST_VALUE} are allowed")
        if unfit := unfit_character(text):
            raise Malformed(f"holds the control character {unfit}")
        if not self.secret:
            text = text.strip().strip(_INVISIBLE).strip()
        if self.off and text.lower() in OFF_WORDS:
            return "0" if self.kind in _NUMERIC else ""
        return _READERS[self.kind](self, text)

    @property
    def allowed(self) -> str:
        """What may be written, for a person: ``true or false``, ``1 to 65535`` …"""
        if self.choices:
            return ", ".join(self.choices)
        span = _span(self)
        words = {
            "flag": "true or false",
            "integer": f"a whole number{span}",
            "number": f"a number{span}",
            "seconds": f"seconds{span}, or e.g. 500ms, 2min, 1h",
            "percent": f"percent{span}",
            "size": f"bytes{span}, or e.g. 512k, 8MiB, 1GiB",
            "list": "names separated by commas or blanks",
            "services": "name=address, separated by commas or blanks; an address is tcp://host:port,"
            " http://host/path, https://host/path or redis://host:port",
            "path": "an absolute path",
            "log_file": "an absolute path, or none for the console alone",
            "core": f"auto, off, or the number of a core{span}",
            "host": "an IP address or a host name",
            "networks": "IP addresses or networks (10.0.0.0/8), separated by commas or blanks",
            "hosts": "IP addresses or host names, separated by commas",
            "timezone": "a name of the IANA time zone database, e.g. Europe/Berlin",
            "database_url": "postgresql://user@host:5432/database; several hosts stand "
            "between commas (host1:5432,host2:5432), and the one that takes writes is used",
            "sqlite_url": "sqlite:////absolute/path; a relative path lies in the state folder",
            "http_url": "http://host:port or https://host:port",
            "proxy_url": "http://host:port, https://host:port, or http://user:password@host:port",
        }.get(self.kind, "text")
        return f"{words}; none or off for no limit" if self.off and self.kind in _NUMERIC else words


def unfit_character(text: str) -> str:
    """Return the first character that no contract can carry as ``U+0000``, empty for none."""
    match = _UNFIT.search(text)
    return f"U+{ord(match[0]):04X}" if match else ""


_NUMERIC = frozenset({"integer", "number", "seconds", "percent", "size"})


def _span(setting: Setting) -> str:
    low, high = setting.minimum, setting.maximum
    if low is not None and high is not None:
        return f" from {low:.15g} to {high:.15g}"
    return f" of at least {low:.15g}" if low is not None else ""


def _within(setting: Setting, value: float) -> None:
    low, high = setting.minimum, setting.maximum
    if (low is not None and value < low) or (high is not None and value > high):
        raise Malformed("is out of range")


def _text(_: Setting, text: str) -> str:
    return text


def _flag(_: Setting, text: str) -> str:
    word = text.lower()
    if word in TRUE_WORDS:
        return "true"
    if word in FALSE_WORDS:
        return "false"
    raise Malformed("is neither true nor false")


def _choice(setting: Setting, text: str) -> str:
    word = dict(setting.aliases).get(text.lower(), text)
    for choice in setting.choices:
        if choice.lower() == word.lower():
            return choice
    raise Malformed("is not one of them")


def _integer(setting: Setting, text: str) -> str:
    if not _INTEGER.match(text):
        raise Malformed("is not a whole number")
    value = int(text)
    _within(setting, value)
    return str(value)


def _scaled(setting: Setting, text: str, units: dict[str, float], what: str) -> str:
    match = _NUMBER.match(text)
    factor = units.get(match[2].lower()) if match else None
    if match is None or factor is None:
        raise Malformed(f"is not {what}")
    value = float(match[1]) * factor
    _within(setting, value)
    return f"{value:.15g}"


def _number(setting: Setting, text: str) -> str:
    return _scaled(setting, text, {"": 1.0, "/s": 1.0, "°c": 1.0, "c": 1.0}, "a number")


def _seconds(setting: Setting, text: str) -> str:
    return _scaled(setting, text, _SECONDS, "a time in seconds")


def _percent(setting: Setting, text: str) -> str:
    return _scaled(setting, text, {"": 1.0, "%": 1.0}, "a percentage")


def _size(setting: Setting, text: str) -> str:
    match = _NUMBER.match(text)
    factor = _BYTES.get(match[2].lower()) if match else None
    if match is None or factor is None:
        raise Malformed("is not a size in bytes")
    value = int(float(match[1]) * factor)
    _within(setting, value)
    return str(value)


def _list(_: Setting, text: str) -> str:
    return ",".join(dict.fromkeys(text.replace(",", " ").split()))


def _path(setting: Setting, text: str) -> str:
    if not text.startswith("/"):
        raise Malformed("is not an absolute path")
    if any(len(part.encode()) > 255 for part in text.split("/")) or len(text.encode()) > 4095:
        raise Malformed("is longer than a path can be")
    return str(PurePosixPath(text))


def _log_file(setting: Setting, text: str) -> str:
    return "none" if text.lower() in OFF_WORDS else _path(setting, text)


def _core(setting: Setting, text: str) -> str:
    word = text.lower()
    if word == "auto":
        return word
    return "off" if word in OFF_WORDS else _integer(setting, text)


def _host(_: Setting, text: str) -> str:
    bare = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    if bare == "*":
        return "::"
    if not bare or bare.startswith("/"):
        raise Malformed("is neither an address nor a name")
    if re.fullmatch(r"[0-9.]+", bare):
        parts = bare.split(".")
        if len(parts) != 4 or any(not p or len(p) > 3 or int(p) > 255 for p in parts):
            raise Malformed("is not an IPv4 address")
        return bare
    if ":" in bare:
        import ipaddress  # 4 ms, and IPv6 is rarely written here

        try:
            return str(ipaddress.IPv6Address(bare))
        except ValueError:
            raise Malformed("is not an IPv6 address (the port has its own setting)") from None
    # RFC 1123, 2.1, and the underscore that Docker and Kubernetes use in names.
    if len(bare) > 253 or not re.fullmatch(
        r"(?!-)[A-Za-z0-9_-]{1,63}(?:\.[A-Za-z0-9_-]{1,63})*\.?", bare
    ):
        raise Malformed("is neither an address nor a name")
    return bare


def _hosts(setting: Setting, text: str) -> str:
    names = text.split(",")
    if len(names) > MOST_HOSTS:
        raise Malformed(f"names {len(names)} hosts, {MOST_HOSTS} are the most")
    return ",".join(_host(setting, name.strip()) for name in names)


def _networks(setting: Setting, text: str) -> str:
    import ipaddress

    found = []
    for item in _list(setting, text).split(","):
        try:
            found.append(str(ipaddress.ip_network(item, strict=False)))
        except ValueError:
            raise Malformed(f"holds {item}, which is no IP address or network") from None
    return ",".join(found)


def _timezone(_: Setting, text: str) -> str:
    name = text.removeprefix(":")  # tzset(3) allows the colon
    if name.upper() in ("UTC", "Z", "ETC/UTC", "GMT"):
        return "UTC"
    if not _TIMEZONE.match(name):
        raise Malformed("is not a time zone's name")
    import zoneinfo

    try:
        zoneinfo.ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        if not zoneinfo.available_timezones():
            return name  # no time zone database on this box: the name cannot be checked
        raise Malformed("is not in this box's time zone database") from None
    return name


def _database_url(_: Setting, text: str) -> str:
    try:
        return split_url(text).url()
    except AddressError as error:
        raise Malformed(f"cannot be read: {error}") from None


def _sqlite_url(_: Setting, text: str) -> str:
    try:
        address = split_url(text if ":" in text else f"sqlite:///{text}")
    except AddressError as error:
        raise Malformed(f"cannot be read: {error}") from None
    if address.scheme != "sqlite":
        raise Malformed("is not an SQLite file's URL")
    return address.url()


def _http_url(_: Setting, text: str) -> str:
    scheme, mark, rest = text.partition("://")
    authority = rest.partition("/")[0]
    if not mark or scheme.lower() not in ("http", "https") or "@" in authority:
        raise Malformed("is not http://host:port or https://host:port")
    try:
        checked_host(authority.partition(":")[0].strip("[]") or "/")
    except AddressError as error:
        raise Malformed(str(error)) from None
    if not authority or any(c.isspace() for c in rest):
        raise Malformed("is not http://host:port or https://host:port")
    return f"{scheme.lower()}://{rest.rstrip('/')}"


def _proxy_url(setting: Setting, text: str) -> str:
    # A login stands in front of the last "@"; the rest is read as any address.
    scheme, mark, rest = text.partition("://")
    login, at, place = rest.rpartition("@")
    if any(c.isspace() or c in "/?#" for c in login):
        raise Malformed("has a login with a character that must be written as %XX")
    try:
        checked = _http_url(setting, f"{scheme}{mark}{place}")
    except Malformed:
        raise Malformed("is not http://host:port or https://host:port") from None
    scheme, mark, place = checked.partition("://")
    return f"{scheme}{mark}{login}{at}{place}"


_READERS: dict[str, Callable[[Setting, str], str]] = {
    "text": _text,
    "flag": _flag,
    "choice": _choice,
    "integer": _integer,
    "number": _number,
    "seconds": _seconds,
    "percent": _percent,
    "size": _size,
    "list": _list,
    "services": _list,
    "path": _path,
    "log_file": _log_file,
    "core": _core,
    "host": _host,
    "hosts": _hosts,
    "networks": _networks,
    "timezone": _timezone,
    "database_url": _database_url,
    "sqlite_url": _sqlite_url,
    "http_url": _http_url,
    "proxy_url": _proxy_url,
}
