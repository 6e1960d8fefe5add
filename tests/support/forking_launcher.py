# SPDX-License-Identifier: Apache-2.0
"""A process that forks stages which do as a test says: ``forking_launcher.py CASE FOLDER``.

It prints one JSON document: what the case found out. A process of its own, since forking is
for processes with one thread, which that of the tests is not.
"""

import atexit
import contextlib
import ctypes
import fcntl
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from edgepaas.sd_notify import Notifier
from edgepaas.supervisor import forked_stages
from edgepaas.supervisor.child import Events
from edgepaas.supervisor.forked_stages import ENOUGH_MEMORY, ForkingLauncher
from edgepaas.supervisor.launcher import Launcher
from edgepaas.supervisor.supervisor import Supervisor

#: What a stage changes, and the next one must not see.
seen: list[str] = []
#: Connections that the waiting service has opened.
opened: list[tuple[socket.socket, socket.socket]] = []


def run(folder: Path, arguments: Sequence[str]) -> int:
    """Be a stage, or the service."""
    name = arguments[0]
    if name == "describe":
        (folder / f"described-{len(list(folder.glob('described-*')))}").write_text(
            json.dumps(_describe(arguments))
        )
    elif name == "serve":
        (folder / "served").write_text(json.dumps(_describe(arguments)))
    elif name == "exit":
        sys.exit(3)
    elif name == "complain":
        sys.exit("what went wrong")
    elif name == "raise":
        raise ValueError("not expected")
    elif name == "crash":
        ctypes.string_at(0)
    elif name == "abort":
        os.abort()
    elif name == "wait":
        (folder / "waits").touch()
        time.sleep(60)
    elif name == "interrupted":
        try:
            (folder / "waits").touch()
            time.sleep(60)
        except KeyboardInterrupt:
            return 130
    elif name == "leave":
        atexit.register((folder / "at-exit").touch)
        threading.Thread(target=_touch_later, args=[folder / "thread"]).start()
    return 75 if name == "again" else 0


def _touch_later(path: Path) -> None:
    time.sleep(0.2)
    path.touch()


def _import_something() -> None:
    __import__("decimal")


def _connect() -> None:
    opened.extend(socket.socketpair() for _ in range(3))


def _echo(one: socket.socket, other: socket.socket) -> str:
    """What arrives of a word that is sent over a connection."""
    try:
        one.sendall(b"word")
        return other.recv(10).decode()
    except OSError as error:
        return str(error)


def _describe(arguments: Sequence[str]) -> dict[str, Any]:
    found = {
        "arguments": list(arguments),
        "argv": sys.argv[1:],
        "environ": dict(os.environ),
        "seen": list(seen),
        "descriptors": _descriptors(),
        "command": Path("/proc/self/cmdline").read_bytes().rstrip(b"\0").decode().split("\0"),
        "group": os.getpgid(0) == os.getpid(),
        "pid": os.getpid(),
        "term": signal.getsignal(signal.SIGTERM) == signal.SIG_DFL,
        "blocked": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ())),
        "imported": "decimal" in sys.modules,
        "connected": [_echo(*pair) for pair in opened],
    }
    seen.append(arguments[0])
    os.environ["LEFT_BY_A_STAGE"] = "1"
    return found


def _descriptors() -> dict[int, str]:
    """What is open, besides the standard three and what lists them."""
    found = {}
    for entry in list(Path("/proc/self/fd").iterdir()):
        try:
            found[int(entry.name)] = str(entry.readlink())
        except OSError:  # that of the list
            continue
    return {number: target for number, target in found.items() if number > 2}


