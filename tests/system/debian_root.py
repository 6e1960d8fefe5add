# SPDX-License-Identifier: Apache-2.0
"""A fresh Debian to try the two commands of the README in, as an ordinary user.

Made once with mmdebstrap and kept as a tarball; each use unpacks it anew. What runs
inside has its own mounts and processes, and shares the host's network.
"""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from tests.system.checkout import copy_checkout
from tests.system.roots import CACHE, only_one

SUITE = "bookworm"
PACKAGES = ("python3", "python3-venv", "make", "ca-certificates")
USER = "tester"
HOME = f"/home/{USER}"
CHECKOUT = f"{HOME}/edgepaas"
#: How the host reaches the package index; a fresh root has to be told the same.
NETWORK_FILES = ("/etc/resolv.conf", "/etc/pip.conf", "/etc/ssl/certs/ca-certificates.crt")


def why_not() -> str | None:
    """Say why no fresh Debian can be had here; None when one can."""
    if os.geteuid() != 0:
        return "a Debian root needs root to unpack and to enter"
    for program in ("mmdebstrap", "unshare"):
        if shutil.which(program) is None:
            return f"{program} is not installed"
    return None


class DebianRoot:
    """A fresh Debian with a checkout of this repository in the home of an ordinary user."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="edgepaas-debian-"))
        self.root = self.folder / "root"

    def create(self) -> None:
        """Unpack the root, make the user, and copy the checkout."""
        tarball = self._tarball()
        self.root.mkdir()
        run("tar", "-C", str(self.root), "--numeric-owner", "-xpf", str(tarball))
        run("chroot", str(self.root), "useradd", "--create-home", "--shell", "/bin/sh", USER)
        for name in NETWORK_FILES:
            if Path(name).is_file():
                shutil.copyfile(name, self.root / name.lstrip("/"))
        # As Debian's installer writes it.
        (self.root / "etc/hosts").write_text("127.0.0.1 localhost\n127.0.1.1 box\n")
        (self.root / "dev/shm").mkdir(parents=True, exist_ok=True)
        self._copy_checkout()

    def command(self, *command: str, environ: dict[str, str] | None = None) -> list[str]:
        """Return the argv that runs *command* as the user in the checkout; dies with its caller."""
        uid, gid = self._ids()
        variables = {
            "PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": HOME, "LANG": "C.UTF-8", "USER": USER,
            "TERM": "dumb", **(environ or {}),
        }  # fmt: skip
        prepare = (
            f"mount -t tmpfs tmpfs {self.root}/dev/shm && "
            f"mount -t proc proc {self.root}/proc && "
            f'exec chroot --userspec={uid}:{gid} --groups= {self.root} "$@"'
        )
        inside = ["/usr/bin/env", "-i", "-C", CHECKOUT]
        inside += [f"{name}={value}" for name, value in variables.items()]
        return [
            "unshare", "--mount", "--pid", "--fork", "--kill-child",
            "/bin/sh", "-c", prepare, "sh", *inside, *command,
        ]  # fmt: skip

    def run(
        self, *command: str, environ: dict[str, str] | None = None, timeout: float = 300
    ) -> subprocess.CompletedProcess[str]:
        """Run *command* to its end and return it with what it printed."""
        return subprocess.run(
            self.command(*command, environ=environ), stdin=subprocess.DEVNULL, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=timeout, check=False,
        )  # fmt: skip

    def destroy(self) -> None:
        """Delete everything."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _ids(self) -> tuple[str, str]:
        for line in (self.root / "etc/passwd").read_text().splitlines():
            fields = line.split(":")
            if fields[0] == USER:
                return fields[2], fields[3]
        raise LookupError(f"no user {USER} in {self.root}")

    def _tarball(self) -> Path:
        tarball = CACHE / f"fresh-{SUITE}.tar"
        with only_one(CACHE / "fresh.lock"):
            if not tarball.is_file():
                partial = tarball.with_suffix(f".{os.getpid()}.tar")
                run(
                    "mmdebstrap", "--quiet", "--variant=minbase",
                    f"--include={','.join(PACKAGES)}", SUITE, str(partial),
                )  # fmt: skip
                partial.rename(tarball)
        return tarball

    def _copy_checkout(self) -> None:
        """Copy what git tracks or would track: the tree as it is, without what was built in it."""
        target = self.root / CHECKOUT.lstrip("/")
        target.mkdir()
        copy_checkout(target)
        run("chroot", str(self.root), "chown", "-R", f"{USER}:{USER}", HOME)


def run(*command: str) -> None:
    """Run *command*; its output is in the error when it fails."""
    result = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if result.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}\n{result.stdout}\n{result.stderr}")
