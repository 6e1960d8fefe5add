# SPDX-License-Identifier: Apache-2.0
"""Stopping a real drainer at a step of handing back: killed there, or made to wait.

``Steps(folder)`` is the test's end. The drainer's is put in place by ``weaken`` (as
``hand-back-steps``) in a process that finds the folder in its environment.
"""

import os
import signal
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

VARIABLE = "EDGEPAAS_TEST_STEPS"
#: In their order: the fence is put; the rest is sent and PostgreSQL has taken a write; the
#: fence is put anew; the hold is cleared; the service is told.
STEPS = ("fenced", "drained", "held", "cleared", "told")


class Steps:
    """Says what is to happen at which step, each time once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(exist_ok=True)
        self.environ = {VARIABLE: str(folder)}

    def kill_at(self, step: str) -> None:
        """Have the drainer killed (``kill -9``) once it has done *step*."""
        (self._folder / f"kill-{step}").touch()

    def killed_at(self, step: str) -> bool:
        """Whether that has happened."""
        return not (self._folder / f"kill-{step}").exists()

    def stop_at(self, step: str) -> None:
        """Have the drainer wait once it has done *step*."""
        (self._folder / f"wait-{step}").touch()

    def wait_for(self, step: str) -> None:
        """Wait until it is there."""
        # Here, since every Python of a test's box imports this module before its own.
        from tests.support.service_process import until

        until((self._folder / f"at-{step}").exists, f"the step {step}", 180)

    def let_go(self, step: str) -> None:
        """Let it go on."""
        (self._folder / f"at-{step}").unlink()
        (self._folder / f"wait-{step}").unlink()


def patch(module: Any) -> Iterable[tuple[object, str, object]]:
    """Return what is to be replaced in ``edgepaas.sync.handback``."""
    folder = Path(os.environ[VARIABLE])

    def reached(step: str) -> None:
        kill, wait = folder / f"kill-{step}", folder / f"wait-{step}"
        if kill.exists():
            kill.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        if wait.exists():
            (folder / f"at-{step}").touch()
            while wait.exists():
                time.sleep(0.01)

    def after(function: Callable[..., Any], step: str) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **options: Any) -> Any:
            result = function(*arguments, **options)
            reached(step)
            return result

        return wrapped

    hold = module.HandBack._extend_fence

    def hold_the_fence(self: Any, connection: Any) -> None:
        reached("drained")
        hold(self, connection)
        reached("held")

    class Fence:
        """The module ``fence``, with a step after its first use in an attempt."""

        def __getattr__(self, name: str) -> Any:
            return getattr(fence, name)

        @staticmethod
        def put(connection: Any, seconds: float) -> None:
            within = connection.in_transaction
            fence.put(connection, seconds)
            if not within:
                reached("fenced")

    fence = module.fence
    return [
        (module, "fence", Fence()),
        (module.HandBack, "_extend_fence", hold_the_fence),
        (module, "clear_hold", after(module.clear_hold, "cleared")),
        (module, "write_atomic", after(module.write_atomic, "told")),
    ]
