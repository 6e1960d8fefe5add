# SPDX-License-Identifier: Apache-2.0
"""The boot chain's stages as child processes, with the sockets they inherit."""

import fcntl
import os
import signal
import sys
from collections.abc import Mapping, Sequence

from edgepaas.httpd.listen import FIRST_DESCRIPTOR

#: The stages in their order; each is a sub-command, and a unit on an installed box.
CHAIN = ("env", "dbdecide", "schema", "serve")
#: The one that stays.
SERVICE = CHAIN[-1]
#: Seconds in which each has to end, or to be ready: TimeoutStartSec= of its unit.
START_LIMITS = {"env": 60.0, "dbdecide": 120.0, "schema": 120.0, "serve": 90.0}
#: The one that may swap the SQLite file, so that nothing beside the service may have it open.
ALONE = "schema"

#: How this very EdgePaaS is called. The installed command runs Python isolated and finds its
#: libraries by itself, where 'python3 -m' would not.
PROGRAM = (sys.argv[0],) if sys.flags.isolated else (sys.executable, "-m", "edgepaas")

#: What a service manager passes to this process is not for its children.
_NOT_INHERITED = frozenset(
    {
        *("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"),
        *("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"),
    }
)

#: The exit status of a program that cannot be executed, as in shells (exec(3p)).
_CANNOT_EXECUTE = 127


def child_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return *environ* without what the service manager meant for this process alone."""
    return {name: value for name, value in environ.items() if name not in _NOT_INHERITED}


def spawn(
    command: Sequence[str],
    environ: Mapping[str, str],
    *,
    sockets: Sequence[int] = (),
    others: Sequence[int] = (),
) -> int:
    """Start *command* with *environ* and return its process id.

    *sockets* become its descriptors 3, 4, … and are announced by LISTEN_FDS
    (sd_listen_fds(3)); *others* follow them, unannounced. The child leads a process
    group of its own: a Ctrl-C reaches it through us alone. Only for a process with one
    thread: LISTEN_PID is known only between fork and exec.
    """
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        pid = os.fork()
        if pid == 0:
            _become(list(command), environ, sockets, others)
        return pid
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def _become(
    command: list[str],
    environ: Mapping[str, str],
    sockets: Sequence[int],
    others: Sequence[int],
) -> None:
    try:
        reset_signals()
        place_descriptors([*sockets, *others])
        variables = dict(environ)
        if sockets:
            variables |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(len(sockets))}
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        os.execve(command[0], command, variables)  # noqa: S606 - there is no shell to want
    except BaseException as error:  # noqa: BLE001 - a copy of the parent must not live on
        os.write(2, f"edgepaas: {command[0]} cannot be started: {error}\n".encode())
    finally:
        os._exit(_CANNOT_EXECUTE)


def reset_signals() -> None:
    """In a child that was just forked: nothing of the parent's handlers; a group of its own."""
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    os.setpgid(0, 0)


def place_descriptors(descriptors: Sequence[int]) -> None:
    """Put *descriptors* at 3, 4, …, and /dev/null at 0."""
    empty = os.open(os.devnull, os.O_RDONLY)
    os.dup2(empty, 0)
    # Out of the way first: a target may be one of those that are still to be moved.
    above = FIRST_DESCRIPTOR + len(descriptors) + 16
    moved = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, above) for fd in descriptors]
    for target, descriptor in enumerate(moved, start=FIRST_DESCRIPTOR):
        os.dup2(descriptor, target, inheritable=True)
