# SPDX-License-Identifier: Apache-2.0
"""The service and the delivery of alerts write one log file, and rotate it once for one fill."""

import contextlib
import re
import signal
import subprocess
from pathlib import Path

import pytest
import requests

from edgepaas.files.paths import Paths
from edgepaas.logs.rotating_file import LOG_FILE_BYTES
from tests.support.receivers import receiving
from tests.support.service_process import (
    Process,
    child_environ,
    edgepaas,
    free_port,
    until,
    wait_until_ready,
)
from tests.support.weaken import weak_environ

ROUNDS = 6


def log_lines(paths: Paths, tmp_path: Path, weakness: str = "") -> dict[str, list[str]]:
    """Fill the log, have both processes write in turn, and return who wrote what where."""
    file, port = paths.log_file, free_port()
    file.parent.mkdir(parents=True, exist_ok=True)
    with receiving(200) as receiver:
        environ = child_environ(
            tmp_path, PORT=str(port), ALERT_WEBHOOK_URL=receiver.url, LOG_FILE=str(file)
        )
        if weakness:
            environ |= weak_environ(weakness)
        with contextlib.closing(Process(edgepaas("up"), tmp_path, environ)) as up:
            wait_until_ready(port)
            with file.open("a") as log:  # full, while both have it open
                log.write("x" * LOG_FILE_BYTES + "\n")
            for number in range(ROUNDS):
                subprocess.run(
                    edgepaas("alert", f"n{number}", "--fingerprint", f"f{number}"),
                    env=environ,
                    check=True,
                    capture_output=True,
                    timeout=120,
                )
                until(lambda n=number: len(receiver.requests) > n, "its delivery")  # type: ignore[misc]
                name = {"X-Request-ID": f"request-{number}"}
                url = f"http://127.0.0.1:{port}/api/v1/status"
                assert requests.get(url, headers=name, timeout=60).ok
            up.signal(signal.SIGTERM)
            assert up.wait() == 0, up.output
    pattern = re.compile(r"delivered by webhook.*\bn\d\b|request_id=request-\d")
    return {
        path.name: [line for line in path.read_text().splitlines() if pattern.search(line)]
        for path in sorted(file.parent.glob(f"{file.name}*"))
    }


def test_a_full_log_is_begun_anew_once_and_no_line_is_lost(paths: Paths, tmp_path: Path) -> None:
    found = log_lines(paths, tmp_path)
    assert list(found) == [paths.log_file.name, f"{paths.log_file.name}.1"]
    lines = "\n".join(line for each in found.values() for line in each)
    for number in range(ROUNDS):
        assert re.search(rf"delivered by webhook.*\bn{number}\b", lines), lines
        assert f"request_id=request-{number}" in lines
    assert found[f"{paths.log_file.name}.1"] == []


@pytest.mark.parametrize("weakness", ["own-log-file"])
def test_a_build_whose_processes_rotate_by_themselves_is_found_out(
    paths: Paths, tmp_path: Path, weakness: str
) -> None:
    assert len(log_lines(paths, tmp_path, weakness)) > 2
