# SPDX-License-Identifier: Apache-2.0
"""A booted Debian: real systemd in a container (systemd-nspawn without machined).

A root is made once with mmdebstrap and kept below $EDGEPAAS_TEST_CACHE; each box is an
overlay over it, with a network namespace and a cgroup of its own. Needs root. Every wait
has a limit, and what a killed test run left behind is removed by the next one.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import ClassVar, Self

from tests.system.network import Namespace, run
from tests.system.roots import CACHE, base_root, only_one

BOXES = CACHE / "boxes"
BOOT_LIMIT = 90.0
SUITE = os.environ.get("EDGEPAAS_TEST_SUITE") or "bookworm"
CGROUPS = Path("/sys/fs/cgroup")
#: The group above all boxes goes with the last of them: nobody may be making one just then.
CGROUP_LOCK = CACHE / "cgroups.lock"
#: The controllers a box gets a group of its own in, where cgroups are of the first version.
V1 = ("systemd", "unified", "cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "blkio",
      "pids")  # fmt: skip
ENVIRONMENT = (
    "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8",
    "HOME=/root", "TERM=dumb", "SYSTEMD_PAGER=cat", "SYSTEMD_COLORS=0",
    "DEBIAN_FRONTEND=noninteractive",
)  # fmt: skip


class CannotBoot(RuntimeError):
    """A plain Debian does not boot here; the message says why."""


def why_not() -> str | None:
    """Say what this machine lacks to boot a box; None when nothing is missing."""
    if os.geteuid() != 0:
        return "booting a Debian needs root"
    for program in ("mmdebstrap", "systemd-nspawn", "nsenter", "setpriv", "ip"):
        if shutil.which(program) is None:
            return f"{program} is not installed"
    if not os.access(CGROUPS, os.W_OK):
        return f"{CGROUPS} cannot be written: no cgroup for a box"
    return None


class Box:
    """One Debian. ``create``, ``boot``, use it, ``destroy``; also a context manager.

    It begins as *template* was when that was powered off, else as a plain *suite*
    ($EDGEPAAS_TEST_SUITE, or Debian 12). To be
    booted from the main thread: the box dies with the thread that booted it, so that a
    killed test run leaves nothing running.
    """

    #: Debian's name of its CPU, when it is not this machine's own.
    arch: ClassVar[str] = ""
    #: Every box of this process that is not destroyed yet.
    living: ClassVar[list["Box"]] = []

    def __init__(
        self,
        name: str,
        *,
        suite: str = "",
        namespace: Namespace | None = None,
        template: "Box | None" = None,
    ) -> None:
        self.name = f"{os.getpid()}-{name}"
        self.suite: str = suite or (template.suite if template is not None else SUITE)
        self.folder = BOXES / self.name
        self.root = self.folder / "root"
        self.namespace = namespace
        self.template = template
        self._own_namespace = namespace is None
        self._nspawn: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        try:
            self.create()
            self.boot()
        except BaseException:
            self.destroy()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and issubclass(kind, Exception):
            print(self.report())  # somebody will want to know, and it is gone in a moment
        self.destroy()

    # -- its life --

    def create(self) -> None:
        """Lay an overlay over the cached root (and a template), and make a network of its own."""
        lower = str(base_root(self.suite, self.arch))
        if self.template is not None:
            lower = f"{self.template.folder}/upper:{lower}"
        self.living.append(self)
        for part in ("upper", "work", "root"):
            (self.folder / part).mkdir(parents=True)
        options = f"lowerdir={lower},upperdir={self.folder}/upper,workdir={self.folder}/work"
        run("mount", "-t", "overlay", "overlay", "-o", options, str(self.root))
        self.write("/etc/machine-id", "")
        self.write("/etc/hostname", "box\n")
        self.write("/etc/hosts", "127.0.0.1 localhost\n127.0.1.1 box\n")
        (self.root / "etc/resolv.conf").unlink(missing_ok=True)
        if self.namespace is None:
            self.namespace = Namespace(self.name)
            self.namespace.create()

    def boot(self) -> float:
        """Boot until systemd has settled; returns the seconds it took. Raises CannotBoot."""
        assert self.namespace is not None and self._nspawn is None
        began = time.monotonic()
        command = [
            "setpriv", "--pdeathsig", "KILL", "systemd-nspawn", "--quiet", "--boot",
            f"--directory={self.root}", f"--machine=edgepaas-{self.name}", "--register=no",
            "--keep-unit", "--console=pipe", "--link-journal=no",
            "--system-call-filter=bpf @keyring", "--capability=CAP_BPF,CAP_NET_ADMIN",
            f"--network-namespace-path={self.namespace.path}",
        ]  # fmt: skip
        join = 'while [ "$1" != -- ]; do echo $$ >"$1"; shift; done; shift; exec "$@"'
        groups = [str(group / "cgroup.procs") for group in self._make_cgroups()]
        with (self.folder / "console.log").open("ab") as console:
            self._nspawn = subprocess.Popen(
                ["/bin/sh", "-c", join, "sh", *groups, "--", *command],
                stdin=subprocess.DEVNULL, stdout=console, stderr=console, start_new_session=True,
            )  # fmt: skip
        deadline = began + BOOT_LIMIT
        while not self._has_manager():
            if self._nspawn.poll() is not None or time.monotonic() > deadline:
                reason = self.console()[-1500:]
                self.kill()
                raise CannotBoot(f"systemd-nspawn did not boot {self.suite}:\n{reason}")
            time.sleep(0.05)
        settled = self.exec(
            "systemctl", "is-system-running", "--wait", check=False, timeout=BOOT_LIMIT
        ).stdout.strip()
        if settled not in ("running", "degraded"):
            raise CannotBoot(f"{self.suite} is '{settled}' after its boot:\n{self.report()}")
        return time.monotonic() - began

    def kill(self) -> None:
        """End everything in the box at once, as a power cut would (the disk's cache survives)."""
        if self._nspawn is None:
            return
        leader = self._leader()
        for pid in (leader, self._nspawn.pid if leader is None else None):
            if pid is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        try:
            self._nspawn.wait(20)
        except subprocess.TimeoutExpired:
            self._nspawn.kill()
            self._nspawn.wait(20)
        self._nspawn = None

    def poweroff(self, limit: float = 90.0) -> None:
        """Shut down in order."""
        assert self._nspawn is not None
        leader = self._leader()
        assert leader is not None, "it does not run"
        os.kill(leader, signal.SIGRTMIN + 4)  # systemd(1): start poweroff.target
        try:
            self._nspawn.wait(limit)
        except subprocess.TimeoutExpired as error:
            report = self.report()
            self.kill()
            raise TimeoutError(f"not powered off after {limit:g} s:\n{report}") from error
        self._nspawn = None

    def destroy(self) -> None:
        """Remove everything of the box; harmless when there is nothing (left)."""
        self.kill()
        if self in self.living:
            self.living.remove(self)
        remove_box(self.folder)
        if self.namespace is not None and self._own_namespace:
            self.namespace.destroy()

    # -- inside it --

    def exec(
        self, *command: str, check: bool = True, timeout: float = 60.0, input: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run *command* in the box as its root; a failure carries what it printed."""
        leader = self._leader()
        if leader is None:
            raise RuntimeError(f"box {self.name} does not run:\n{self.console()[-1500:]}")
        enter = ["nsenter", "-t", str(leader), "-m", "-u", "-i", "-n", "-p", "-C", "-r", "-w", "--"]
        return run(
            *enter, "/usr/bin/env", "-i", *ENVIRONMENT, *command,
            check=check, timeout=timeout, input=input,
        )  # fmt: skip

    def sh(self, script: str, *, check: bool = True, timeout: float = 60.0) -> str:
        """Run a shell script in the box and return what it printed."""
        return self.exec("/bin/sh", "-ec", script, check=check, timeout=timeout).stdout

    def show(self, unit: str, name: str) -> str:
        """Return one property of a unit."""
        return self.exec("systemctl", "show", "--value", "-p", name, unit).stdout.strip()

    def journal(self, *arguments: str) -> str:
        """Return the journal's messages, of this boot unless *arguments* say otherwise."""
        arguments = arguments or ("-b",)
        return self.exec("journalctl", "--no-pager", "-q", "-o", "short", *arguments).stdout

    def path(self, inside: str) -> Path:
        """Return where the box's *inside* lies on this machine (not for /run and /tmp)."""
        return self.root / inside.lstrip("/")

    def write(self, inside: str, text: str | bytes, mode: int | None = None) -> None:
        """Write a file, booted or not; owner and mode of an existing one stay."""
        target = self.path(inside)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(text.encode() if isinstance(text, str) else text)
        if mode is not None:
            target.chmod(mode)

    def copy_in(self, source: Path, inside: str) -> None:
        """Copy a file from this machine."""
        self.path(inside).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, self.path(inside))

    def console(self) -> str:
        """Return what the box printed on its console."""
        log = self.folder / "console.log"
        return log.read_text(errors="replace") if log.is_file() else ""

    def report(self) -> str:
        """Return what somebody wants to see when a test failed."""
        if self._leader() is None:
            return f"the box does not run; its console:\n{self.console()[-3000:]}"
        parts = [
            ("systemctl", "--failed", "--no-pager"),
            ("systemctl", "status", "-n", "0", "--no-pager", "edgepaas*"),
            (
                "journalctl",
                "-q",
                "-o",
                "short-monotonic",
                "--no-pager",
                "-n",
                "120",
                "-u",
                "edgepaas*",
            ),
            ("journalctl", "-q", "-o", "short-monotonic", "--no-pager", "-b", "-p", "err"),
        ]
        printed = []
        for command in parts:
            with contextlib.suppress(RuntimeError, subprocess.TimeoutExpired):
                output = self.exec(*command, check=False, timeout=20).stdout
                printed.append(f"$ {' '.join(command)}\n{output}")
        return "\n".join(printed)

    # -- parts --

    def _leader(self) -> int | None:
        """The box's PID 1 as this machine sees it."""
        if self._nspawn is None or self._nspawn.poll() is not None:
            return None
        pid = self._nspawn.pid
        with contextlib.suppress(OSError):
            for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
                for line in Path(f"/proc/{child}/status").read_text().splitlines():
                    if line.startswith("NSpid:") and line.split()[-1] == "1":
                        return int(child)
        return None

    def _has_manager(self) -> bool:
        leader = self._leader()
        return leader is not None and Path(f"/proc/{leader}/root/run/systemd/private").is_socket()

    def _make_cgroups(self) -> list[Path]:
        """Make this box's groups; two boxes in one group would share their system.slice."""
        with only_one(CGROUP_LOCK):
            return self._make_cgroups_alone()

    def _make_cgroups_alone(self) -> list[Path]:
        if (CGROUPS / "cgroup.controllers").exists():
            hierarchies = [CGROUPS]
        else:
            hierarchies = [CGROUPS / name for name in V1 if (CGROUPS / name).is_dir()]
        groups = []
        for hierarchy in hierarchies:
            group = hierarchy / "edgepaas-test" / self.name
            group.mkdir(parents=True, exist_ok=True)
            for file in ("cpuset.cpus", "cpuset.mems"):  # empty in a new group: nobody may join
                if (hierarchy / file).exists() and hierarchy != CGROUPS:
                    for folder in (group.parent, group):
                        (folder / file).write_text((hierarchy / file).read_text())
            groups.append(group)
        return groups


def remove_box(folder: Path) -> None:
    """Unmount and delete one box's folder and cgroups."""
    root = folder / "root"
    if os.path.ismount(root):
        run("umount", "--recursive", "--lazy", str(root))
    shutil.rmtree(folder, ignore_errors=True)
    with only_one(CGROUP_LOCK):
        for top in CGROUPS.glob("*/edgepaas-test"):
            _remove_cgroup(top / folder.name)
        _remove_cgroup(CGROUPS / "edgepaas-test" / folder.name)


def sweep() -> None:
    """Remove the boxes and namespaces of test runs that do not live any more."""
    BOXES.mkdir(parents=True, exist_ok=True)
    for folder in BOXES.iterdir():
        owner = folder.name.partition("-")[0]
        if not Path(f"/proc/{owner}").exists():
            remove_box(folder)
    Namespace.sweep()


def _remove_cgroup(group: Path) -> None:
    if group.is_dir():
        for folder, _, _ in os.walk(group, topdown=False):
            with contextlib.suppress(OSError):  # still winding up; an empty group costs nothing
                Path(folder).rmdir()
    with contextlib.suppress(OSError):  # others are in it
        group.parent.rmdir()
