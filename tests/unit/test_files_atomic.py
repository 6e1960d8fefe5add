# SPDX-License-Identifier: Apache-2.0
"""Atomic writes and locks, with the failures that they are there for."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from edgepaas.files.atomic import remove_durably, write_atomic
from edgepaas.files.locks import LockHeld, held


@pytest.mark.parametrize("call", ["write", "fsync", "rename"])
def test_a_failed_write_leaves_the_old_file_and_no_litter(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    write_atomic(path, "old")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    if call == "rename":
        monkeypatch.setattr(Path, "replace", fail)
    else:
        monkeypatch.setattr(os, call, fail)
    with pytest.raises(OSError, match="No space"):
        write_atomic(path, "new")
    monkeypatch.undo()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_short_write_is_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real(fd, data[:3]))
    write_atomic(tmp_path / "file", b"0123456789")
    assert (tmp_path / "file").read_bytes() == b"0123456789"


def test_a_writer_killed_at_any_moment_leaves_a_whole_file(tmp_path: Path) -> None:
    """A process that rewrites the file without end is killed; what stays is one whole version."""
    path = tmp_path / "file"
    code = (
        "import sys; from pathlib import Path; from edgepaas.files.atomic import write_atomic\n"
        "n = 0\n"
        "while True:\n"
        "    n += 1\n"
        "    write_atomic(Path(sys.argv[1]), f'{n:09d}' * 5000)\n"
        "    print(n, flush=True)\n"
    )
    for _ in range(3):
        process = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE)
        assert process.stdout is not None
        for _ in range(5):
            process.stdout.readline()
        process.kill()
        process.wait()
        process.stdout.close()
        content = path.read_text()
        assert content == content[:9] * 5000


def test_removing_says_whether_there_was_something(tmp_path: Path) -> None:
    write_atomic(tmp_path / "file", "x")
    assert remove_durably(tmp_path / "file") is True
    assert remove_durably(tmp_path / "file") is False


def test_a_lock_keeps_others_out_and_dies_with_its_holder(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    code = (
        "import sys, time; from pathlib import Path; from edgepaas.files.locks import held\n"
        "with held(Path(sys.argv[1])):\n"
        "    print('held', flush=True); time.sleep(600)\n"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    with pytest.raises(LockHeld, match="fuser"), held(path, timeout=0.1):
        pass
    holder.kill()
    holder.wait()
    holder.stdout.close()
    with held(path, timeout=5):
        pass


def test_shared_holders_do_not_exclude_each_other(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with (
        held(path, shared=True),
        held(path, shared=True, timeout=0.1),
        pytest.raises(LockHeld),
        held(path, timeout=0.05),
    ):
        pass
