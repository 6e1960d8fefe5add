# SPDX-License-Identifier: Apache-2.0
"""Stages that are forked from ``edgepaas up`` instead of being started as programs.

A program start of Python costs more than most stages do: the interpreter, and the modules
that they share. Forked, each has both at once. The service is forked when the chain begins
and imports what it needs while the stages run beside it; it opens nothing until they are
done. One that is forked for a hand-back, while PostgreSQL takes the rest of the rows, connects
to it meanwhile. Each is a process of its own as before: its own exit status, signals and
output, its own environment, and none of this process's descriptors (a lock would be held by
them).
"""

import contextlib
import gc
import json
import logging
import os
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from edgepaas.errors import EXIT_FAILED
from edgepaas.httpd.listen import FIRST_DESCRIPTOR
from edgepaas.supervisor.interpreter_adapter import end_interpreter
from edgepaas.supervisor.launcher import Launcher
from edgepaas.supervisor.process_title import set_process_title
from edgepaas.supervisor.stage_processes import SERVICE, place_descriptors, reset_signals

#: Runs a sub-command with its arguments; returns its exit status.
RunCommand = Callable[[Sequence[str]], int]

#: Bytes of memory that must be free for the service to import beside the stages, one of which
#: may be a migration: together they must fit.
ENOUGH_MEMORY = 256 * 1024**2
#: Seconds for which a service that was prepared waits for its round.
PREPARED_FOR = 30.0
#: How many sockets and pipes a waiting service can be handed.
MOST_DESCRIPTORS = 64

logger = logging.getLogger("edgepaas.up")


class ForkingLauncher(Launcher):
    """Forks the stages where that is safe, and starts programs where it is not.

    Not safe are: a process with more than one thread, and files of modules that have changed
    since they were imported (an upgrade, a developer who saves), which only a program start
    reads anew. *run* is what the program does with its arguments; *preload* imports what
    the service needs, and *memory* tells how many bytes are free.
    """

    def __init__(
        self,
        program: Sequence[str],
        environ: Mapping[str, str],
        *,
        run: RunCommand,
        preload: Callable[[], None],
        memory: Callable[[], int],
    ) -> None:
        super().__init__(program, environ)
        self._run = run
        self._preload = preload
        self._memory = memory
        self._files = _module_files()
        self._forks = False
        self._waiting: _WaitingService | None = None
        #: Whether the one that waits was forked for a round that has not begun.
        self._prepared = False

    def prepare_round(self) -> None:
        """Fork the service now, which imports while the one before it comes to its end."""
        if self._waiting is None:
            self._fork_service(patience=PREPARED_FOR)
            self._prepared = self._waiting is not None

    def begin_round(self) -> None:
        """Fork the service, which imports while the stages run, unless it is there already."""
        prepared, self._prepared = self._prepared, False
        if not prepared:
            self.end_round()
            self._fork_service()

    def _fork_service(self, *, patience: float | None = None) -> None:
        self._forks = _is_single_threaded() and _module_files(self._files) == self._files
        if self._forks and self._memory() >= ENOUGH_MEMORY:
            try:
                self._waiting = _WaitingService(
                    self._environ, self._run, self._preload, patience=patience
                )
            except OSError as error:  # no more processes, or no memory for one
                logger.warning("the service is not imported beside the stages: %s", error)

    def start_stage(self, stage: str, variables: Mapping[str, str]) -> int:
        """Fork *stage*, or start it as a program."""
        if not self._forks:
            return super().start_stage(stage, variables)
        environ = dict(self._environ) | dict(variables)
        return _fork(lambda: _be_stage(self._run, [stage], environ))

    def start_service(
        self,
        arguments: Sequence[str],
        variables: Mapping[str, str],
        *,
        sockets: Sequence[int],
        others: Sequence[int],
    ) -> int:
        """Let the service go on that has imported meanwhile, or start it as a program."""
        waiting, self._waiting, self._prepared = self._waiting, None, False
        if waiting is not None:
            try:
                waiting.go_on(arguments, variables, sockets, others)
            except OSError as error:  # it has ended, or is about to
                logger.warning("the imported service has ended (%s); another is started", error)
                waiting.discard()
            else:
                return waiting.pid
        return super().start_service(arguments, variables, sockets=sockets, others=others)

    def record_exit(self, pid: int, status: int) -> bool:
        """Take note that the waiting service has ended: a program will be started instead."""
        if self._waiting is None or self._waiting.pid != pid:
            return False
        if not self._prepared:
            logger.warning("the service ended with status %d while it was imported", status)
        self._waiting.forget()
        self._waiting, self._prepared = None, False
        return True

    def end_round(self) -> None:
        """End a service that was never needed; one that was prepared is for the next round."""
        if self._waiting is not None and not self._prepared:
            self._waiting.discard()
            self._waiting = None


