# SPDX-License-Identifier: Apache-2.0
"""Resolving: every source in its order, each value read, completed and judged.

Highest first: process environment, systemd credentials, the file of settings, Vault or
OpenBao, the defaults. Pure but for the files that it is given and the secret's server.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from edgepaas.files.paths import SYSTEM_CONFIGURATION, Paths
from edgepaas.settings.derive import Derived, Finding, derive, nested_names
from edgepaas.settings.kinds import Malformed, Setting
from edgepaas.settings.sources import (
    Candidate,
    Layer,
    from_credentials,
    from_env_file,
    from_environment,
    from_vault,
    own_values,
)
from edgepaas.settings.table import SETTINGS
from edgepaas.settings.urls import MASK, shortened
from edgepaas.settings.values import Settings
from edgepaas.settings.vault import VaultAccess, VaultUnavailable, read_vault

_MOST_WARNINGS = 100

ReadVault = Callable[[VaultAccess], Mapping[str, str]]


@dataclass(frozen=True)
class Origin:
    """Where a value came from, as it was written, and what was changed on the way."""

    source: str
    raw: str = field(default="", repr=False)
    changed: str = ""


@dataclass(frozen=True)
class Resolution:
    """The settings, each one's origin by name, and everything a person should know."""

    settings: Settings
    provenance: Mapping[str, Origin]
    findings: Sequence[Finding]

    @property
    def errors(self) -> list[Finding]:
        """The findings with which the chain cannot go on."""
        return [finding for finding in self.findings if finding.severity == "error"]


def resolve_box(paths: Paths) -> Resolution:
    """Resolve this process's environment and the files of *paths*.

    On an installed box ENV is production also when its file of settings is gone or
    unreadable: an accident must not open it to everybody.
    """
    installed = paths.env_file.is_relative_to(SYSTEM_CONFIGURATION)
    fallback = {"ENV": "production"} if installed else {}
    return resolve(os.environ, paths.env_file, credentials_folder(os.environ), fallback=fallback)


def credentials_folder(environ: Mapping[str, str]) -> Path | None:
    """Return the folder of systemd's credentials, None where the unit has none."""
    folder = environ.get("CREDENTIALS_DIRECTORY", "")
    return Path(folder) if folder else None


def resolve(
    environ: Mapping[str, str],
    env_file: Path,
    credentials_dir: Path | None,
    *,
    vault: ReadVault = read_vault,
    hostname: str = "",
    fallback: Mapping[str, str] | None = None,
) -> Resolution:
    """Resolve all sources; never raises for what a person wrote in them.

    *fallback* holds what the package says where no source does.

    A value that cannot be read is reported and its default is used. What has no sane
    reading is a finding of severity ``error``; it is the caller's to stop at it.
    """
    layers = [
        from_environment(environ),
        from_credentials(credentials_dir),
        from_env_file(env_file, expected=bool(environ.get("EDGEPAAS_ENV_FILE"))),
    ]
    package = Layer(
        {name: Candidate(text, "package", "the package") for name, text in (fallback or {}).items()}
    )
    findings = _ask_vault(layers, package, vault)
    layers.append(package)
    chosen = _choose(layers)
    reading = _Reading()
    for name, candidate in chosen.items():
        if name in SETTINGS:
            reading.take(SETTINGS[name], candidate)
    nested = {name: chosen[name].text for name in nested_names(chosen)}
    given = frozenset(reading.values) - reading.unreadable
    derived = derive(
        reading.values, nested, given=given, unreadable=reading.unreadable, hostname=hostname
    )
    extra, extra_findings = own_values(layers)
    sources = {name: chosen[name].source for name in given}
    settings = Settings(derived.values, given, extra, sources, reading.unreadable)
    findings = [
        *(finding for layer in layers for finding in layer.findings),
        *findings,
        *reading.findings,
        *extra_findings,
        *derived.findings,
    ]
    return Resolution(settings, _provenance(chosen, reading, derived), _bounded(findings))


