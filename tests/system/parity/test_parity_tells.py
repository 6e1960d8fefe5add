# SPDX-License-Identifier: Apache-2.0
"""The suite can tell: with something left out of 'edgepaas up' it fails in that home."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.system.checkout import REPOSITORY

SUITE = "tests/system/parity/test_parity.py"
#: What is left out, and a test of the suite that is to notice.
NOTICED = {"schema": "test_live_and_ready", "sync": "test_local_first_forwards"}


def run_suite(tests: str, folder: Path, *, without: str = "") -> subprocess.CompletedProcess[str]:
    """Run the *tests* of the suite in the home 'make run'; both ways with the same patience."""
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", SUITE, "-k",
         f"({tests}) and make-run"],
        cwd=REPOSITORY, text=True, capture_output=True, timeout=300, check=False,
        # A run of its own, also when this one is a worker's.
        env={**{name: value for name, value in os.environ.items() if "XDIST" not in name},
             "EDGEPAAS_PARITY_WITHOUT": without, "EDGEPAAS_PARITY_LIMIT": "25",
             "EDGEPAAS_PARITY_RESULTS": str(folder / "results.json")},
    )  # fmt: skip


def test_with_everything_in_its_place_the_selection_passes(bootable: None, tmp_path: Path) -> None:
    """Without this the failures below would say nothing."""
    done = run_suite(" or ".join(NOTICED.values()), tmp_path)
    assert done.returncode == 0, done.stdout[-3000:]
    assert f"{len(NOTICED)} passed" in done.stdout


@pytest.mark.parametrize(
    ("left_out", "said"),
    [
        ("schema", "run 'edgepaas schema', which creates it"),
        # By when it was noticed: its state is another one, or nothing comes.
        ("sync", "not ready as local-first|the reading does not reach the hub"),
    ],
)
def test_the_suite_fails_where_something_is_left_out(
    bootable: None, left_out: str, said: str, tmp_path: Path
) -> None:
    """And for that reason, not for another."""
    done = run_suite(NOTICED[left_out], tmp_path, without=left_out)
    assert done.returncode == 1, done.stdout[-3000:]
    assert "1 failed" in done.stdout or "1 error" in done.stdout
    assert re.search(rf"^E .*({said})", done.stdout, re.MULTILINE), done.stdout[-3000:]
