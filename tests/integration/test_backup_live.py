# SPDX-License-Identifier: Apache-2.0
"""A whole box: backed up under load, restored, and what its commands do as root."""

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import pytest

from tests.support.live_box import LiveBox
from tests.support.service_process import get

#: Root hands the work to a child that is the service's user; here that one is no other.
_AS_ROOT = """
import os, sys
from edgepaas.cli import main, privileges
privileges.becomes_another_user = lambda: True
privileges.become_service_user = lambda command: None
sys.exit(main(sys.argv[1:]))
"""


def post(box: LiveBox, value: float) -> bool:
    request = urllib.request.Request(
        f"http://127.0.0.1:{box.port}/api/v1/readings",
        data=json.dumps({"device": "d", "metric": "m", "value": value}).encode(),
        headers={"Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return bool(answer.status == 201)
    except OSError:
        return False


def values(box: LiveBox) -> list[float]:
    found: list[float] = []
    cursor = ""
    while True:
        status, body = get(box.port, f"/api/v1/readings?limit=1000{cursor}", timeout=30)
        assert status == 200
        page = json.loads(body)
        found += [one["value"] for one in page["items"]]
        if page["next_cursor"] is None:
            return sorted(found)
        cursor = f"&cursor={page['next_cursor']}"


def test_a_box_is_backed_up_under_load_and_restored(tmp_path: Path) -> None:
    file = tmp_path / "box.backup"
    with LiveBox(tmp_path / "box") as box:
        told: list[float] = []
        stop = threading.Event()

        def write() -> None:
            number = 0.0
            while not stop.is_set():
                number += 1
                if post(box, number):
                    told.append(number)

        writer = threading.Thread(target=write)
        writer.start()
        try:
            deadline = time.monotonic() + 60
            while len(told) < 20 and time.monotonic() < deadline:
                time.sleep(0.02)
            before = len(told)
            status, said = box.run("backup", str(file))
            after = len(told) + 1
        finally:
            stop.set()
            writer.join(60)
        assert status == 0, said
        assert values(box) == told
        status, said = box.run("restore", str(file), "--yes")
        assert (status, "stop it first" in said) == (1, True), said
        box.close()
        status, said = box.run("restore", str(file), "--yes")
        assert status == 0, said
        box.start()
        found = values(box)
        assert before <= len(found) <= after
        assert found == told[: len(found)] or found == [*told, told[-1] + 1][: len(found)]
        assert post(box, -1.0), "it goes on"


@pytest.mark.parametrize("works", [True, False])
def test_root_makes_the_file_and_gives_it_its_name(tmp_path: Path, works: bool) -> None:
    environ = {**os.environ, "EDGEPAAS_HOME": str(tmp_path / "box")}

    def run(*words: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-c", _AS_ROOT, *words],
            env=environ,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    if works:
        assert run("env").returncode == 0  # else there are no settings to be found
    done = run("backup", str(tmp_path / "box.backup"))
    assert done.returncode == (0 if works else 78), done.stderr
    names = sorted(one.name for one in tmp_path.iterdir() if one.name != "box")
    assert names == (["box.backup"] if works else [])
    with contextlib.suppress(FileNotFoundError):
        assert (tmp_path / "box.backup").stat().st_mode & 0o777 == 0o600
    if works:
        assert done.stdout.count("verified") == 1
