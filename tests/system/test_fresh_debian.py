# SPDX-License-Identifier: Apache-2.0
"""The README's two commands on a fresh Debian, as an ordinary user, on a machine's readings."""

import contextlib
import csv
import json
import os
import re
import shutil
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.postgres_server import free_port
from tests.system.debian_root import HOME, DebianRoot, why_not

DATA_INSIDE = f"{HOME}/readings.csv"
START_LIMIT = 240.0  # the first 'make run' builds the virtual environment
ANSWER_LIMIT = 60.0
#: Tests in one process and of whole chains, on SQLite and on PostgreSQL, and with Hypothesis.
SOME_TESTS = (
    "tests/unit/test_settings_contract.py", "tests/unit/test_outbox_property.py",
    "tests/integration/test_database_server.py", "tests/integration/test_telemetry_import.py",
    "tests/integration/test_up_process.py",
)  # fmt: skip

pytestmark = [
    pytest.mark.skipif(why_not() is not None, reason=f"no fresh Debian: {why_not()}"),
]


@pytest.fixture(scope="module")
def debian(machine_file: Path) -> Iterator[DebianRoot]:
    """A fresh Debian with python3, python3-venv and make, this checkout, and readings."""
    root = DebianRoot()
    try:
        root.create()
        shutil.copyfile(machine_file, root.root / DATA_INSIDE.lstrip("/"))
        yield root
    finally:
        root.destroy()


class Box:
    """``make run`` in the fresh Debian."""

    def __init__(self, debian: DebianRoot) -> None:
        self.debian = debian
        self.port = free_port()
        self.log = debian.folder / "make-run.log"
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Type 'make run' and wait until the box is ready; its output is in the failure."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.debian.command("make", "run", environ={"PORT": str(self.port)}),
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        deadline = time.monotonic() + START_LIMIT
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                pytest.fail(f"make run ended with {self.process.returncode}:\n{self.output()}")
            with contextlib.suppress(urllib.error.URLError, OSError):
                if self.get("/health/ready")["state"] == "standalone":
                    return
            time.sleep(0.1)
        pytest.fail(f"make run was not ready within {START_LIMIT:g} s:\n{self.output()}")

    def kill(self) -> None:
        """End everything at once, as a power cut would end the processes."""
        if self.process and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(30)

    def service_pids(self) -> list[int]:
        """The processes of this box that are 'edgepaas serve', as the host numbers them."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                words = (folder / "cmdline").read_bytes().split(b"\0")
                inside = (folder / "root").resolve() == self.debian.root
                if inside and b"serve" in words:
                    found.append(int(folder.name))
        return found

    def get(self, path: str) -> dict[str, Any]:
        with urllib.request.urlopen(self.url + path, timeout=ANSWER_LIMIT) as answer:
            body: dict[str, Any] = json.load(answer)
        return body

    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def readings(self, device: str) -> list[dict[str, Any]]:
        """Every reading of *device*, page by page."""
        items: list[dict[str, Any]] = []
        query = f"/api/v1/readings?device={device}&limit=1000"
        cursor = ""
        for _ in range(1000):
            page = self.get(query + cursor)
            items += page["items"]
            if not page["next_cursor"]:
                return items
            cursor = f"&cursor={page['next_cursor']}"
        raise AssertionError("the pages never end")

    def importing(self, device: str) -> list[str]:
        return self.debian.command(
            ".venv/bin/edgepaas", "telemetry", "import", DATA_INSIDE, "--device", device,
            "--metric", "temperature", "--url", self.url,
        )  # fmt: skip

    def import_all(self, device: str) -> str:
        result = subprocess.run(
            self.importing(device), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, timeout=300, check=False,
        )  # fmt: skip
        assert result.returncode == 0, f"{result.stdout}\n{self.output()[-4000:]}"
        return result.stdout


@pytest.fixture(scope="module")
def box(debian: DebianRoot) -> Iterator[Box]:
    """The running box; it is started once, and again by the tests that kill it."""
    running = Box(debian)
    try:
        running.start()
        yield running
    finally:
        running.kill()


@pytest.fixture(scope="module")
def expected(machine_file: Path) -> Counter[tuple[str, float]]:
    """What the file holds: time and value of every reading, with repetitions."""
    with machine_file.open(newline="") as file:
        return Counter(
            (row["timestamp"].replace(" ", "T"), float(row["value"]))
            for row in csv.DictReader(file)
        )


def stored(items: list[dict[str, Any]]) -> Counter[tuple[str, float]]:
    return Counter((item["recorded_at"][:19], item["value"]) for item in items)


def test_make_run_says_what_each_stage_decided_and_where_to_look(box: Box) -> None:
    output = box.output()
    for stage in ("environment", "decision", "schema", "verify", "service"):
        assert any(line.startswith(stage) for line in output.splitlines()), output
    assert box.url in output


def test_all_readings_are_imported_and_counted_back_exactly(
    box: Box, expected: Counter[tuple[str, float]]
) -> None:
    box.import_all("press-1")
    items = box.readings("press-1")
    assert len(items) == 22_695
    assert stored(items) == expected


def test_importing_again_doubles_nothing(box: Box) -> None:
    box.import_all("press-1")
    assert len(box.readings("press-1")) == 22_695


def test_a_service_killed_in_mid_import_is_back_with_every_acknowledged_reading(
    box: Box, expected: Counter[tuple[str, float]]
) -> None:
    """The service dies under the importer, which waits for it to be back and goes on."""
    with (box.debian.folder / "import.log").open("wb") as log:
        importer = subprocess.Popen(
            box.importing("press-2"), stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    wait_until(lambda: len(box.readings("press-2")) > 2000, "readings to arrive")
    before = {item["id"] for item in box.readings("press-2")}
    pids = box.service_pids()
    assert pids, "no service found to kill"
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    assert importer.wait(300) == 0, (box.debian.folder / "import.log").read_text()
    items = box.readings("press-2")
    assert before <= {item["id"] for item in items}
    assert stored(items) == expected


def test_everything_killed_in_mid_import_loses_nothing_acknowledged(
    box: Box, expected: Counter[tuple[str, float]]
) -> None:
    """The whole box dies; it is started again with 'make run', the import again by hand."""
    importer = subprocess.Popen(
        box.importing("press-3"), stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    wait_until(lambda: len(box.readings("press-3")) > 2000, "readings to arrive")
    before = {item["id"] for item in box.readings("press-3")}
    box.kill()
    importer.kill()
    importer.wait(30)
    box.start()
    after = {item["id"] for item in box.readings("press-3")}
    assert before <= after
    box.import_all("press-3")
    assert stored(box.readings("press-3")) == expected


def test_make_test_sets_itself_up_and_passes_on_a_fresh_debian(debian: DebianRoot) -> None:
    """Some of the tests, of each kind; all of them pass elsewhere."""
    result = debian.run("make", "test", f"TESTS={' '.join(SOME_TESTS)}", timeout=900)
    assert result.returncode == 0, result.stdout[-8000:]
    passed = re.search(r"(\d+) passed", result.stdout)
    assert passed, result.stdout[-8000:]
    assert int(passed[1]) > 50
    # The PostgreSQL that they need came along with what 'make test' installs.
    assert "no PostgreSQL server found" not in result.stdout


def wait_until(condition: Any, what: str) -> None:
    deadline = time.monotonic() + ANSWER_LIMIT
    while time.monotonic() < deadline:
        if condition():
            return
        time.sleep(0.05)
    pytest.fail(f"waited {ANSWER_LIMIT:g} s for {what}")
