# SPDX-License-Identifier: Apache-2.0
"""Where settings come from: each source read into one layer of candidates."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from edgepaas.settings.derive import SettingProblem, is_own_name, nested_names
from edgepaas.settings.envfile import (
    UnreadableFile,
    decode_text,
    read_env_file,
    read_regular_file,
)
from edgepaas.settings.kinds import LONGEST_VALUE, unfit_character
from edgepaas.settings.table import SETTINGS

#: Read by edgepaas.files.paths from the process environment alone.
_ENVIRONMENT_ONLY = frozenset({"EDGEPAAS_HOME", "EDGEPAAS_ENV_FILE", "EDGEPAAS_TRACEBACK"})
_MOST_UNKNOWN = 20


@dataclass(frozen=True)
class Candidate:
    """The value that one source gives a name: *where* is for people, *source* for the contract."""

    text: str = field(repr=False)
    source: str
    where: str
    notes: tuple[str, ...] = ()


@dataclass
class Layer:
    """One source: candidates by name, and the findings about it."""

    candidates: dict[str, Candidate] = field(default_factory=dict)
    findings: list[SettingProblem] = field(default_factory=list)

    def warn(self, *names: str, message: str) -> None:
        self.findings.append(SettingProblem("warning", names, message))


def from_environment(environ: Mapping[str, str], known: Collection[str] = SETTINGS) -> Layer:
    """Read the process environment: *known* names, their NAME_FILE, NAME__HOST, APP_."""
    layer = Layer()
    nested = nested_names(environ)
    for name, text in environ.items():
        if is_own_name(name):
            layer.candidates[name] = Candidate(text, "environment", "environment")
        elif name in known or name in nested or _file_of(name, known):
            bare, notes = _bare(text)
            layer.candidates[name] = Candidate(bare, "environment", "environment", notes)
    _follow_files(layer, "environment", known)
    return layer


def from_env_file(
    path: Path, known: Collection[str] = SETTINGS, *, expected: bool = False
) -> Layer:
    """Read the file of settings at *path*; *expected* when the environment names it."""
    layer = Layer()
    parsed = read_env_file(path)
    if expected and parsed.missing:
        layer.warn("EDGEPAAS_ENV_FILE", message=f"names {path}, which is not there")
    for name, message in parsed.remarks:
        if name:
            layer.warn(name, message=f"in {path} {message}")
        else:
            layer.warn(message=f"{path} {message}")
    nested = nested_names(parsed.entries)
    unknown = []
    for name, entry in parsed.entries.items():
        if name in known or name in nested or is_own_name(name) or _file_of(name, known):
            layer.candidates[name] = Candidate(
                entry.text, f"file:{entry.line}", f"{path} line {entry.line}", entry.notes
            )
        elif name in _ENVIRONMENT_ONLY:
            layer.warn(
                name,
                message=f"has no effect in {path}: it is read from the process environment alone",
            )
        else:
            unknown.append(name)
    _report_unknown(layer, unknown, str(path), known)
    _follow_files(layer, "env file", known)
    return layer


def from_credentials(folder: Path | None, known: Collection[str] = SETTINGS) -> Layer:
    """Read systemd's credentials (systemd.exec(5), LoadCredential=): a file for each setting.

    A file is named as the setting, in any case, with or without ``edgepaas.`` before it.
    """
    layer = Layer()
    if folder is None:
        return layer
    try:
        files = sorted(folder.iterdir())
    except OSError as error:
        layer.warn("CREDENTIALS_DIRECTORY", message=f"{folder} cannot be read ({error.strerror})")
        return layer
    unknown = []
    for file in files:
        prefixed = file.name.lower().startswith("edgepaas.")
        bare = file.name[len("edgepaas.") :] if prefixed else file.name
        name = bare if is_own_name(bare) else bare.upper()
        if name not in known and not is_own_name(name):
            if prefixed:  # others' credentials may lie here too
                unknown.append(name)
            continue
        text = _read_value(layer, file, f"the credential {file.name}", name)
        if text is None:
            continue
        if name in layer.candidates:
            other = layer.candidates[name].where
            layer.warn(
                name,
                message=f"is given by {other} and by the credential {file.name}; the first is used",
            )
            continue
        layer.candidates[name] = Candidate(text, "credentials", f"the credential {file.name}")
    _report_unknown(layer, unknown, "the credentials", known)
    return layer


def from_vault(secret: Mapping[str, str], where: str, known: Collection[str] = SETTINGS) -> Layer:
    """Take the keys of a Vault secret, in any case, for settings' names."""
    layer = Layer()
    unknown = []
    for key, text in secret.items():
        name = key if is_own_name(key) else key.strip().upper()
        if name in known or is_own_name(name) or name in nested_names([name]):
            layer.candidates[name] = Candidate(text, "vault", where)
        else:
            unknown.append(name)
    _report_unknown(layer, unknown, where, known)
    return layer


def _file_of(name: str, known: Collection[str]) -> str:
    """Return the setting that NAME_FILE gives, empty when *name* is none such."""
    setting = name.removesuffix("_FILE")
    return setting if setting != name and setting in known and name not in known else ""


def _follow_files(layer: Layer, source: str, known: Collection[str]) -> None:
    for name in [n for n in layer.candidates if _file_of(n, known)]:
        pointer, setting = layer.candidates.pop(name), _file_of(name, known)
        if not pointer.text.strip():
            continue
        direct = layer.candidates.get(setting)
        if direct is not None and direct.text.strip():
            layer.warn(setting, name, message=f"both are set in the {source}; {setting} is used")
            continue
        text = _read_value(layer, Path(pointer.text.strip()), name, setting)
        if text is not None:
            where = f"{name} ({pointer.where})"
            layer.candidates[setting] = Candidate(text, pointer.source, where)


def _read_value(layer: Layer, file: Path, what: str, name: str) -> str | None:
    """Return a value's file without the line's end behind it, None with a warning."""
    try:
        data = read_regular_file(file, 4 * LONGEST_VALUE + 1)
        return decode_text(data).rstrip("\r\n")
    except FileNotFoundError:
        message = f"{file} is not there"
    except UnreadableFile as error:
        message = f"{file} {error}"
    layer.warn(name, message=f"is not taken from {what}: {message}")
    return None


def _bare(text: str) -> tuple[str, tuple[str, ...]]:
    # 'docker run --env-file' hands quotes through as part of the value.
    stripped = text.strip()
    if len(stripped) >= 2 and stripped[0] == stripped[-1] and stripped[0] in "'\"":
        return stripped[1:-1], ("quotes taken off",)
    return text, ()


def _report_unknown(layer: Layer, names: Iterable[str], where: str, known: Collection[str]) -> None:
    names = list(names)
    if not names:
        return
    import difflib

    for name in names[:_MOST_UNKNOWN]:
        shown = name if len(name) <= 60 else f"{name[:60]}…"
        near = difflib.get_close_matches(name[:60], known, n=1, cutoff=0.75)
        hint = f"; did you mean {near[0]}?" if near else "; 'edgepaas settings' lists them"
        layer.warn(shown, message=f"in {where} is not a setting{hint}")
    if len(names) > _MOST_UNKNOWN:
        rest = len(names) - _MOST_UNKNOWN
        layer.warn(message=f"{rest} more names in {where} are not settings")


def own_values(layers: Iterable[Layer]) -> tuple[dict[str, str], list[SettingProblem]]:
    """Return the application's own names (APP_…), untouched, the highest source first.

    What no contract can carry (a control character, too much of it) is left out and said.
    """
    found: dict[str, str] = {}
    findings = []
    room = 8 * LONGEST_VALUE
    for layer in layers:
        for name, candidate in layer.candidates.items():
            if not is_own_name(name) or name in found:
                continue
            unfit = unfit_character(candidate.text)
            room -= len(candidate.text)
            if unfit or len(candidate.text) > LONGEST_VALUE or room < 0:
                reason = f"it holds the control character {unfit}" if unfit else "it is too long"
                message = f"is not handed on from {candidate.where}: {reason}"
                findings.append(SettingProblem("warning", (name,), message))
                continue
            found[name] = candidate.text
    return found, findings
