# SPDX-License-Identifier: Apache-2.0
"""``edgepaas drill``: rehearse an outage of PostgreSQL before one happens."""

import argparse
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgepaas.drill.outage import DrillPlan, DrillReport
    from edgepaas.drill.scratch_database import Server
    from edgepaas.files.paths import Paths
    from edgepaas.settings import Settings

DESCRIPTION = """\
Rehearse an outage and prove that no row is lost, doubled or out of order.

'edgepaas drill outage' creates a scratch box beside this one (folders, port and processes of
its own) and a scratch database on the PostgreSQL of DATABASE_URL, or a scratch schema where it
may not create databases. Devices write through the API of the scratch box while PostgreSQL
refuses connections, does not answer, and returns, while service and sync are killed, and while
the disk budget is used up. Then every acknowledged reading is counted in PostgreSQL, and the
ledger is audited. The data of this box is not touched, and everything is removed afterwards,
also after Ctrl-C. It takes about a minute and a half, one processor and some 30 MiB.

It refuses to start while this box serves, since its clients would notice the load.

exit status: 0 passed, 1 failed, 78 there is no PostgreSQL to use.
"""

#: Attempts to remove a folder into which a process may still write.
_REMOVE_ATTEMPTS = 30


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    outage = verbs.add_parser(
        "outage",
        help="cut PostgreSQL off, kill processes, fill the disk budget, and count every row",
    )
    outage.add_argument(
        "--database-url",
        default="",
        help="the PostgreSQL to use (default: DATABASE_URL of the environment or the settings, "
        "where a password is safer: other users can read a command line)",
    )
    outage.add_argument(
        "--seconds",
        type=_seconds,
        default=5.0,
        help="how long the devices write in each situation (default: 5)",
    )
    outage.add_argument(
        "--only",
        action="append",
        choices=("refused", "silent", "full"),
        help="only this situation; may be given several times (default: all three)",
    )
    outage.add_argument(
        "--folder",
        type=Path,
        default=None,
        help="the folder for the scratch box (default: drill/ in the state folder)",
    )
    outage.add_argument(
        "--beside-the-service",
        action="store_true",
        help="drill although this box serves; its clients may notice the load",
    )
    outage.add_argument(
        "--keep", action="store_true", help="keep the folder and the database for inspection"
    )
    outage.add_argument("--json", action="store_true", help="print a JSON document at the end")


def run(arguments: argparse.Namespace) -> int:
    """Drill; 0 when it passed. Raises DrillImpossible, ConfigurationError, ConnectFailure."""
    from edgepaas.drill.outage import SITUATIONS, DrillPlan
    from edgepaas.drill.scratch_database import DrillImpossible
    from edgepaas.errors import EXIT_DONE, EXIT_FAILED
    from edgepaas.files.locks import LockHeld, held
    from edgepaas.files.paths import find_paths
    from edgepaas.logs import configure_logging
    from edgepaas.terminal import print_json, say

    configure_logging(level="ERROR")
    paths = find_paths()
    server = _server(paths, arguments.database_url)
    if not arguments.beside_the_service:
        _refuse_while_serving(paths)
    folder = arguments.folder or paths.state / "drill"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def progress(line: str) -> None:
        if arguments.json:
            print(f"drill: {line}", file=sys.stderr, flush=True)
        else:
            say("drill", line)

    signal.signal(signal.SIGTERM, _interrupt)
    plan = DrillPlan(seconds=arguments.seconds, situations=tuple(arguments.only or SITUATIONS))
    try:
        with held(folder / "lock", timeout=0.0):
            report = _drill(server, folder, plan, progress, keep=arguments.keep)
    except LockHeld:
        raise DrillImpossible(f"another drill runs in {folder}; wait until it ends") from None
    if arguments.json:
        print_json(report.as_dict())
    else:
        _show(report)
    return EXIT_DONE if report.passed else EXIT_FAILED


def _server(paths: "Paths", url: str) -> "Server":
    from edgepaas.drill.scratch_database import Server
    from edgepaas.errors import ConfigurationError
    from edgepaas.logs import register_secret

    settings = _settings(paths)
    for secret in settings.secrets():
        register_secret(secret)
    url = url or settings.text("DATABASE_URL")
    if not url or url.startswith("sqlite"):
        raise ConfigurationError(
            "there is no PostgreSQL to use for a drill: set DATABASE_URL in the environment, "
            "or use --database-url"
        )
    server = Server.of(settings, url)
    register_secret(server.address.password)
    return server


