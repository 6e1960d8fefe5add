# SPDX-License-Identifier: Apache-2.0
"""A file system without a free byte: alerts are still taken and told, or it is said that not."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from edgepaas.alerts.spool.folders import SLOTS

#: A mount namespace of its own; as an ordinary user only where the kernel gives user namespaces.
OWN_MOUNTS = ("unshare", "--map-root-user", "--mount")

#: Run in a mount namespace of its own, on a file system of 1 MiB.
SCRIPT = """
import errno, os, sys
from pathlib import Path
from edgepaas.alerts.spool.accept import NotSpooled
from edgepaas.files.paths import find_paths
from tests.support.alert_box import DOWN, AlertBox

def fill():
    with open(home / "filler", "ab", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 4096)
        except OSError as error:
            assert error.errno == errno.ENOSPC

home = Path(os.environ["EDGEPAAS_HOME"])
paths = find_paths()
box = AlertBox(paths)
box.spool.folders.prepare()
box.spool.folders.replenish()
fill()
accepted = 0
try:
    for number in range(1000):
        box.accept(f"number {number}", severity="critical")
        accepted += 1
        if number == 3:
            box.answers = {"webhook": DOWN, "email": DOWN}
            box.deliver()  # taken in and frozen, all of it from the reserve
            fill()
except NotSpooled as error:
    print("refused:", error)
print("accepted:", accepted)
box.answers = {}
for _ in range(5):
    box.clock.forward(1000)
    box.deliver()
    fill()
print("told:", sum(notification.new for notification in box.taken))
print("keys:", len({n.key for n in box.taken}) == len(box.taken))
(home / "filler").unlink()
box.accept("there is room again")
box.deliver()
box.spool.folders.replenish()
print("after:", box.told[-1][1], len(list((paths.alerts / "reserve").iterdir())))
"""


def test_a_full_file_system_takes_tells_and_says_what_it_cannot(tmp_path: Path) -> None:
    tried = subprocess.run([*OWN_MOUNTS, "true"], capture_output=True, text=True, check=False)
    if tried.returncode:
        pytest.skip(f"no small file system can be mounted here: {tried.stderr.strip()}")
    folder = tmp_path / "small"
    folder.mkdir()
    found = subprocess.run(
        [
            *(*OWN_MOUNTS, "sh", "-ec"),
            'mount -t tmpfs -o size=1m none "$EDGEPAAS_HOME"; exec "$0" -c "$1"',
            *(sys.executable, SCRIPT),
        ],
        env={"PATH": os.environ["PATH"], "EDGEPAAS_HOME": str(folder)},
        cwd=Path(__file__).resolve().parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    said = dict(line.split(": ", 1) for line in found.stdout.splitlines())
    assert "No space left on device" in said["refused"]
    assert int(said["accepted"]) >= SLOTS // 2
    assert said["told"] == said["accepted"]
    assert said["keys"] == "True"
    assert said["after"] == f"there is room again {SLOTS}"
