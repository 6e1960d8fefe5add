# SPDX-License-Identifier: Apache-2.0
"""Resolving: every source in its order, each value read, completed and judged.

Highest first: process environment, systemd credentials, the file of settings, Vault or
OpenBao, the defaults. Pure but for the files that it is given and the secret's server.
"""

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from edgepaas.files.paths import SYSTEM_CONFIGURATION, Paths
from edgepaas.settings.derive import Derived, SettingProblem, derive, nested_names
from edgepaas.settings.kinds import Malformed, Setting
from edgepaas.settings.own import Declare, declare_none
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
    """The settings, the origin of each by name, and all findings."""

    settings: Settings
    provenance: Mapping[str, Origin]
    findings: Sequence[SettingProblem]
    #: The settings that the application declares, by name.
    own: Mapping[str, Setting] = field(default_factory=dict)

    @property
    def errors(self) -> list[SettingProblem]:
        """The findings with which the chain cannot go on."""
        return [finding for finding in self.findings if finding.severity == "error"]


def resolve_box(paths: Paths, declare: Declare = declare_none) -> Resolution:
    """Resolve this process's environment and the files of *paths*.

    *declare* knows which settings the application declares itself
    (:func:`edgepaas.hosting.settings.declared_by`); without it the table's are resolved.

    On an installed box ENV is production also when its file of settings is gone or
    unreadable: an accident must not open it to every user.
    """
    installed = paths.env_file.is_relative_to(SYSTEM_CONFIGURATION)
    fallback = {"ENV": "production"} if installed else {}
    return resolve(
        os.environ,
        paths.env_file,
        credentials_folder(os.environ),
        fallback=fallback,
        declare=declare,
    )


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
    declare: Declare = declare_none,
) -> Resolution:
    """Resolve all sources; never raises for what a person wrote in them.

    *fallback* holds the package's values, where no source gives one; *declare* is asked for the
    settings of the application that the sources name. A value that cannot be read is
    reported and its default is used. What has no sane reading is a finding of severity
    ``error``; it is the caller's to stop at it.
    """
    files = _Files(environ, env_file, credentials_dir)
    package = Layer(
        {name: Candidate(text, "package", "the package") for name, text in (fallback or {}).items()}
    )
    layers = files.layers(SETTINGS)
    secret, findings = _ask_vault([*layers, package], vault)
    own, not_known = declare(_application(_choose([*layers, *secret.layers(SETTINGS), package])))
    known = {**SETTINGS, **own}
    if own:  # read once more: only now are its names known
        layers = files.layers(known)
    layers += [*secret.layers(known), package]
    chosen = _choose(layers)
    reading = _Reading()
    for name, candidate in chosen.items():
        if name in known:
            reading.take(known[name], candidate)
    nested = {name: chosen[name].text for name in nested_names(chosen)}
    given = frozenset(reading.values) - reading.unreadable
    derived = derive(
        reading.values, nested, given=given, unreadable=reading.unreadable, hostname=hostname
    )
    extra, extra_findings = own_values(layers)
    sources = {name: chosen[name].source for name in given}
    values = {**derived.values, **{name: reading.value(setting) for name, setting in own.items()}}
    settings = Settings(values, given, extra, sources, reading.unreadable, own=own)
    findings = [
        *(finding for layer in layers for finding in layer.findings),
        *findings,
        *not_known,
        *reading.findings,
        *extra_findings,
        *derived.findings,
    ]
    provenance = _provenance(known, chosen, reading, derived)
    return Resolution(settings, provenance, _bounded(findings), own)


class _Files(NamedTuple):
    """The sources on this box."""

    environ: Mapping[str, str]
    env_file: Path
    credentials: Path | None

    def layers(self, known: Collection[str]) -> list[Layer]:
        """Read them, the highest first; what is not a *known* name is reported."""
        expected = bool(self.environ.get("EDGEPAAS_ENV_FILE"))
        return [
            from_environment(self.environ, known),
            from_credentials(self.credentials, known),
            from_env_file(self.env_file, known, expected=expected),
        ]


class _Secret(NamedTuple):
    """What Vault holds; None where it is not asked or did not answer."""

    content: Mapping[str, str] | None = None
    where: str = ""

    def layers(self, known: Collection[str]) -> list[Layer]:
        """Return it as one layer, or none."""
        return [] if self.content is None else [from_vault(self.content, self.where, known)]