class _WaitingService:
    """The service's process, which imports, and then waits for its sockets."""

    def __init__(
        self,
        environ: Mapping[str, str],
        run: RunCommand,
        preload: Callable[[], None],
        *,
        patience: float | None = None,
    ) -> None:
        """*patience*: seconds after which it ends if it is not let go on."""
        ours, theirs = socket.socketpair()
        with theirs:
            theirs.settimeout(patience)
            self.pid = _fork(lambda: _be_service(theirs, run, preload, environ))
        self._control = ours

    def go_on(
        self,
        arguments: Sequence[str],
        variables: Mapping[str, str],
        sockets: Sequence[int],
        others: Sequence[int],
    ) -> None:
        """Hand over what it needs. Raises OSError where it has ended."""
        order = {
            "arguments": list(arguments),
            "variables": dict(variables),
            "sockets": len(sockets),
        }
        # Small, and so taken by the kernel at once, even while it still imports.
        socket.send_fds(self._control, [json.dumps(order).encode()], [*sockets, *others])
        self._control.close()

    def discard(self) -> None:
        """End it; what it has opened are connections to PostgreSQL that nobody uses."""
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        self._control.close()

    def forget(self) -> None:
        """Close what belongs to it: it has been reaped."""
        self._control.close()


def _be_service(
    control: socket.socket, run: RunCommand, preload: Callable[[], None], environ: Mapping[str, str]
) -> int:
    patience, descriptor = control.gettimeout(), control.detach()
    place_descriptors([descriptor])
    _begin(environ, [SERVICE], kept=1)
    order = socket.socket(fileno=FIRST_DESCRIPTOR)
    # What it opens meanwhile, and keeps, must not have the numbers that are promised to others.
    kept_free = _keep_free(range(FIRST_DESCRIPTOR + 1, FIRST_DESCRIPTOR + MOST_DESCRIPTORS))
    gc.disable()  # until the service itself turns it on: nothing but modules is made
    preload()
    order.settimeout(patience)
    try:
        received, descriptors, _, _ = socket.recv_fds(order, 65536, MOST_DESCRIPTORS)
    except TimeoutError:
        return EXIT_FAILED  # what it was prepared for did not come
    if not received:
        return EXIT_FAILED  # 'edgepaas up' is gone
    wanted = json.loads(received)
    _take_over(descriptors, {order.detach(), *kept_free})
    os.environ.update(wanted["variables"])
    os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(wanted["sockets"])}
    return _call(run, wanted["arguments"])


def _keep_free(numbers: Iterable[int]) -> set[int]:
    """Open descriptors with all of *numbers*, none of which is open, and return them."""
    empty = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    free = {number for number in numbers if number != empty}
    for number in free:
        os.dup2(empty, number, inheritable=False)
    return free | {empty}


def _take_over(received: Sequence[int], free: set[int]) -> None:
    """Move the *received* descriptors to 3, 4, …, numbers of *free*, and close the rest of those.

    Every other descriptor stays what it is.
    """
    targets = range(FIRST_DESCRIPTOR, FIRST_DESCRIPTOR + len(received))
    for target, descriptor in zip(targets, received, strict=True):
        os.dup2(descriptor, target, inheritable=True)
        os.close(descriptor)
    for number in free.difference(targets):
        os.close(number)


def _be_stage(run: RunCommand, arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    place_descriptors([])
    _begin(environ, arguments, kept=0)
    return _call(run, arguments)


def _begin(environ: Mapping[str, str], arguments: Sequence[str], *, kept: int) -> None:
    """Leave behind what is the parent's, except for the first *kept* descriptors after 2."""
    # Nothing of the parent's is ever collected in here: an object that closes a descriptor
    # would close one that has its number by then.
    gc.freeze()
    _close_from(FIRST_DESCRIPTOR + kept)
    os.environ.clear()
    os.environ.update(environ)
    set_process_title(["edgepaas", *arguments])
    reset_signals()
    # As in a program of Python's that has just begun.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _call(run: RunCommand, arguments: Sequence[str]) -> int:
    sys.argv[1:] = arguments
    set_process_title(["edgepaas", *arguments])
    return run(arguments)


def _fork(work: Callable[[], int]) -> int:
    """Run *work* in a child, whose exit status it returns; the child's id. Raises OSError."""
    sys.stdout.flush()
    sys.stderr.flush()
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        pid = os.fork()
        if pid == 0:
            _work_and_end(work)
        return pid
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def _work_and_end(work: Callable[[], int]) -> NoReturn:
    """End as a program does, but never in the frames of the parent, which are below this one."""
    status = EXIT_FAILED
    try:
        status = _exit_status(work)
        end_interpreter()
    except BaseException:  # noqa: BLE001 - a copy of the parent must not live on
        traceback.print_exc()
    finally:
        os._exit(status & 0xFF)


def _exit_status(work: Callable[[], int]) -> int:
    try:
        return work()
    except SystemExit as ending:  # as argparse ends a command
        if ending.code is None or isinstance(ending.code, int):
            return ending.code or 0
        print(ending.code, file=sys.stderr)
        return EXIT_FAILED


def _close_from(first: int) -> None:
    # Those that are open: a container may have a limit of a billion, and an old kernel no
    # close_range(2).
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 - no object for each is wanted
        if int(name) >= first:
            with contextlib.suppress(OSError):  # that of the list itself
                os.close(int(name))


def _is_single_threaded() -> bool:
    # Threads of libraries as well, of which Python knows nothing.
    return len(list(Path("/proc/self/task").iterdir())) == 1


def _module_files(among: Mapping[str, object] | None = None) -> dict[str, tuple[int, int, int]]:
    """Return what identifies the files of the modules that are loaded, or of those *among*."""
    paths = among or [
        path
        for module in list(sys.modules.values())
        if isinstance(path := getattr(module, "__file__", None), str)
    ]
    found = {}
    for path in paths:
        try:
            status = Path(path).stat()
        except OSError:
            continue
        found[path] = (status.st_mtime_ns, status.st_size, status.st_ino)
    return found