def _settings(paths: "Paths") -> "Settings":
    from edgepaas.settings.resolve import resolve_box

    # Not from run/env: a drill may run before the first start of the box, or with another URL.
    return resolve_box(paths).settings


def _refuse_while_serving(paths: "Paths") -> None:
    from edgepaas.drill.scratch_database import DrillImpossible
    from edgepaas.service.instance_locks import serving_process

    process = serving_process(paths)
    if process is not None:
        which = f" (process {process})" if process else ""
        raise DrillImpossible(
            f"this box serves{which}, and its clients would notice a drill: stop it first "
            "('systemctl stop edgepaas.socket edgepaas'), or use --beside-the-service"
        )


def _drill(
    server: "Server",
    folder: Path,
    plan: "DrillPlan",
    progress: Callable[[str], None],
    *,
    keep: bool,
) -> "DrillReport":
    from edgepaas.drill.outage import OutageDrill
    from edgepaas.drill.relay import Relay, dialer
    from edgepaas.drill.scratch_box import ScratchBox
    from edgepaas.drill.scratch_database import create_scratch_database
    from edgepaas.supervisor.stage_processes import PROGRAM

    server = server.serving()
    for leftover in sorted(folder.glob("box-*")):
        progress(f"removing what an earlier drill left in {leftover}")
        _clear(server, leftover, progress)
    home = Path(tempfile.mkdtemp(prefix="box-", dir=folder))
    address = server.address
    box = ScratchBox(home, program=PROGRAM, environ=os.environ)
    host = address.params.get("hostaddr") or address.host
    relay = Relay(dialer(host, address.port, address.unix_socket))
    try:
        scratch = create_scratch_database(server, home)
        progress(f"{scratch.label} on {address.masked()}, scratch box in {home}")
        return OutageDrill(
            server, scratch, box=box, relay=relay, plan=plan, progress=progress
        ).run()
    finally:
        # Not to be interrupted: a second Ctrl-C would leave processes behind.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        box.stop()
        relay.close()
        if keep:
            progress(f"kept: {home}; the next drill in {folder} removes it")
        else:
            _clear(server, home, progress)


def _clear(server: "Server", home: Path, progress: Callable[[str], None]) -> None:
    """Remove the drill in *home*: processes, scratch database, folder."""
    from edgepaas.drill.scratch_box import end_leftover
    from edgepaas.drill.scratch_database import drop_scratch_database, read_note

    end_leftover(home)
    scratch, where = read_note(home)
    if scratch is not None and where != server.address.masked():
        progress(f"{home} is kept: {scratch.label} is on {where}; run a drill there to remove it")
        return
    if scratch is not None:
        drop_scratch_database(server, scratch)  # before the folder, which alone holds its name
    _remove(home)


def _remove(home: Path) -> None:
    """Remove the folder; a box that was just being started at Ctrl-C may still write to it."""
    import shutil

    from edgepaas.drill.scratch_box import end_leftover

    for left in reversed(range(_REMOVE_ATTEMPTS)):
        try:
            shutil.rmtree(home)
            return
        except OSError:
            if not left:
                raise
            time.sleep(0.1)
            end_leftover(home)


def _show(report: "DrillReport") -> None:
    from edgepaas.terminal import print_table, say

    figures = report.counts
    print_table(
        ("STEP", "RESULT", "SECONDS", "WHAT HAPPENED"),
        [
            (step.name, "ok" if step.ok else "FAILED", f"{step.seconds:.1f}", step.message)
            for step in report.steps
        ],
    )
    say("acknowledged", f"{figures.acknowledged:,} readings; {report.repeated:,} requests repeated")
    say("PostgreSQL", f"{figures.in_postgres:,} readings")
    say(
        "counted",
        f"{figures.lost} lost, {figures.doubled} doubled, {figures.invented} never sent, "
        f"{figures.out_of_order} out of order",
    )
    ledger = {0: "adds up", 1: "does NOT add up", 2: "could not ask PostgreSQL"}
    say("ledger", ledger.get(report.audit_status, "was not read"))
    for problem in [*report.audit.get("discrepancies", ()), *report.problems]:
        say("problem", str(problem))
    say("drill", "PASSED" if report.passed else "FAILED")


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0.1 <= seconds <= 3600:
        raise argparse.ArgumentTypeError(f"{text}: 0.1 to 3600 seconds")
    return seconds


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt
