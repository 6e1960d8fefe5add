# SPDX-License-Identifier: Apache-2.0
"""The settings for people: masked values, the commented file, the reference."""

from collections.abc import Iterable, Mapping
from typing import Any

from edgepaas.logs.redact import redact
from edgepaas.settings.kinds import Setting
from edgepaas.settings.resolve import Resolution
from edgepaas.settings.table import SECTIONS, SETTINGS
from edgepaas.settings.urls import MASK, AddressError, split_url

_WIDTH = 96

#: Section's title → its settings.
Groups = Mapping[str, tuple[Setting, ...]]


def masked_value(setting: Setting, text: str) -> str:
    """Return a value as every user may see it: secrets masked, passwords removed from URLs."""
    if not text:
        return ""
    if setting.kind == "database_url":
        try:
            return split_url(text).masked()
        except AddressError:
            return MASK
    if setting.secret:
        return MASK
    # Item by item: "a=tcp://x:1,b=redis://:pw@y" has one password, not a longer one.
    return ",".join(redact(item) for item in text.split(","))


def explain_rows(resolution: Resolution) -> list[tuple[str, str, str, str]]:
    """Return (name, value, source, what was changed) for each setting and own name."""
    values, known = resolution.settings.values(), {**SETTINGS, **resolution.own}
    rows = [
        (name, masked_value(known[name], values[name]), origin.source, redact(origin.changed))
        for name, origin in resolution.provenance.items()
    ]
    # The application's own variables may hold anything, secrets too.
    rows += [(name, MASK, "the application's own", "") for name in resolution.settings.extra]
    return rows


def explain_json(resolution: Resolution) -> dict[str, Any]:
    """Return the same for programs, with the findings."""
    return {
        "settings": {
            name: {
                "value": value,
                "source": source,
                "raw": _raw(resolution, name),
                "changed": changed,
                "given": name in resolution.provenance and resolution.settings.is_given(name),
            }
            for name, value, source, changed in explain_rows(resolution)
        },
        "services": [
            {"name": s.name, "address": s.address, "required": s.required}
            for s in resolution.settings.services
        ],
        "findings": [
            {
                "severity": finding.severity,
                "settings": list(finding.names),
                "message": redact(finding.message),
            }
            for finding in resolution.findings
        ],
    }


def _raw(resolution: Resolution, name: str) -> str:
    origin = resolution.provenance.get(name)
    if origin is None or not origin.raw:
        return ""
    return MASK if {**SETTINGS, **resolution.own}[name].secret else redact(origin.raw)[:1000]


def default_of(setting: Setting) -> str:
    """Return the default for people: ``8MiB``, ``the host name``, ``none``."""
    if setting.derived:
        return setting.derived
    if setting.kind == "size":
        return readable_size(int(setting.default))
    return setting.default or "none"


def readable_size(size: int) -> str:
    """Return e.g. ``8MiB``: the largest unit that keeps the number whole."""
    for factor, unit in ((1024**3, "GiB"), (1024**2, "MiB"), (1024, "KiB")):
        if size and size % factor == 0:
            return f"{size // factor}{unit}"
    return str(size)


def sections(application: str, own: Iterable[Setting]) -> dict[str, tuple[Setting, ...]]:
    """Return the table's sections, and one of the *application*'s own settings if it has some."""
    found = tuple(own)
    return {**SECTIONS, **({f"Application {application}": found} if found else {})}


def env_file_template(given: Mapping[str, str] | None = None, groups: Groups = SECTIONS) -> str:
    """Return a commented file of the settings in *groups*; what *given* names is set in it."""
    given = given or {}
    lines = [
        "# Settings of EdgePaaS. One NAME=value a line; what is commented out has its default.",
        "# 'edgepaas env --explain' shows each value and where it came from. Any setting can be",
        "# read from a file instead (NAME_FILE=/path), or be a systemd credential of its name.",
    ]
    for title, settings in groups.items():
        lines += ["", f"## {title}"]
        for setting in settings:
            lines += ["", *_comment(setting.help)]
            lines += _comment(f"Allowed: {setting.allowed}. Default: {default_of(setting)}.")
            if setting.name in given:
                lines.append(f"{setting.name}={given[setting.name]}")
            else:
                plain = "" if setting.derived else setting.default
                if setting.kind == "size":
                    plain = readable_size(int(plain))
                lines.append(f"#{setting.name}={plain}")
    return "\n".join(lines) + "\n"


#: The head of docs/settings.md.
_REFERENCE_HEAD = """\
# Settings

<!-- Written by 'make docs' ('edgepaas settings --markdown'); not to be edited here. -->

Sources, the highest first: the process environment, systemd credentials, the file of settings,
Vault or OpenBao, the defaults. The file is `/etc/edgepaas/edgepaas.env` on an installed box;
without systemd it is `$EDGEPAAS_HOME/edgepaas.env`, or the file that `EDGEPAAS_ENV_FILE` names;
`make run` takes a `.env` in the current folder. Any setting can be given as
`NAME_FILE=/path/of/a/file` that holds its value. A value that cannot be read is reported and
takes its default.

`edgepaas settings` shows what is in force, and where each value came from.
"""


def markdown_reference(groups: Groups = SECTIONS) -> str:
    """Return docs/settings.md: how settings are read, then one table for each of *groups*."""
    lines = [_REFERENCE_HEAD]
    for title, settings in groups.items():
        lines += [f"## {title}", "", "| setting | default | meaning |", "|---|---|---|"]
        for setting in settings:
            default = _cell(default_of(setting))
            plain = default if setting.derived else f"`{default}`"
            secret = " Secret." if setting.secret else ""
            meaning = _cell(f"{setting.help}{secret} Allowed: {setting.allowed}.")
            lines.append(f"| `{setting.name}` | {plain} | {meaning} |")
        lines.append("")
    return "\n".join(lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _comment(text: str) -> Iterable[str]:
    line = "#"
    for word in text.split():
        if len(line) + 1 + len(word) > _WIDTH:
            yield line
            line = "#"
        line += f" {word}"
    yield line
