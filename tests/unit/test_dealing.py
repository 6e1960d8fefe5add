# SPDX-License-Identifier: Apache-2.0
"""How 'make test' deals its tests out among the workers."""

from pathlib import Path

from tests.support.dealing import TOGETHER, OneByOne

ROOT = Path(__file__).resolve().parents[2]


def test_a_file_goes_to_one_worker_or_its_tests_to_any() -> None:
    scope = OneByOne._split_scope
    shared = min(TOGETHER)
    assert scope(None, f"{shared}::test_a") == scope(None, f"{shared}::test_b[x::y]")  # type: ignore[arg-type]
    own = "tests/unit/test_logs.py"
    assert scope(None, f"{own}::test_a") != scope(None, f"{own}::test_b")  # type: ignore[arg-type]


def test_the_files_that_stay_together_are_there_and_share_something() -> None:
    for name in TOGETHER:
        text = (ROOT / name).read_text(encoding="utf-8")
        assert '@pytest.fixture(scope="module"' in text, name
