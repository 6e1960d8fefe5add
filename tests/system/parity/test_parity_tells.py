"""The suite can tell: with something left out of 'edgepaas up' it fails in that home."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.system.checkout import REPOSITORY

SUITE = "tests/system/parity/test_parity.py"


@pytest.mark.parametrize(
    ("left_out", "test"),
    [
        ("schema", "test_live_and_ready"),
        ("sync", "test_local_first_forwards"),
        ("alerts", "test_an_alert_by_hand"),
    ],
)
def test_the_suite_fails_where_something_is_left_out(
    bootable: None, left_out: str, test: str, tmp_path: Path
) -> None:
    """Not because nothing was run: the same selection passes without that."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", SUITE, "-k",
         f"{test} and make-run"],
        cwd=REPOSITORY, text=True, capture_output=True, timeout=300, check=False,
        env={**os.environ, "EDGEPAAS_PARITY_WITHOUT": left_out,
             "EDGEPAAS_PARITY_RESULTS": str(tmp_path / "results.json")},
    )  # fmt: skip
    assert done.returncode == 1, done.stdout[-3000:]
    assert "1 failed" in done.stdout or "1 error" in done.stdout
