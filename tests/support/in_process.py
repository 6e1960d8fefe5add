# SPDX-License-Identifier: Apache-2.0
"""``edgepaas COMMAND`` in the process of the test: the same words in and out, and no start."""

import importlib
import io
import os
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

from edgepaas.cli import main

ROOT = Path(__file__).resolve().parents[2]


def edgepaas_here(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run the command with these variables as well; modules of $PYTHONPATH are imported anew."""
    printed, said = _text(), _text()
    before, path = dict(os.environ), sys.path[:]
    os.environ.update(environ)
    given = [part for part in os.environ.get("PYTHONPATH", "").split(os.pathsep) if part]
    sys.path[:0] = given
    importlib.invalidate_caches()
    try:
        with redirect_stdout(printed), redirect_stderr(said):
            try:
                status = main(arguments)
            except SystemExit as end:
                status = end.code if isinstance(end.code, int) else 1
    finally:
        sys.path[:] = path
        os.environ.clear()
        os.environ.update(before)
        _forget([Path(part) for part in given if Path(part) != ROOT])
    return subprocess.CompletedProcess(arguments, status, _read(printed), _read(said))


def _text() -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(), encoding="utf-8")


def _read(stream: io.TextIOWrapper) -> str:
    stream.flush()
    stream.seek(0)
    return stream.read()


def _forget(folders: list[Path]) -> None:
    """Forget what was imported from below *folders*: the next command is another process's."""
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if file and any(Path(file).is_relative_to(folder) for folder in folders):
            del sys.modules[name]
