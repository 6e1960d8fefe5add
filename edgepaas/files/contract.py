# SPDX-License-Identifier: Apache-2.0
"""Contract files: ``NAME="value"`` lines that systemd and a POSIX shell read alike.

A stage hands its result to the next one in such a file. systemd's EnvironmentFile=
(systemd.exec(5)) and sh agree on the double-quoted form with ``\\``, ``"``, ``$`` and
the back-tick escaped, so that is the only form written.
"""

import re
from collections.abc import Mapping
from pathlib import Path

from edgepaas.errors import ConfigurationError
from edgepaas.files.atomic import remove_durably, write_atomic

#: No stage writes more; a file that something else enlarged must not hold the boot.
MOST_BYTES = 1024 * 1024

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_LINE = re.compile(r'([A-Za-z_][A-Za-z0-9_]*)="((?:[^"\\]|\\.)*)"\Z')
_NEEDS_ESCAPE = re.compile(r'(["\\$`])')
_ESCAPED = re.compile(r'\\(["\\$`])')
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0a-\x1f\x7f\ud800-\udfff]")


class ContractMissing(ConfigurationError):
    """The stage that writes this contract has not run, or failed."""


def render_contract(values: Mapping[str, str]) -> str:
    """Return the file's text; ValueError for a name or a value that no line can carry."""
    lines = []
    for name, value in values.items():
        if not _NAME.match(name):
            raise ValueError(f"{name!r} is not a variable's name")
        if _UNPRINTABLE.search(value):
            raise ValueError(f"{name} holds a control character, which no contract can carry")
        escaped = _NEEDS_ESCAPE.sub(r"\\\1", value)
        lines.append(f'{name}="{escaped}"\n')
    return "".join(lines)


def parse_contract(text: str) -> dict[str, str]:
    """Return the values of a contract's *text*; ValueError names the first line that is none."""
    values: dict[str, str] = {}
    for number, line in enumerate(text.split("\n"), start=1):
        if not line or line.startswith("#"):
            continue
        match = _LINE.match(line)
        if match is None:
            raise ValueError(f'line {number} is not NAME="value"')
        values[match[1]] = _ESCAPED.sub(r"\1", match[2])
    return values


def write_contract(path: Path, values: Mapping[str, str]) -> None:
    """Write *values* atomically to *path*, mode 0600."""
    write_atomic(path, render_contract(values), mode=0o600)


def read_contract(path: Path, *, written_by: str) -> dict[str, str]:
    """Read *path*; ContractMissing names the stage *written_by* that has to run first."""
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise ValueError(f"it is larger than {MOST_BYTES} bytes")
        return parse_contract(content.decode("utf-8"))
    except FileNotFoundError:
        raise ContractMissing(
            f"{path} is not there: run 'edgepaas {written_by}' first "
            f"('systemctl status edgepaas-{written_by}' on an installed box)"
        ) from None
    except (OSError, ValueError) as error:
        raise ContractMissing(
            f"{path} cannot be used ({error}): run 'edgepaas {written_by}' to write it anew"
        ) from error


def withdraw_contract(path: Path) -> None:
    """Delete the contract before the stage begins, so that a failed stage leaves none."""
    remove_durably(path)
