# SPDX-License-Identifier: Apache-2.0
"""Network namespaces of our own, wires between them, and ways to cut a wire.

Nothing here touches the machine's own network.
"""

import contextlib
import ctypes
import os
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Literal, TypeVar

PREFIX = "edgepaas-"
EDGE = "10.77.0.2"
HUB = "10.77.0.1"
_CLONE_NEWNET = 0x40000000

T = TypeVar("T")


def run(
    *command: str, check: bool = True, timeout: float = 60.0, input: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Run *command*; what it printed is in the error when it fails."""
    result = subprocess.run(
        command, input=input or "", capture_output=True, text=True, errors="replace",
        timeout=timeout, check=False,
    )  # fmt: skip
    if check and result.returncode != 0:
        raise RuntimeError(
            f"{' '.join(command)}: status {result.returncode}\n{result.stdout}\n{result.stderr}"
        )
    return result


class Namespace:
    """One network namespace, named after this process so that a later run can tell its owner."""

    def __init__(self, name: str) -> None:
        self.name = f"{PREFIX}{name}"

    @property
    def path(self) -> Path:
        """Where ip-netns(8) keeps it."""
        return Path("/run/netns") / self.name

    def create(self) -> None:
        """Make it, with nothing but a loopback."""
        run("ip", "netns", "add", self.name)
        run("ip", "-n", self.name, "link", "set", "lo", "up")

    def destroy(self) -> None:
        """Remove it, and with it its end of any wire."""
        run("ip", "netns", "delete", self.name, check=False)

    def call(self, function: Callable[[], T]) -> T:
        """Call *function* in a thread that lives in this namespace; sockets it makes stay there."""
        outcome: list[T] = []
        failure: list[BaseException] = []

        def inside() -> None:
            try:
                self.enter()
                outcome.append(function())
            except BaseException as error:
                failure.append(error)

        thread = threading.Thread(target=inside)
        thread.start()
        thread.join()
        if failure:
            raise failure[0]
        return outcome[0]

    def enter(self) -> None:
        """Move the calling thread (not the process) into this namespace, for good."""
        library = ctypes.CDLL(None, use_errno=True)
        with self.path.open() as file:
            if library.setns(file.fileno(), _CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), f"setns into {self.name}")

    @staticmethod
    def sweep() -> None:
        """Remove the namespaces of processes that do not live any more."""
        folder = Path("/run/netns")
        for path in folder.glob(f"{PREFIX}*") if folder.is_dir() else ():
            owner = path.name.removeprefix(PREFIX).partition("-")[0]
            if owner.isdigit() and not Path(f"/proc/{owner}").exists():
                run("ip", "netns", "delete", path.name, check=False)


class Wire:
    """Two hosts on one cable: ``edge`` (10.77.0.2) for a box, ``hub`` (10.77.0.1) for a server.

    *base* is an unpacked Debian root, whose nft(8) is used so that this machine needs none.
    """

    def __init__(self, name: str, base: Path) -> None:
        self.edge = Namespace(f"{os.getpid()}-{name}-edge")
        self.hub = Namespace(f"{os.getpid()}-{name}-hub")
        self._base = base

    def create(self) -> None:
        """Make both ends and the cable between them."""
        self.edge.create()
        self.hub.create()
        run(
            "ip", "-n", self.edge.name, "link", "add", "wire", "type", "veth",
            "peer", "name", "wire", "netns", self.hub.name,
        )  # fmt: skip
        for end, address in ((self.edge, EDGE), (self.hub, HUB)):
            run("ip", "-n", end.name, "address", "add", f"{address}/24", "dev", "wire")
            run("ip", "-n", end.name, "link", "set", "wire", "up")
        run("ip", "-n", self.edge.name, "route", "add", "default", "via", HUB)

    def cut(self, how: Literal["drop", "reject", "reset", "link"]) -> None:
        """Cut the wire at the far end: packets vanish, are refused, or the cable is out."""
        if how == "link":
            run("ip", "-n", self.hub.name, "link", "set", "wire", "down")
            return
        verdict = {"drop": "drop", "reject": "reject", "reset": "reject with tcp reset"}[how]
        what = "meta l4proto tcp" if how == "reset" else ""
        self._nft(
            "add table inet cut\n"
            "add chain inet cut input { type filter hook input priority 0; }\n"
            f"add rule inet cut input ip saddr {EDGE} {what} {verdict}\n"
        )

    def heal(self) -> None:
        """Undo every cut."""
        with contextlib.suppress(RuntimeError):  # nothing was cut by a rule
            self._nft("delete table inet cut")
        run("ip", "-n", self.hub.name, "link", "set", "wire", "up")

    def destroy(self) -> None:
        """Remove both ends."""
        self.edge.destroy()
        self.hub.destroy()

    def _nft(self, rules: str) -> None:
        run(
            "ip", "netns", "exec", self.hub.name, "chroot", str(self._base),
            "/usr/sbin/nft", "-f", "-", input=rules,
        )  # fmt: skip
