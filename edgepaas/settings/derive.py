# SPDX-License-Identifier: Apache-2.0
"""What follows from what: composed values, derived defaults, contradictions. Pure."""

import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

from edgepaas.settings.kinds import Malformed
from edgepaas.settings.services import settle_services
from edgepaas.settings.table import CHANNEL_SETTINGS, SETTINGS
from edgepaas.settings.urls import Address, AddressError, split_url

_NESTED = re.compile(r"([A-Z][A-Z0-9_]*?)__(?:HOST|PORT)\Z")
_OWN_NAME = re.compile(r"APP_[A-Za-z0-9_]+\Z")
#: Weaker than what the box does by itself towards a database beyond it.
_WEAK_TLS = ("disable", "prefer", "require", "verify-ca")


class SettingProblem(NamedTuple):
    """A problem of the settings, for a person; *alert*: an alert is raised for it."""

    severity: Literal["warning", "error"]
    names: tuple[str, ...]
    message: str
    alert: bool = False


@dataclass
class Derived:
    """The complete values, the findings, and by name why a value is what it is."""

    values: dict[str, str]
    findings: list[SettingProblem] = field(default_factory=list)
    notes: dict[str, str] = field(default_factory=dict)

    def warn(self, *names: str, message: str, alert: bool = False) -> None:
        self.findings.append(SettingProblem("warning", names, message, alert))

    def fail(self, *names: str, message: str) -> None:
        self.findings.append(SettingProblem("error", names, message))


def is_own_name(name: str) -> bool:
    """Whether *name* is the application's own (``APP_…``), passed through untouched."""
    return _OWN_NAME.match(name) is not None


def nested_names(names: Collection[str]) -> frozenset[str]:
    """Return those of *names* that are another service's NAME__HOST and NAME__PORT."""
    found = set()
    for name in names:
        match = _NESTED.match(name)
        if (
            match
            and name not in SETTINGS
            and not is_own_name(name)
            and match[1] not in ("DATABASE", "VAULT", "REDIS")
        ):
            found.add(name)
    return frozenset(found)


def derive(
    values: Mapping[str, str],
    nested: Mapping[str, str],
    *,
    given: Collection[str],
    unreadable: Collection[str] = (),
    hostname: str = "",
) -> Derived:
    """Complete *values* (canonical, the settings that are known) with what follows from them.

    *nested* holds other services' NAME__HOST and NAME__PORT. *given* names what was
    set, *unreadable* what was set and could not be read; both matter where a
    contradiction is judged. Deriving what was derived
    changes nothing, so a contract can be read through the same rules.
    """
    result = Derived(dict(values))
    _compose_database(result, given)
    _fill_in(result, hostname)
    _merge_tls(result, given)
    _collect_services(result, nested)
    _judge_databases(result, given, unreadable)
    _judge_access(result, given)
    _judge_origins(result)
    if result.values["DATABASE_URL"].startswith("postgresql:"):
        _judge_tls(result)
    _judge_vault(result)
    _judge_alerts(result)
    result.values = {name: result.values[name] for name in SETTINGS}
    return result


def _compose_database(result: Derived, given: Collection[str]) -> None:
    values = result.values
    url, host = values.get("DATABASE_URL", ""), values.get("DATABASE__HOST", "")
    username = values.get("DATABASE__USERNAME") or SETTINGS["DATABASE__USERNAME"].default
    password = values.get("DATABASE__PASSWORD", "")
    if url:
        if host and "DATABASE_URL" in given and "DATABASE__HOST" in given:
            result.warn(
                "DATABASE_URL",
                "DATABASE__HOST",
                message="both name a database; DATABASE_URL is used",
            )
        address = split_url(url)
        if address.scheme == "postgresql":
            completed = replace(
                address,
                username=address.username or username,
                password=address.password or password,
                database=address.database or username,
            )
            values["DATABASE_URL"] = _checked(completed, result) or url
            if password and not address.password:
                result.notes["DATABASE_URL"] = "the password is DATABASE__PASSWORD's"
    elif host and "DATABASE_URL" not in given:
        first, *further = host.split(",")
        port = int(values.get("DATABASE__PORT") or SETTINGS["DATABASE__PORT"].default)
        address = Address(
            scheme="postgresql",
            host=first,
            port=port,
            database=values.get("DATABASE__DATABASE") or SETTINGS["DATABASE__DATABASE"].default,
            username=username,
            password=password,
            further=tuple((name, port) for name in further),
        )
        values["DATABASE_URL"] = _checked(address, result)
        result.notes["DATABASE_URL"] = "composed of DATABASE__HOST and its like"


def _checked(address: Address, result: Derived) -> str:
    """Return the address's URL; where the parts make none, warn and return an empty one."""
    url = address.url()
    try:
        split_url(url)
    except AddressError as error:
        result.warn(
            "DATABASE__HOST",
            "DATABASE__USERNAME",
            "DATABASE__PASSWORD",
            "DATABASE__DATABASE",
            message=f"together they are no address: {error}",
            alert=True,
        )
        return ""
    return url


