# SPDX-License-Identifier: Apache-2.0
"""BUILD_VERSION: which build this is, as version and commit."""

import importlib
from functools import cache
from pathlib import Path

from edgepaas import __version__


@cache
def build_version() -> str:
    """Return e.g. ``0.1.0+g1a2b3c4d5e6f``: what the build recorded, else the checkout's commit.

    A package records its version in ``edgepaas/_build.py`` when it is built. In a
    checkout the commit is read from ``.git`` itself: a process start for ``git``
    would cost each stage more than its own work.
    """
    try:
        # By its name: a checkout has no such module, and a type checker must not miss it.
        return str(importlib.import_module("edgepaas._build").BUILD_VERSION)
    except ModuleNotFoundError:
        commit = _checkout_commit(Path(__file__).resolve().parent.parent / ".git")
        return f"{__version__}+g{commit[:12]}" if commit else __version__


def _checkout_commit(git: Path) -> str:
    try:
        head = (git / "HEAD").read_text(encoding="ascii").strip()
        if not head.startswith("ref: "):
            return head
        name = head.removeprefix("ref: ")
        loose = git / name
        if loose.is_file():
            return loose.read_text(encoding="ascii").strip()
        for line in (git / "packed-refs").read_text(encoding="ascii").splitlines():
            commit, _, ref = line.partition(" ")
            if ref == name:
                return commit
    except (OSError, UnicodeDecodeError):
        return ""  # not a checkout, or a worktree's: the version alone is still true
    return ""
