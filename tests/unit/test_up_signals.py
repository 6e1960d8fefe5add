# SPDX-License-Identifier: Apache-2.0
"""A stop that comes at the very beginning of 'edgepaas up' is kept, whatever it comes between."""

import os
import subprocess
import sys
from collections.abc import Sequence

import pytest

from tests.support.weaken import weak_environ

#: Sends a signal before and after each call of the set-up, and waits for it afterwards.
EVENTS = """
import os, signal, sys
from edgepaas.supervisor import child

number, step, moment = int(sys.argv[1]), sys.argv[2], sys.argv[3]
where = os if step == "pipe2" else signal
real = getattr(where, step)
sent = []

def with_a_signal(*arguments, **options):
    if not sent and moment == "before":
        sent.append(1)
        os.kill(os.getpid(), number)
    found = real(*arguments, **options)
    if not sent:
        sent.append(1)
        os.kill(os.getpid(), number)
    return found

# As in 'edgepaas up', which has blocked them since its first line.
signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGINT))
setattr(where, step, with_a_signal)
with child.Events() as events:
    received = events.wait(None, timeout=0)
print(received.stop, received.hangup)
"""

#: What is loaded by the time of the first call that blocks, or unblocks, signals.
FIRST = """
import signal, sys

def first(how, numbers):
    ours = sorted(name for name in sys.modules if name.startswith("edgepaas"))
    print(signal.Sigmasks(how).name, *sorted(signal.Signals(n).name for n in numbers), *ours)
    raise SystemExit

signal.pthread_sigmask = first
from edgepaas.cli import main
main(sys.argv[1:])
"""


def printed(code: str, *arguments: str, weakness: Sequence[str] = ()) -> list[str]:
    """The words that *code* prints, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=60,
        check=False, env=os.environ | weak_environ(*weakness),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("step", ["pipe2", "signal", "set_wakeup_fd"])
def test_a_signal_between_two_steps_of_the_set_up_is_heard(step: str, moment: str) -> None:
    """A handler that is there before the pipe must not take the signal and forget it."""
    assert printed(EVENTS, "15", step, moment) == ["True", "False"]
    assert printed(EVENTS, "1", step, moment) == ["False", "True"]


def test_a_build_that_handles_signals_before_it_can_keep_them_is_found_out() -> None:
    assert printed(EVENTS, "15", "set_wakeup_fd", "before", weakness=["deaf-at-first"]) == [
        "False", "False",
    ]  # fmt: skip


def test_up_keeps_its_stop_before_it_loads_anything() -> None:
    """For PID 1 the kernel drops what is neither handled nor blocked."""
    found = ["SIGINT", "SIGTERM", "edgepaas", "edgepaas.cli", "edgepaas.errors"]
    assert printed(FIRST, "up") == ["SIG_BLOCK", *found]


@pytest.mark.parametrize("command", ["status", "serve", "--version"])
def test_no_other_command_keeps_what_the_image_has_blocked(command: str) -> None:
    assert printed(FIRST, command)[:3] == ["SIG_UNBLOCK", "SIGINT", "SIGTERM"]
