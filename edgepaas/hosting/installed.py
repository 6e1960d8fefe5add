# SPDX-License-Identifier: Apache-2.0
"""Which applications are installed: the entry points of the group ``edgepaas.application``.

``importlib.metadata`` takes longer to import than a stage of the boot chain may wait for
it; the files that it reads are simple (Python Packaging User Guide, "Entry points
specification"), and are read here. It is asked where they name no such application, since
it knows more places (zip files, importers of their own).
"""

import importlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

#: Where installed distributions announce their applications.
ENTRY_POINT_GROUP = "edgepaas.application"


def find_installed(name: str) -> str:
    """Return ``module:attribute`` of the installed application *name*, empty for none."""
    for folder in sys.path:
        for found, target in _announced(folder):
            if found == name:
                return target
    return installed_applications().get(name, "")


def installed_applications() -> dict[str, str]:
    """Return every installed application: its name and ``module:attribute``."""
    from importlib.metadata import entry_points

    return {point.name: point.value for point in entry_points(group=ENTRY_POINT_GROUP)}


def load_target(target: str) -> object:
    """Import what ``module:attribute`` names; raises what that raises."""
    module, _, attribute = target.partition(":")
    value: object = importlib.import_module(module.strip())
    for part in attribute.strip().split("."):
        value = getattr(value, part)
    return value


def _announced(folder: str) -> Iterator[tuple[str, str]]:
    """Yield (name, module:attribute) of the distributions that lie in *folder*."""
    try:
        with os.scandir(folder or ".") as entries:
            names = [entry.name for entry in entries]
    except OSError:  # a zip file, or a folder that is not there
        return
    for name in names:
        if not name.endswith((".dist-info", ".egg-info")):
            continue
        try:
            text = Path(folder, name, "entry_points.txt").read_text(encoding="utf-8")
        except (OSError, ValueError):
            continue  # most have none; importlib.metadata is asked next, and reports others
        section = ""
        for line in map(str.strip, text.splitlines()):
            if line.startswith("["):
                section = line.strip("[]").strip()
            elif section == ENTRY_POINT_GROUP and "=" in line and not line.startswith("#"):
                found, _, target = line.partition("=")
                yield found.strip(), target.partition("[")[0].strip()  # without extras
