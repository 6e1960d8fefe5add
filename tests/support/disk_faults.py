# SPDX-License-Identifier: Apache-2.0
"""A disk that fails when told, for real processes: what disk_faults.c does, from Python.

disk = Disk(folder, scope=paths.state)
process = Process(command, folder, environ | disk.environ())
disk.fail_syncs(at=7)                  # the seventh fsync from now on fails, once
disk.fill()                            # nothing can grow any more, until disk.free()
disk.jump_clock(-10 * DAY)
process.close(); disk.power_cut()      # only what was synced is there
"""

import ctypes
import mmap
import os
import random
import shutil
import struct
import subprocess
import tempfile
from functools import cache
from pathlib import Path

_SOURCE = Path(__file__).with_suffix(".c")
_FIELDS = (
    "syncs", "sync_fails_from", "sync_fails_times", "sync_failures", "growths", "full_from",
    "full_failures", "clock_offset", "poisoned", "syncs_held",
)  # fmt: skip
_PAGE = 4096
_FOR_EVER = 2**63 - 1


@cache
def library() -> Path:
    """Build the shared library, once a process; needs cc (Debian: gcc and libc6-dev)."""
    if shutil.which("cc") is None:
        raise RuntimeError("cc is not installed (on Debian: apt install gcc libc6-dev)")
    folder = Path(tempfile.mkdtemp(prefix="edgepaas-disk-"))
    built = folder / "disk_faults.so"
    done = subprocess.run(
        ["cc", "-shared", "-fPIC", "-O2", "-o", str(built), str(_SOURCE), "-ldl"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        raise RuntimeError(f"cc failed:\n{done.stderr}")
    return built


class Disk:
    """What carries the files below *scope*; its own notes lie in *folder*, beside the scope."""

    def __init__(self, folder: Path, *, scope: Path, seed: int = 1) -> None:
        self.scope = scope.resolve()
        self._shadow = folder / "shadow"
        self._shadow.mkdir(parents=True)
        self.control_file = folder / "control"
        self.control_file.write_bytes(bytes(8 * len(_FIELDS)))
        with self.control_file.open("r+b") as file:
            self._control = mmap.mmap(file.fileno(), 0)
        self._library = ctypes.CDLL(str(library()))
        self._chance = random.Random(seed)

    def environ(self) -> dict[str, str]:
        """What a process needs in its environment; its children inherit it."""
        return {
            "LD_PRELOAD": str(library()),
            "DISK_FAULTS_CONTROL": str(self.control_file),
            "DISK_FAULTS_SCOPE": str(self.scope),
            "DISK_FAULTS_SHADOW": str(self._shadow),
        }

    def __getattr__(self, name: str) -> int:
        if name not in _FIELDS:
            raise AttributeError(name)
        return int(struct.unpack_from("q", self._control, 8 * _FIELDS.index(name))[0])

    def _set(self, name: str, value: int) -> None:
        struct.pack_into("q", self._control, 8 * _FIELDS.index(name), value)

    # -- what a test tells it --

    def fail_syncs(self, at: int = 1, times: int | None = 1) -> None:
        """Let the sync number *at* from now on fail, and *times* in all; None: for ever."""
        self._set("sync_fails_times", _FOR_EVER if times is None else times)
        self._set("sync_fails_from", self.syncs + at)

    def mend(self) -> None:
        """Let no sync fail any more."""
        self._set("sync_fails_from", 0)

    def hold_syncs(self, held: bool = True) -> None:
        """Have every sync wait from now on, or no longer."""
        self._set("syncs_held", int(held))

    def fill(self, at: int = 1) -> None:
        """From the growth number *at* from now on, nothing below the scope grows."""
        self._set("full_from", self.growths + at)

    def free(self) -> None:
        """There is space again."""
        self._set("full_from", 0)

    def settle(self) -> None:
        """Count what is there now as synced."""
        self._forget()
        for folder, _, files in os.walk(self.scope, topdown=False):
            for name in files:
                self._adopt(Path(folder) / name)
            self._adopt(Path(folder))

    def jump_clock(self, seconds: float) -> None:
        """Shift the wall clock of every process so far from the true one."""
        self._set("clock_offset", int(seconds * 1e9))

    def power_cut(self, *, torn: float = 0.5) -> None:
        """Leave below the scope what was synced, once every process is dead.

        Of what was not, each page is there all the same with the probability *torn*: a
        kernel writes back what it likes, in any order.
        """
        there = self._read(self.scope, torn)
        for entry in self.scope.iterdir():
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        self._forget()
        self._write(self.scope, there)

    # -- parts --

    def _forget(self) -> None:
        shutil.rmtree(self._shadow)
        self._shadow.mkdir()
        self._set("poisoned", 0)

    def _read(self, folder: Path, torn: float) -> dict[str, object]:
        """Return what survives of *folder*: names with bytes, or with such a mapping again."""
        present = {self._key(path): path for path in folder.iterdir()}
        listing = self._shadow / f"d-{self._key(folder)}"
        found: dict[str, object] = {}
        for line in listing.read_text().splitlines() if listing.exists() else ():
            key, _, name = line.partition("\t")
            path = present.get(key)
            if path is not None and path.is_dir():
                found[name] = self._read(path, torn)
            else:
                found[name] = self._content(key, path, torn)
        return found

    def _content(self, key: str, path: Path | None, torn: float) -> bytes:
        copy = self._shadow / f"f-{key}"
        synced = copy.read_bytes() if copy.exists() else b""
        if path is None:
            return synced
        cached = path.read_bytes()
        if cached == synced or self._chance.random() >= 0.5:
            return synced
        pages = bytearray(synced)
        for at in range(0, len(cached), _PAGE):
            page = cached[at : at + _PAGE]
            if page != synced[at : at + _PAGE] and self._chance.random() < torn:
                pages.extend(bytes(max(0, at - len(pages))))
                pages[at : at + len(page)] = page
        return bytes(pages)

    def _write(self, folder: Path, there: dict[str, object]) -> None:
        for name, content in there.items():
            path = folder / name
            if isinstance(content, dict):
                path.mkdir()
                self._write(path, content)
            else:
                assert isinstance(content, bytes)
                path.write_bytes(content)
                path.chmod(0o600)
                self._adopt(path)
        self._adopt(folder)

    def _adopt(self, path: Path) -> None:
        status = self._library.disk_faults_adopt(os.fsencode(self._shadow), os.fsencode(path))
        if status != 0:
            raise RuntimeError(f"{path} cannot be kept")

    def _key(self, path: Path) -> str:
        buffer = ctypes.create_string_buffer(128)
        if self._library.disk_faults_key(os.fsencode(path), buffer, len(buffer)) != 0:
            raise RuntimeError(f"{path} has no key")
        return buffer.value.decode()
