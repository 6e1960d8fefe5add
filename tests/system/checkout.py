# SPDX-License-Identifier: Apache-2.0
"""This repository as a fresh clone would hold it: what git tracks or would track."""

import shutil
import subprocess
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]


def copy_checkout(target: Path) -> Path:
    """Copy the tree as it is to *target*, without its history and what was built in it."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=REPOSITORY, capture_output=True, check=True,
    ).stdout  # fmt: skip
    for name in filter(None, listed.decode().split("\0")):
        source = REPOSITORY / name
        if source.is_symlink() or source.is_file():  # else deleted, not yet committed
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target / name, follow_symlinks=False)
    return target
