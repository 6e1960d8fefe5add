# SPDX-License-Identifier: Apache-2.0
"""Debian roots, made once with mmdebstrap and kept below $EDGEPAAS_TEST_CACHE."""

import contextlib
import fcntl
import os
import zlib
from collections.abc import Iterator
from pathlib import Path

from tests.system.network import run

CACHE = Path(os.environ.get("EDGEPAAS_TEST_CACHE") or "/var/tmp/edgepaas-test-cache")
#: nftables is for the network tests, which run the root's own nft.
PACKAGES = (
    "systemd", "systemd-sysv", "dbus", "python3", "python3-psutil", "iproute2", "procps",
    "nftables", "ca-certificates",
)  # fmt: skip


def base_root(suite: str, arch: str = "") -> Path:
    """Return the unpacked root of *suite*, made once and never written to.

    *arch* is Debian's name of the CPU, when it is not this machine's own.
    """
    # Another list of packages is another root.
    key = f"{suite}{arch and f'-{arch}'}-{zlib.crc32(' '.join(PACKAGES).encode()):08x}"
    other_cpu = [f"--arch={arch}"] if arch else []
    folder, tarball = CACHE / f"box-{key}", CACHE / f"box-{key}.tar"
    with only_one(CACHE / f"box-{key}.lock"):
        if folder.is_dir():
            return folder
        if not tarball.is_file():
            partial = tarball.with_suffix(f".{os.getpid()}.tar")
            run(
                "mmdebstrap", "--quiet", "--variant=minbase", f"--include={','.join(PACKAGES)}",
                *other_cpu, suite, str(partial), timeout=1500,
            )  # fmt: skip
            partial.rename(tarball)
        unpacked = folder.with_suffix(f".{os.getpid()}")
        unpacked.mkdir()
        run(
            "tar", "-C", str(unpacked), "--xattrs", "--numeric-owner", "--exclude=./dev/*",
            "-xpf", str(tarball), timeout=300,
        )  # fmt: skip
        unpacked.rename(folder)
    return folder


@contextlib.contextmanager
def only_one(lock: Path) -> Iterator[None]:
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
