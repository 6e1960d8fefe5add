# SPDX-License-Identifier: Apache-2.0
"""'edgepaas up' with stages that do as a test says: ``up_with_stages.py FOLDER PORT``.

Each stage appends its name to FOLDER/ran. FOLDER/status-STAGE, where it is there, holds
exit statuses, one a line, used up from the top; without it a stage ends with 0 and the
service is the real one. ``hang`` instead of a status stops the process (SIGSTOP), and ``long``
has it take longer than its limit, for which it asks. What runs beside it appends to
FOLDER/beside instead, and without a status lives until it is told to end. FOLDER/pauses gets
the seconds of each longer pause.
"""

import os
import signal
import sys
import time
from functools import partial
from pathlib import Path

from edgepaas.cli.stages.up import _note_stage
from edgepaas.files.paths import find_paths
from edgepaas.httpd.listen import bind
from edgepaas.logs import configure_logging
from edgepaas.sd_notify import Notifier
from edgepaas.service.stage_failure import begin_stage
from edgepaas.supervisor.sidecars import SIDECARS
from edgepaas.supervisor.source_watch import SourceWatch
from edgepaas.supervisor.stage_processes import START_LIMITS
from edgepaas.supervisor.supervisor import Supervisor


def main() -> int:
    """Be the supervisor, or one of the stages."""
    folder = Path(sys.argv[1])
    if sys.argv[2].isdigit():
        return supervise(folder, int(sys.argv[2]))
    return stage(folder, sys.argv[2], sys.argv[3:])


def supervise(folder: Path, port: int) -> int:
    """Run the chain of stages."""
    configure_logging(level="INFO")
    reload = os.environ.get("TEST_RELOAD", "")
    return Supervisor(
        os.environ,
        listen=lambda: bind("127.0.0.1", port),
        stop_timeout=lambda: 5.0,
        notifier=Notifier.of(os.environ, os.getpid()),
        watchdog=float(os.environ.get("TEST_WATCHDOG", "30")),
        start_limits=limits(),
        watch_sources=(lambda: SourceWatch([Path(reload)])) if reload else None,
        before_pause=lambda seconds: note_pause(folder, seconds),
        on_failure=partial(_note_stage, find_paths()),
        program=(sys.executable, __file__, str(folder)),
    ).run()


def limits() -> dict[str, float]:
    """The time limits of the stages; TEST_START_LIMIT, "STAGE SECONDS", is another one."""
    stage, _, seconds = os.environ.get("TEST_START_LIMIT", "").partition(" ")
    return START_LIMITS | ({stage: float(seconds)} if stage else {})


def note_pause(folder: Path, seconds: float) -> None:
    """Keep how long the chain is going to wait."""
    with (folder / "pauses").open("a") as pauses:
        pauses.write(f"{seconds:g}\n")


def stage(folder: Path, name: str, options: list[str]) -> int:
    """Be one stage; the service keeps its process id through the exec, as LISTEN_PID wants."""
    beside = name in {command[0] for command in SIDECARS}
    with (folder / ("beside" if beside else "ran")).open("a") as ran:
        ran.write(" ".join([name, str(os.getpid()), *options]) + "\n")
    plan = folder / f"status-{name}"
    statuses = plan.read_text().split() if plan.exists() else []
    if statuses:
        plan.write_text("\n".join(statuses[1:]))
    if statuses[:1] == ["hang"]:
        os.kill(os.getpid(), signal.SIGSTOP)
    elif statuses[:1] == ["long"]:
        Notifier.of(os.environ, os.getpid()).extend(600)
        time.sleep(limits()[name] + 1)
    elif statuses and statuses[0] != "go":
        return int(statuses[0])
    if name == "env":
        begin_stage(find_paths(), "env")
    if beside:
        # Ends with whoever started it, also where that was killed: no test leaves one behind.
        os.read(int(options[options.index("--lifeline") + 1]), 1)
    if name == "serve":
        command = [sys.executable, "-m", "edgepaas", "serve", *options]
        os.execv(sys.executable, command)
    return 0


if __name__ == "__main__":
    sys.exit(main())
