# SPDX-License-Identifier: Apache-2.0
"""``/usr/bin/edgepaas`` over a package whose files are torn: one line, and 503 at the port."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
#: Sets what systemd does, and becomes the command.
_HAND_DOWN = (
    "import os, sys; os.dup2(int(sys.argv[1]), 3); os.environ['LISTEN_PID'] = str(os.getpid());"
    "os.environ['LISTEN_FDS'] = '1'; os.execv(sys.argv[2], sys.argv[2:])"
)
TORN = {
    "no module": None,
    "half a file": "def main(",
    "half of its names": "from edgepaas.errors import NOT_THERE\n",
    "serve cannot be loaded": "def main():\n    raise SyntaxError('torn in serve')\n",
    "nothing in it": "",
}


@pytest.fixture
def command(tmp_path: Path) -> Path:
    """The launcher and what it becomes, in a prefix of their own, with this Python."""
    for origin, name in (
        ("packaging/edgepaas.launcher", "bin/edgepaas"),
        ("systemd/unloadable", "libexec/edgepaas/unloadable"),
    ):
        target = tmp_path / name
        target.parent.mkdir(parents=True)
        text = (ROOT / origin).read_text(encoding="utf-8")
        target.write_text(text.replace("#!/usr/bin/python3", f"#!{sys.executable}", 1))
        target.chmod(0o755)
    return tmp_path / "bin" / "edgepaas"


def tear(prefix: Path, how: str) -> None:
    package = prefix / "share" / "edgepaas" / "lib" / "edgepaas"
    shutil.rmtree(package, ignore_errors=True)
    (package / "cli").mkdir(parents=True)
    for name in ("__init__.py", "errors.py"):
        (package / name).touch()
    text = TORN[how]
    if text is not None:
        (package / "cli" / "__init__.py").write_text(text)


@contextmanager
def serving(command: Path, runtime: Path) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)  # as edgepaas.socket hands it down
        process = subprocess.Popen(
            [sys.executable, "-c", _HAND_DOWN, str(listener.fileno()), str(command), "serve"],
            pass_fds=[listener.fileno()],
            env={**os.environ, "RUNTIME_DIRECTORY": str(runtime)},
            stderr=subprocess.DEVNULL,
        )
        try:
            yield int(listener.getsockname()[1]), process
        finally:
            process.kill()
            process.wait(60)


def ask(port: int, path: str, body: bytes | None = None) -> tuple[int, dict[str, Any]]:
    deadline = time.monotonic() + 60
    while True:
        try:
            with urllib.request.urlopen(
                f"http://127.0.0.1:{port}{path}", body, timeout=60
            ) as answer:
                return answer.status, json.loads(answer.read())
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read())
        except OSError:
            if time.monotonic() > deadline:
                raise


@pytest.mark.parametrize("how", TORN)
def test_a_package_that_cannot_be_loaded_answers_503_with_the_reason(
    command: Path, tmp_path: Path, how: str
) -> None:
    tear(tmp_path, how)
    with (
        serving(command, tmp_path) as (port, process),
        socket.create_connection(("127.0.0.1", port)),  # one who says nothing keeps nobody up
    ):
        status, ready = ask(port, "/health/ready")
        assert status == 503
        assert ready["state"] == "starting"
        assert "cannot be loaded" in ready["reasons"][0]
        assert "--reinstall" in ready["reasons"][0]
        assert ask(port, "/health/live") == (200, {"status": "ok"})
        status, refused = ask(port, "/api/v1/readings", b"x" * 300_000)
        assert status == 503
        assert refused["error"] == "unavailable"
        assert str(tmp_path) not in json.dumps(refused)
        assert process.poll() is None


def test_other_commands_say_it_in_a_line(command: Path, tmp_path: Path) -> None:
    tear(tmp_path, "half a file")
    done = subprocess.run([command, "status"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert re.fullmatch(r"edgepaas: EdgePaaS cannot be loaded: .*\n", done.stderr)


def test_a_service_that_was_loaded_ends_as_it_does(command: Path, tmp_path: Path) -> None:
    """systemd starts it again at once: a crash in service is no torn package."""
    tear(tmp_path, "nothing in it")
    (tmp_path / "share/edgepaas/lib/edgepaas/cli/__init__.py").write_text(
        "import os, pathlib\n"
        "def main():\n"
        "    pathlib.Path(os.environ['RUNTIME_DIRECTORY'], 'address').write_text('x')\n"
        "    raise KeyError('a fault in service')\n"
    )
    with serving(command, tmp_path) as (_, process):
        assert process.wait(60) == 1
    assert not (tmp_path / "answered").exists()