@dataclass
class _Reading:
    """The candidates read by their kinds, and what was said about each."""

    values: dict[str, str] = field(default_factory=dict)
    unreadable: set[str] = field(default_factory=set)
    notes: dict[str, str] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    def take(self, setting: Setting, candidate: Candidate) -> None:
        """Read one value; a malformed one is reported, and its default is left to be filled in."""
        name = setting.name
        try:
            value = setting.read(candidate.text)
        except Malformed as error:
            self._report(setting, candidate, error)
            return
        self.values[name] = value
        notes = list(candidate.notes)
        if value != candidate.text:
            notes.append("normalised" if setting.secret else f"read as {value or 'none'}")
        self.notes[name] = "; ".join(notes)

    def _report(self, setting: Setting, candidate: Candidate, error: Malformed) -> None:
        name = setting.name
        instead = setting.if_malformed or setting.default
        shown = "its value" if setting.secret else shortened(candidate.text.strip())
        if name == "DATABASE_URL":
            rest = f"it is left out; allowed: {setting.allowed}"
        else:
            default = f"the default, {setting.derived}," if setting.derived else instead
            rest = f"{default or 'nothing'} is used; allowed: {setting.allowed}"
        message = f"{shown} {error} ({candidate.where}); {rest}"
        self.findings.append(Finding("warning", (name,), message))
        self.unreadable.add(name)
        self.notes[name] = f"cannot be read: {MASK if setting.secret else shown}"
        if setting.if_malformed:
            self.values[name] = setting.if_malformed


def _bounded(findings: list[Finding]) -> list[Finding]:
    """Keep what counts, and so much of the rest that a journal can hold it."""
    plain = [f for f in findings if f.severity == "warning" and not f.alert]
    left_out = {id(finding) for finding in plain[_MOST_WARNINGS:]}
    if not left_out:
        return findings
    kept = [finding for finding in findings if id(finding) not in left_out]
    return [*kept, Finding("warning", (), f"{len(left_out)} more warnings like these")]


def _choose(layers: Sequence[Layer]) -> dict[str, Candidate]:
    """Return each name's highest candidate; an empty value is no value."""
    chosen: dict[str, Candidate] = {}
    for layer in layers:
        for name, candidate in layer.candidates.items():
            if candidate.text.strip():
                chosen.setdefault(name, candidate)
    return chosen


def _ask_vault(layers: list[Layer], package: Layer, vault: ReadVault) -> list[Finding]:
    """Append Vault's layer when it is enabled; what its own settings lack is said by name."""
    reading = _Reading()
    for name, candidate in _choose([*layers, package]).items():
        if name in SETTINGS and name.startswith(("VAULT__", "ENV")):
            reading.take(SETTINGS[name], candidate)
    if reading.values.get("VAULT__ENABLED") != "true":
        return []

    def value(name: str) -> str:
        return reading.values.get(name) or SETTINGS[name].default

    for name in ("VAULT__URL", "VAULT__TOKEN"):
        if not value(name):
            message = (
                f"is missing, though VAULT__ENABLED=true; give {name}, or VAULT__ENABLED=false"
            )
            return [_vault_finding(value("ENV"), (name, "VAULT__ENABLED"), message)]
    url, path = value("VAULT__URL"), value("VAULT__PATH")
    access = VaultAccess(
        url, value("VAULT__TOKEN"), path, value("VAULT__CACERT"), float(value("VAULT__TIMEOUT"))
    )
    try:
        secret = vault(access)
    except VaultUnavailable as error:
        return [_vault_finding(value("ENV"), ("VAULT__URL",), f"no settings from there: {error}")]
    layers.append(from_vault(secret, f"Vault {path}"))
    return []


def _vault_finding(env: str, names: tuple[str, ...], message: str) -> Finding:
    if env == "development":
        return Finding("warning", names, f"{message}; going on without, since ENV=development")
    return Finding("error", names, f"{message}; ENV={env} does not go on without")


def _provenance(
    chosen: Mapping[str, Candidate], reading: _Reading, derived: Derived
) -> dict[str, Origin]:
    provenance = {}
    for name in SETTINGS:
        note = "; ".join(n for n in (reading.notes.get(name), derived.notes.get(name)) if n)
        candidate = chosen.get(name)
        if candidate is not None:
            source = "default" if name in reading.unreadable else candidate.where
            provenance[name] = Origin(source, candidate.text, note)
        else:
            source = "derived" if name in derived.notes else "default"
            provenance[name] = Origin(source, "", note)
    return provenance
