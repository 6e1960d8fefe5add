# SPDX-License-Identifier: Apache-2.0
"""The resolved settings, typed: what every later stage reads from ``run/env``."""

from collections.abc import Collection, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from edgepaas.errors import ConfigurationError
from edgepaas.files.contract import ContractMissing, read_contract, write_contract
from edgepaas.settings.derive import derive, is_own_name, nested_names
from edgepaas.settings.kinds import Malformed, Setting
from edgepaas.settings.services import ServiceAddress, read_services
from edgepaas.settings.table import SETTINGS
from edgepaas.settings.urls import split_url

#: Entries of the contract that are no settings: the names that were set, from where, and
#: those that were set to what cannot be read.
GIVEN = "EDGEPAAS_SETTINGS_GIVEN"
SOURCES = "EDGEPAAS_SETTINGS_SOURCES"
UNREADABLE = "EDGEPAAS_SETTINGS_UNREADABLE"
#: Names of the application's own settings, those of secrets with a "!" behind them.
OWN = "EDGEPAAS_SETTINGS_OWN"


class Settings:
    """Every setting of the table and of the application's own, resolved and immutable.

    *values* maps each name to canonical text; *given* names those that some source sets;
    *extra* holds the application's own variables (``APP_…``); *own* are the settings that
    the application declares, whose values are among *values*; *sources* says for each given
    name where its value came from (``environment``, ``credentials``, ``file:12``,
    ``vault``); *unreadable* names those that were set to what cannot be read.
    """

    __slots__ = (
        "_given",
        "_own_secrets",
        "_unreadable",
        "_values",
        "extra",
        "own",
        "services",
        "sources",
    )

    _values: Mapping[str, str]
    _given: frozenset[str]
    _unreadable: frozenset[str]
    _own_secrets: frozenset[str]
    extra: Mapping[str, str]
    own: frozenset[str]
    services: tuple[ServiceAddress, ...]
    sources: Mapping[str, str]

    def __init__(
        self,
        values: Mapping[str, str],
        given: frozenset[str] = frozenset(),
        extra: Mapping[str, str] | None = None,
        sources: Mapping[str, str] | None = None,
        unreadable: Collection[str] = (),
        *,
        own: Mapping[str, Setting] | None = None,
    ) -> None:
        put = super().__setattr__
        put("_values", MappingProxyType(dict(values)))
        put("_given", frozenset(given))
        put("_unreadable", frozenset(unreadable))
        put("extra", MappingProxyType(dict(extra or {})))
        put("sources", MappingProxyType(dict(sources or {})))
        put("own", frozenset(own or ()))
        put("_own_secrets", frozenset(s.name for s in (own or {}).values() if s.secret))
        put("services", tuple(self._services()))

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"settings are immutable; {name} cannot be assigned")

    def __repr__(self) -> str:
        return f"<Settings ENV={self.text('ENV')}, {len(self._given)} given>"

    def text(self, name: str) -> str:
        """Return a setting's canonical text; KeyError for a name that nothing declares."""
        return self._values[name]

    def integer(self, name: str) -> int:
        """Return a whole number."""
        return int(self._values[name])

    def number(self, name: str) -> float:
        """Return a number: seconds, percent, degrees."""
        return float(self._values[name])

    def flag(self, name: str) -> bool:
        """Return a boolean."""
        return self._values[name] == "true"

    def items(self, name: str) -> tuple[str, ...]:
        """Return the items of a list."""
        return tuple(item for item in self._values[name].split(",") if item)

    def size(self, name: str) -> int:
        """Return a size in bytes."""
        return int(self._values[name])

    def is_given(self, name: str) -> bool:
        """Whether a source sets it; False where the value is the default or derived."""
        if name not in self._values:
            raise KeyError(name)
        return name in self._given

    def is_unreadable(self, name: str) -> bool:
        """Whether its given value could not be parsed and was left out."""
        return name in self._unreadable

    def values(self) -> Mapping[str, str]:
        """Return every setting's canonical text, as in the contract."""
        return self._values

    def sqlite_file(self, state: Path) -> Path:
        """Return the embedded database's file; a relative path lies in the folder *state*."""
        for name in ("DATABASE_URL", "DATABASE_URL_SQLITE"):
            url = self._values[name]
            if url.startswith("sqlite:"):
                return state / split_url(url).database
        return state / "edgepaas.db"

    def log_file(self, default: Path) -> Path | None:
        """Return the log file (*default* when LOG_FILE names none), None for no file."""
        text = self._values["LOG_FILE"]
        return None if text == "none" else Path(text) if text else default

    def secrets(self) -> tuple[str, ...]:
        """Return every value that no log may show, and the parts of those that are addresses.

        What another setting shows anyway, such as a user's name that is the password as well,
        cannot be hidden by masking it.
        """
        from edgepaas.logs.secret_parts import secret_parts  # and with it logging

        values = [self._values[s.name] for s in SETTINGS.values() if s.secret]
        values += [self._values[name] for name in self._own_secrets]
        values += [service.password for service in self.services]
        shown = {self._values[s.name].lower() for s in SETTINGS.values() if not s.secret}
        parts = [part for value in values for part in secret_parts(value)]
        return tuple(part for part in dict.fromkeys(parts) if part and part.lower() not in shown)

    def contract(self) -> dict[str, str]:
        """Return the contract's entries: settings, the application's own names, who gave what."""
        sources = ",".join(f"{name}={self.sources.get(name, '')}" for name in sorted(self._given))
        return {
            **self._values,
            **self.extra,
            GIVEN: ",".join(sorted(self._given)),
            SOURCES: sources,
            UNREADABLE: ",".join(sorted(self._unreadable)),
            OWN: ",".join(
                f"{name}!" if name in self._own_secrets else name for name in sorted(self.own)
            ),
        }

    def write(self, path: Path) -> None:
        """Write the contract atomically, mode 0600."""
        write_contract(path, self.contract())

    @classmethod
    def read(cls, path: Path) -> "Settings":
        """Read ``run/env``; ContractMissing when the environment stage left none.

        A contract of an older or newer build is read too: names that it lacks, or whose
        value this build does not understand, take their defaults; unknown ones are left.
        """
        entries = read_contract(path, written_by="env")
        if GIVEN not in entries:
            raise ContractMissing(
                f"{path} is not whole: run 'edgepaas env' to write it anew"
            )  # taken for one of defaults alone, it would forget the database
        values = {}
        for name, setting in SETTINGS.items():
            text = entries.get(name)
            if text is None:
                continue
            try:
                values[name] = setting.read(text) if text else _empty(name)
            except Malformed:
                continue
        own = _named_own(entries)
        given = frozenset(entries.get(GIVEN, "").split(",")) & (SETTINGS.keys() | own.keys())
        extra = {name: text for name, text in entries.items() if is_own_name(name)}
        sources = dict(
            pair.split("=", 1) for pair in entries.get(SOURCES, "").split(",") if "=" in pair
        )
        unreadable = [name for name in entries.get(UNREADABLE, "").split(",") if name]
        complete = {
            **derive(values, {}, given=given).values,
            **{name: entries[name] for name in own},
        }
        return cls(complete, given, extra, sources, unreadable, own=own)

    def declared(self, own: Mapping[str, Setting]) -> "Settings":
        """Return these settings with all that the application declares.

        ``run/env`` may be an older build's: what it lacks of *own*, or holds in a form that
        this build does not understand, takes its default.
        """
        values = dict(self._values)
        for name, setting in own.items():
            try:
                values[name] = setting.read(values[name]) if values.get(name) else setting.default
            except Malformed:
                values[name] = setting.default
        return Settings(values, self._given, self.extra, self.sources, self._unreadable, own=own)

    @classmethod
    def of(cls, own: Mapping[str, Setting] | None = None, /, **given: str) -> "Settings":
        """Return the defaults with *given* in their place, for tests and tools.

        *own* are settings of an application. Raises ConfigurationError for an unknown name
        or a value that cannot be read.
        """
        known = {**SETTINGS, **(own or {})}
        extra = {name: text for name, text in given.items() if is_own_name(name)}
        nested = {name: text for name, text in given.items() if name in nested_names(given)}
        values = {}
        for name, text in given.items():
            if name in extra or name in nested:
                continue
            if name not in known:
                raise ConfigurationError(f"there is no setting {name}")
            try:
                values[name] = known[name].read(text) if text else ""
            except Malformed as error:
                shown = "its value" if known[name].secret else repr(text)
                raise ConfigurationError(
                    f"{name}: {shown} {error}; allowed: {known[name].allowed}"
                ) from None
        values = {name: text for name, text in values.items() if text or _may_be_empty(known[name])}
        set_here = frozenset(values)
        complete = {
            **derive(values, nested, given=set_here).values,
            **{name: values.get(name, setting.default) for name, setting in (own or {}).items()},
        }
        return cls(complete, set_here, extra, dict.fromkeys(set_here, "given"), own=own)

    def _services(self) -> list[ServiceAddress]:
        services = read_services(self.items("REQUIRED_SERVICES"), required=True)
        services += read_services(self.items("OPTIONAL_SERVICES"))
        password, host = self._values["REDIS__PASSWORD"], self._values["REDIS__HOST"]
        return [
            ServiceAddress(**{**s.__dict__, "password": password})
            if s.scheme == "redis" and not s.password and (not host or s.host == host)
            else s
            for s in services
        ]


def _named_own(entries: Mapping[str, str]) -> dict[str, Setting]:
    """Return the application's own settings as the contract names them, values unread.

    Who has to know more of them than name and secrecy loads the application
    (:meth:`Settings.declared`).
    """
    found = {}
    for item in entries.get(OWN, "").split(","):
        name = item.removesuffix("!")
        if name in entries and name not in SETTINGS:
            found[name] = Setting(name, "text", "", "", secret=item != name)
    return found


def _may_be_empty(setting: Setting) -> bool:
    return setting.off or not (setting.default or setting.derived)


def _empty(name: str) -> str:
    """An empty entry of a contract is a value only where a setting can be empty."""
    if SETTINGS[name].default:
        raise Malformed("is empty")
    return ""