def _fill_in(result: Derived, hostname: str) -> None:
    values, notes = result.values, result.notes
    development = (values.get("ENV") or SETTINGS["ENV"].default) == "development"
    server = values.get("DATABASE_URL", "").startswith("postgresql:")
    derived = {
        "HOST": ("127.0.0.1" if development else "::", "ENV"),
        "AUTH_REQUIRED": ("false" if development else "true", "ENV"),
        "BOTH_DB": ("true" if server else "false", "DATABASE_URL"),
        "NODE_NAME": (_node_name(hostname), "the host name"),
    }
    for name, (value, origin) in derived.items():
        if not values.get(name):
            values[name] = value
            notes[name] = f"follows from {origin}"
    for name, setting in SETTINGS.items():
        values.setdefault(name, setting.default)


def _node_name(hostname: str) -> str:
    try:
        return SETTINGS["NODE_NAME"].read(hostname or os.uname().nodename) or "edgepaas"
    except Malformed:
        return "edgepaas"


def _merge_tls(result: Derived, given: Collection[str]) -> None:
    """Move ``?sslmode=`` and ``?sslrootcert=`` into the settings that hold them."""
    values = result.values
    if not values["DATABASE_URL"].startswith("postgresql:"):
        return
    address = split_url(values["DATABASE_URL"])
    params = dict(address.params)
    for parameter, name in (("sslmode", "DB_SSLMODE"), ("sslrootcert", "DB_SSLROOTCERT")):
        text = params.pop(parameter, "")
        if not text:
            continue
        try:
            wanted = SETTINGS[name].read(text)
        except Malformed as error:
            result.warn(
                "DATABASE_URL",
                message=f"its {parameter} {error}; {name} is {values[name] or 'not set'}",
            )
            continue
        if name in given and values[name] != wanted:
            result.warn(
                "DATABASE_URL",
                name,
                message=f"{name}={values[name]} is used, not {parameter}={wanted} of DATABASE_URL",
            )
        elif name not in given:
            values[name] = wanted
            result.notes[name] = "from DATABASE_URL"
    if params.pop("load_balance_hosts", "disable") != "disable":
        result.warn(
            "DATABASE_URL",
            message="load_balance_hosts has no effect: its hosts are tried in their order",
        )
    values["DATABASE_URL"] = replace(address, params=params).url()


def _collect_services(result: Derived, nested: Mapping[str, str]) -> None:
    values = result.values
    addresses: dict[str, tuple[str, str, str]] = {}
    for name in sorted(nested):
        prefix, _, part = name.rpartition("__")
        if part == "PORT":
            if f"{prefix}__HOST" not in nested:
                result.warn(name, message=f"has no effect without {prefix}__HOST")
            continue
        port = nested.get(f"{prefix}__PORT", "")
        if not port:
            result.warn(name, message=f"is not watched: {prefix}__PORT is missing")
            continue
        addresses[prefix.lower()] = ("tcp", nested[name].strip(), port.strip())
    if values["REDIS__HOST"]:
        addresses["redis"] = ("redis", values["REDIS__HOST"], values["REDIS__PORT"])
    settled = settle_services(
        values["REQUIRED_SERVICES"].split(",") if values["REQUIRED_SERVICES"] else (),
        values["OPTIONAL_SERVICES"].split(",") if values["OPTIONAL_SERVICES"] else (),
        addresses,
    )
    for setting, message in settled.problems:
        result.warn(setting, message=message, alert=setting == "REQUIRED_SERVICES")
    values["REQUIRED_SERVICES"] = ",".join(settled.required)
    values["OPTIONAL_SERVICES"] = ",".join(settled.optional)


def _judge_databases(result: Derived, given: Collection[str], unreadable: Collection[str]) -> None:
    values = result.values
    both, local_first = values["BOTH_DB"] == "true", values["USE_SQLITE"] == "true"
    server = values["DATABASE_URL"].startswith("postgresql:")
    if "BOTH_DB" in given and not both and not values["DATABASE_URL"]:
        _judge_postgres_alone(result, unreadable)
    elif "DATABASE_URL" in unreadable and not values["DATABASE_URL"]:
        result.warn(
            "DATABASE_URL",
            message="SQLite serves and no row leaves this box until it can be read",
            alert=True,
        )
    if "BOTH_DB" in given and both and not server:
        result.warn(
            "BOTH_DB",
            "DATABASE_URL",
            message="BOTH_DB=true needs a DATABASE_URL of a PostgreSQL; SQLite serves alone",
        )
    if "BOTH_DB" in given and not both and server and local_first:
        result.warn(
            "USE_SQLITE",
            "BOTH_DB",
            message="USE_SQLITE=true contradicts BOTH_DB=false; SQLite serves",
        )
    if (
        values["DATABASE_URL"].startswith("sqlite:")
        and values["DATABASE_URL_SQLITE"]
        and values["DATABASE_URL"] != values["DATABASE_URL_SQLITE"]
    ):
        result.warn(
            "DATABASE_URL",
            "DATABASE_URL_SQLITE",
            message="both name an SQLite file; DATABASE_URL is used",
        )