def _wait_for(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


class Cases:
    """Each method is a case; *launcher* forks."""

    def __init__(self, folder: Path, launcher: Launcher) -> None:
        self.folder = folder
        self.launcher = launcher

    def statuses(self) -> Any:
        """How each kind of end is seen by the parent, which lives on."""
        self.launcher.begin_round()
        names = ("none", "again", "exit", "complain", "raise", "crash", "abort")
        return {name: _wait_for(self.launcher.start_stage(name, {})) for name in names}

    def isolation(self) -> Any:
        """Two stages, one after the other, below a parent that holds a lock and a socket."""
        lock = (self.folder / "lock").open("w")
        fcntl.flock(lock, fcntl.LOCK_EX)
        os.set_inheritable(lock.fileno(), True)  # the worst case
        with socket.create_server(("127.0.0.1", 0)):
            signal.signal(signal.SIGTERM, lambda *_: None)
            self.launcher.begin_round()
            for _ in range(2):
                _wait_for(self.launcher.start_stage("describe", {"NOTIFY_SOCKET": "@x"}))
        return [
            json.loads(path.read_text()) for path in sorted(self.folder.glob("described-*"))
        ] + [{"seen": seen, "left": os.environ.get("LEFT_BY_A_STAGE")}]

    def isolation_without_limit(self) -> Any:
        """The same in a container whose descriptors have no limit, on a kernel without close_range.

        There closerange() is a billion system calls.
        """
        os.sysconf = lambda _name: 1 << 30

        def closerange(first: int, end: int) -> None:
            assert end - first < 1 << 20, "this takes minutes"
            for descriptor in range(first, end):
                with contextlib.suppress(OSError):
                    os.close(descriptor)

        os.closerange = closerange
        return self.isolation()

    def signals(self) -> Any:
        """SIGTERM and Ctrl-C reach a stage as they reach a program."""
        self.launcher.begin_round()
        found = {}
        for name, number in (("wait", signal.SIGTERM), ("interrupted", signal.SIGINT)):
            pid = self.launcher.start_stage(name, {})
            deadline = time.monotonic() + 60
            while not (self.folder / "waits").exists() and time.monotonic() < deadline:
                time.sleep(0.01)
            (self.folder / "waits").unlink()
            os.kill(pid, number)
            found[name] = _wait_for(pid)
        return found

    def leave(self) -> Any:
        """A thread that has work to do, and what was registered for the end."""
        self.launcher.begin_round()
        status = _wait_for(self.launcher.start_stage("leave", {}))
        return [status, (self.folder / "thread").exists(), (self.folder / "at-exit").exists()]

    def service(self) -> Any:
        """The service imports, and gets its socket and its lifeline later."""
        self.launcher.begin_round()
        _wait_for(self.launcher.start_stage("none", {}))
        return self._serve()

    def service_killed(self) -> Any:
        """The waiting service is killed and reaped, as by the kernel when memory is short."""
        self.launcher.begin_round()
        pid = self._waiting()
        os.kill(pid, signal.SIGKILL)
        assert self.launcher.record_exit(pid, _wait_for(pid))
        assert not self.launcher.record_exit(pid, 0)
        return self._serve()

    def service_killed_unseen(self) -> Any:
        """The same, and nobody has looked yet."""
        self.launcher.begin_round()
        pid = self._waiting()
        os.kill(pid, signal.SIGKILL)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)  # it is dead, and still to be reaped
        return self._serve()

    def not_needed(self) -> Any:
        """A chain that ends before the service leaves no process."""
        self.launcher.begin_round()
        pid = self._waiting()
        self.launcher.end_round()
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return "gone"
        return "left"

    def prepared(self) -> Any:
        """The next service is there before the round begins, and outlives the one before it."""
        self.launcher.begin_round()
        self.launcher.end_round()
        self.launcher.prepare_round()
        pid = self._waiting()
        self.launcher.prepare_round()
        self.launcher.end_round()
        self.launcher.begin_round()
        _wait_for(self.launcher.start_stage("none", {}))
        status, served_pid, served = self._serve()
        return [status, served_pid == pid, served]

    def connected(self) -> Any:
        """The waiting service has opened connections by the time it is handed its sockets."""
        self.launcher = make_launcher(self.folder, preload=_connect)
        self.launcher.prepare_round()
        self.launcher.begin_round()
        return self._serve()

    def prepared_in_vain(self) -> Any:
        """A round that does not come: the service ends by itself, and the next round has one."""
        forked_stages.PREPARED_FOR = 0.2
        self.launcher.prepare_round()
        pid = self._waiting()
        assert self.launcher.record_exit(pid, _wait_for(pid))
        return self.service()

    def prepared_is_reaped_between_rounds(self) -> Any:
        """It is killed while the chain pauses; the next round has one of its own."""
        supervisor = Supervisor(
            {}, listen=list, stop_timeout=lambda: 5.0,
            notifier=Notifier.of({}, os.getpid()), launcher=self.launcher,
        )  # fmt: skip
        self.launcher.prepare_round()
        pid = self._waiting()
        os.kill(pid, signal.SIGKILL)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        with Events() as events:
            supervisor._stop_requested_within(events, 0.1)
        return self.service()

    def changed_file(self) -> Any:
        """A module's file that changed after it was imported."""
        sys.path.insert(0, str(self.folder))
        (self.folder / "of_this_test.py").write_text("x = 1\n")
        __import__("of_this_test")
        launcher = make_launcher(self.folder)
        (self.folder / "of_this_test.py").write_text("x = 2  # longer\n")
        launcher.begin_round()
        return _wait_for(launcher.start_stage("describe", {}))

    def second_thread(self) -> Any:
        """A second thread at the time of the round."""
        stop = threading.Event()
        thread = threading.Thread(target=stop.wait)
        thread.start()
        self.launcher.begin_round()
        status = _wait_for(self.launcher.start_stage("describe", {}))
        stop.set()
        thread.join()
        return status

    def little_memory(self) -> Any:
        """Stages are forked, and the service is a program."""
        launcher = make_launcher(self.folder, memory=lambda: ENOUGH_MEMORY - 1)
        launcher.begin_round()
        status = _wait_for(launcher.start_stage("again", {}))
        self.launcher = launcher
        return [status, self._serve()]

    def _waiting(self) -> int:
        children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
        (pid,) = map(int, children)
        return pid

    def _serve(self) -> Any:
        with socket.create_server(("127.0.0.1", 0)) as sock:
            read, write = os.pipe2(os.O_CLOEXEC)
            pid = self.launcher.start_service(
                ["serve", "--lifeline", "4"], {"NOTIFY_SOCKET": "@x"},
                sockets=[sock.fileno()], others=[read],
            )  # fmt: skip
            os.close(read)
            status = _wait_for(pid)
            os.close(write)
        served = self.folder / "served"
        return [status, pid, json.loads(served.read_text()) if served.exists() else None]


def make_launcher(
    folder: Path,
    memory: Callable[[], int] = lambda: ENOUGH_MEMORY,
    preload: Callable[[], None] = _import_something,
) -> Launcher:
    """A launcher whose programs end with 42, so that they are told from forks."""
    return ForkingLauncher(
        ["/bin/sh", "-c", "exit 42"],
        {"PATH": os.environ["PATH"], "GIVEN": "to the stages"},
        run=lambda arguments: run(folder, arguments),
        preload=preload,
        memory=memory,
    )


if __name__ == "__main__":
    here = Path(sys.argv[2])
    forking = make_launcher(here)
    print(json.dumps(getattr(Cases(here, forking), sys.argv[1])()))
    forking.end_round()
