# SPDX-License-Identifier: Apache-2.0
"""Services that the box watches: ``name=address`` items, read and put in order."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from urllib.parse import quote, unquote

from edgepaas.settings.urls import AddressError, checked_host, checked_port, shortened

#: Each is a probe of its own; and both lists have to fit into an environment variable.
MOST_SERVICES = 64
_LONGEST_ITEM = 480

_PORTS = {"tcp": "", "http": "80", "https": "443", "redis": "6379"}
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,62}\Z")
_ITEM = re.compile(r"(?:([^=/@]*)=)?(?:([A-Za-z][A-Za-z0-9+.-]*)://)?(.*)\Z", re.DOTALL)


class ServiceError(ValueError):
    """The text is no service's address; the message never repeats a password."""


@dataclass(frozen=True)
class ServiceAddress:
    """One service: *scheme* is tcp, http, https or redis; *path* counts for http and https.

    *problem* says why the address is not understood; there is nothing to be asked then.
    """

    name: str
    scheme: str
    host: str
    port: int
    path: str = ""
    required: bool = False
    username: str = ""
    password: str = field(default="", repr=False)
    problem: str = ""

    @property
    def address(self) -> str:
        """The address for people: no user, no password."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}{self.path}"

    def item(self) -> str:
        """The canonical item, password included; it reads back to this address."""
        user, password = quote(self.username, safe=""), quote(self.password, safe="")
        userinfo = f"{user}:{password}@" if password else f"{user}@" if user else ""
        return f"{self.name}={self.address.replace('://', f'://{userinfo}', 1)}"


def read_service(text: str, *, required: bool = False) -> ServiceAddress:
    """Read ``[name=][scheme://][user:password@]host[:port][/path]``, or raise ServiceError.

    Without a scheme it is tcp, which needs a port; without a name the host is the name.
    """
    match = _ITEM.match(text)
    if match is None:  # the pattern takes every text; this is for the type checker
        raise ServiceError("it is not name=address")
    name, scheme, rest = match[1], (match[2] or "tcp").lower(), match[3]
    if scheme not in _PORTS:
        raise ServiceError(
            f"{scheme}:// is not one of {', '.join(f'{s}://' for s in _PORTS)}; "
            "tcp://host:port asks whether something listens there"
        )
    authority, slash, path = rest.partition("/")
    userinfo, _, hostport = authority.rpartition("@")
    username, _, password = userinfo.partition(":")
    try:
        host, port = _host_and_port(hostport, _PORTS[scheme])
    except AddressError as error:
        raise ServiceError(str(error)) from None
    if name is None:
        name = host if _NAME.match(host) else f"{scheme}-{port}"
    if not _NAME.match(name):
        raise ServiceError(f"{shortened(name)} is not a name (letters, digits, '_', '-', '.')")
    return ServiceAddress(
        name=name,
        scheme=scheme,
        host=host,
        port=port,
        path=slash + path if scheme in ("http", "https") else "",
        required=required,
        username=unquote(username),
        password=unquote(password),
    )


def read_services(items: Iterable[str], *, required: bool = False) -> list[ServiceAddress]:
    """Read canonical items, as a contract holds them.

    What cannot be read was reported when the contract was written, and is left out; but a
    *required* one stays, with its problem: nobody is to believe that it answers.
    """
    services = []
    for item in items:
        try:
            services.append(read_service(item, required=required))
        except ServiceError as error:
            if required:
                name = _name_of(item)
                services.append(
                    ServiceAddress(name, "", "", 0, required=True, problem=f"{name}: {error}")
                )
    return services


def _name_of(item: str) -> str:
    """Return what *item*, which is no address, is called; never a part that may be secret."""
    name, equals, rest = item.partition("=")
    if equals and _NAME.match(name):
        return name
    shown = shortened((rest if equals else item).rpartition("@")[2])
    return re.sub(r"[^A-Za-z0-9_.:-]+", "-", shown).strip("-") or "unnamed"


@dataclass
class Services:
    """The resolved REQUIRED_SERVICES and OPTIONAL_SERVICES, and the problems that were found."""

    required: list[str] = field(default_factory=list)
    optional: list[str] = field(default_factory=list)
    problems: list[tuple[str, str]] = field(default_factory=list)  # (setting, message)


def settle_services(
    required: Iterable[str], optional: Iterable[str], nested: Mapping[str, tuple[str, str, str]]
) -> Services:
    """Return both lists in canonical form.

    *nested* holds what NAME__HOST and NAME__PORT gave: name → (scheme, host, port).
    A bare name in *required* asks for one of them; the others become optional.
    """
    result = Services()
    waiting = {name.lower(): address for name, address in nested.items()}
    seen: set[str] = set()
    for setting, items in (("REQUIRED_SERVICES", required), ("OPTIONAL_SERVICES", optional)):
        target = result.required if setting == "REQUIRED_SERVICES" else result.optional
        for item in items:
            name = item.lower()
            text = _nested_item(name, waiting.pop(name)) if name in waiting else item
            _append(text, setting, target, seen, result.problems)
    for name, address in waiting.items():
        if name not in seen:
            setting = f"{name.upper()}__HOST"
            _append(_nested_item(name, address), setting, result.optional, seen, result.problems)
    return result


def _append(
    text: str, setting: str, target: list[str], seen: set[str], problems: list[tuple[str, str]]
) -> None:
    try:
        service = read_service(text)
    except ServiceError as error:
        shown = shortened(text.rpartition("@")[2])
        if setting == "REQUIRED_SERVICES" and len(text) <= _LONGEST_ITEM and text not in target:
            target.append(text)
            problems.append((setting, f"{shown} is not understood, and counts as away: {error}"))
        else:
            problems.append((setting, f"{shown} is left out: {error}"))
        return
    if service.name in seen and "=" not in text.partition("://")[0]:
        unique = f"{service.host}:{service.port}"
        service = ServiceAddress(**{**service.__dict__, "name": unique})
    if service.name in seen:
        problems.append((setting, f"a second service named {service.name!r} is left out"))
        return
    if len(seen) >= MOST_SERVICES or len(service.item()) > _LONGEST_ITEM:
        limit = f"at most {MOST_SERVICES} services, each of {_LONGEST_ITEM} characters"
        problems.append((setting, f"{shortened(service.name)} is left out: {limit}"))
        return
    seen.add(service.name)
    target.append(service.item())


def _nested_item(name: str, address: tuple[str, str, str]) -> str:
    scheme, host, port = address
    bracketed = f"[{host}]" if ":" in host else host
    return f"{name}={scheme}://{bracketed}:{port}"


def _host_and_port(text: str, default: str) -> tuple[str, int]:
    if text.startswith("["):
        host, bracket, tail = text[1:].partition("]")
        if not bracket or (tail and not tail.startswith(":")):
            raise AddressError("its '[' is not closed before the port")
        port = tail[1:]
    else:
        host, _, port = text.partition(":")
    if not host:
        raise AddressError("it names no host")
    if not port and not default:
        raise AddressError("it names no port: tcp://host:port")
    return checked_host(host), checked_port(port or default)