def _application(chosen: Mapping[str, Candidate]) -> str:
    """Return what EDGEPAAS_APP will be."""
    setting = SETTINGS["EDGEPAAS_APP"]
    candidate = chosen.get(setting.name)
    try:
        return setting.read(candidate.text) if candidate is not None else setting.default
    except Malformed:
        return setting.default


@dataclass
class _Reading:
    """The candidates read by their kinds, and the findings about each."""

    values: dict[str, str] = field(default_factory=dict)
    unreadable: set[str] = field(default_factory=set)
    notes: dict[str, str] = field(default_factory=dict)
    findings: list[SettingProblem] = field(default_factory=list)

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

    def value(self, setting: Setting) -> str:
        """Return what was read of *setting*, else its default."""
        return self.values.get(setting.name, setting.default)

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
        self.findings.append(SettingProblem("warning", (name,), message))
        self.unreadable.add(name)
        self.notes[name] = f"cannot be read: {MASK if setting.secret else shown}"
        if setting.if_malformed:
            self.values[name] = setting.if_malformed


def _bounded(findings: list[SettingProblem]) -> list[SettingProblem]:
    """Keep errors and alerts, and as many warnings as a journal can hold."""
    plain = [f for f in findings if f.severity == "warning" and not f.alert]
    left_out = {id(finding) for finding in plain[_MOST_WARNINGS:]}
    if not left_out:
        return findings
    kept = [finding for finding in findings if id(finding) not in left_out]
    return [*kept, SettingProblem("warning", (), f"{len(left_out)} more warnings like these")]


def _choose(layers: Sequence[Layer]) -> dict[str, Candidate]:
    """Return each name's highest candidate; an empty value is no value."""
    chosen: dict[str, Candidate] = {}
    for layer in layers:
        for name, candidate in layer.candidates.items():
            if candidate.text.strip():
                chosen.setdefault(name, candidate)
    return chosen


def _ask_vault(layers: Sequence[Layer], vault: ReadVault) -> tuple[_Secret, list[SettingProblem]]:
    """Return Vault's secret when it is enabled; what its own settings lack is reported by name."""
    reading = _Reading()
    for name, candidate in _choose(layers).items():
        if name in SETTINGS and name.startswith(("VAULT__", "ENV")):
            reading.take(SETTINGS[name], candidate)
    if reading.values.get("VAULT__ENABLED") != "true":
        return _Secret(), []

    def value(name: str) -> str:
        return reading.values.get(name) or SETTINGS[name].default

    for name in ("VAULT__URL", "VAULT__TOKEN"):
        if not value(name):
            message = (
                f"is missing, though VAULT__ENABLED=true; give {name}, or VAULT__ENABLED=false"
            )
            return _Secret(), [_vault_finding(value("ENV"), (name, "VAULT__ENABLED"), message)]
    url, path = value("VAULT__URL"), value("VAULT__PATH")
    access = VaultAccess(
        url, value("VAULT__TOKEN"), path, value("VAULT__CACERT"), float(value("VAULT__TIMEOUT"))
    )
    try:
        secret = vault(access)
    except VaultUnavailable as error:
        message = f"no settings from there: {error}"
        return _Secret(), [_vault_finding(value("ENV"), ("VAULT__URL",), message)]
    return _Secret(secret, f"Vault {path}"), []


def _vault_finding(env: str, names: tuple[str, ...], message: str) -> SettingProblem:
    if env == "development":
        return SettingProblem(
            "warning", names, f"{message}; going on without, since ENV=development"
        )
    return SettingProblem("error", names, f"{message}; ENV={env} does not go on without")


def _provenance(
    known: Collection[str], chosen: Mapping[str, Candidate], reading: _Reading, derived: Derived
) -> dict[str, Origin]:
    provenance = {}
    for name in known:
        note = "; ".join(n for n in (reading.notes.get(name), derived.notes.get(name)) if n)
        candidate = chosen.get(name)
        if candidate is not None:
            source = "default" if name in reading.unreadable else candidate.where
            provenance[name] = Origin(source, candidate.text, note)
        else:
            source = "derived" if name in derived.notes else "default"
            provenance[name] = Origin(source, "", note)
    return provenance