def _judge_postgres_alone(result: Derived, unreadable: Collection[str]) -> None:
    way_out = (
        "give DATABASE_URL=postgresql://user@host:5432/database, or leave BOTH_DB out"
        " and SQLite serves"
    )
    if "DATABASE_URL" in unreadable:
        result.fail(
            "DATABASE_URL",
            "BOTH_DB",
            message=f"BOTH_DB=false asks for PostgreSQL alone, but DATABASE_URL cannot be read;"
            f" {way_out}",
        )
    elif result.values["ENV"] == "production":
        result.fail(
            "BOTH_DB",
            "DATABASE_URL",
            message=f"BOTH_DB=false asks for PostgreSQL alone, but DATABASE_URL is empty, and"
            f" ENV=production does not go on without; {way_out}",
        )
    else:
        result.warn(
            "BOTH_DB",
            "DATABASE_URL",
            message="BOTH_DB=false asks for PostgreSQL alone, but DATABASE_URL is empty; SQLite"
            " serves",
        )


def _judge_access(result: Derived, given: Collection[str]) -> None:
    values = result.values
    opened = "AUTH_REQUIRED" in given and values["AUTH_REQUIRED"] == "false"
    for names, message in exposures(values.__getitem__, is_opened=opened):
        result.warn(*names, message=message)


def exposures(
    text: Callable[[str], str], *, is_opened: bool
) -> Iterator[tuple[tuple[str, ...], str]]:
    """Give what the settings open to strangers, each with its settings' names.

    *text* returns a setting's value by its name.
    *is_opened*: AUTH_REQUIRED=false was given, and is no default.
    """
    if is_opened and not _is_loopback(text("HOST")):
        yield (
            ("AUTH_REQUIRED", "HOST"),
            f"AUTH_REQUIRED=false lets everybody who reaches {text('HOST')} read and"
            " write; HOST=127.0.0.1 keeps it to this box",
        )
    if text("CORS_ENABLED") == "true" and "*" in text("CORS_ORIGINS").split(","):
        yield (
            ("CORS_ORIGINS",),
            "* lets the pages of every site that a person visits read what this box"
            " answers to that person; name the sites",
        )
    for name in ("ALERT_WEBHOOK_URL", "ALERT_HEARTBEAT_URL"):
        scheme, _, location = text(name).partition("://")
        if scheme == "http" and not _is_on_box(location.rpartition("@")[2]):
            yield (name,), "http:// sends it, and what is in it, over the network as it is"


def _is_loopback(host: str) -> bool:
    """Whether a socket that is bound to *host* is reached from this box alone."""
    return host.startswith("127.") or host.strip("[]") in ("localhost", "::1")


def _is_on_box(location: str) -> bool:
    """Whether the address without its scheme, *location*, is one of this box."""
    return location.startswith(("127.", "localhost", "[::1]"))


def _judge_origins(result: Derived) -> None:
    enabled, origins = result.values["CORS_ENABLED"] == "true", result.values["CORS_ORIGINS"]
    if origins and not enabled:
        result.warn(
            "CORS_ORIGINS",
            "CORS_ENABLED",
            message="CORS_ORIGINS has no effect while CORS_ENABLED=false",
        )
    if enabled and not origins:
        result.warn(
            "CORS_ENABLED",
            "CORS_ORIGINS",
            message="CORS_ENABLED=true allows no origin while CORS_ORIGINS is empty",
        )


def _judge_vault(result: Derived) -> None:
    values = result.values
    scheme, _, location = values["VAULT__URL"].partition("://")
    if values["VAULT__ENABLED"] == "true" and scheme == "http" and not _is_on_box(location):
        result.warn("VAULT__URL", message="http:// sends VAULT__TOKEN over the network as it is")


def _judge_alerts(result: Derived) -> None:
    values = result.values
    for channel, (first, *others) in CHANNEL_SETTINGS.items():
        missing = [name for name in others if not values[name]]
        if values[first] and missing:
            result.warn(
                first,
                *missing,
                message=f"no alert is sent by {channel}: {' and '.join(missing)} is not given",
            )
    if values["SMTP__HOST"] and values["SMTP__PASSWORD"] and values["SMTP__SECURITY"] == "none":
        result.warn("SMTP__SECURITY", message="none sends SMTP__PASSWORD over the network as it is")


def _judge_tls(result: Derived) -> None:
    values = result.values
    address = split_url(values["DATABASE_URL"])
    mode = values["DB_SSLMODE"]
    if mode in _WEAK_TLS and not address.on_this_box:
        result.warn(
            "DB_SSLMODE",
            message=f"{mode} does not prove that {', '.join(host.host for host in address.hosts())}"
            " is the database that is meant; verify-full does",
        )
    if mode == "disable" and values["DB_SSLROOTCERT"]:
        result.warn(
            "DB_SSLMODE",
            "DB_SSLROOTCERT",
            message="DB_SSLROOTCERT has no effect while DB_SSLMODE=disable",
        )
