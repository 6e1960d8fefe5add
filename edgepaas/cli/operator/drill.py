# SPDX-License-Identifier: Apache-2.0
"""``edgepaas drill``: rehearse what the box is for, before it happens."""

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
    from edgepaas.drill.outage import Plan, Report
    from edgepaas.drill.place import Server
    from edgepaas.files.paths import Paths
    from edgepaas.settings import Settings

DESCRIPTION = """\
Rehearse an outage and prove that no row is lost, doubled or out of order.

'edgepaas drill outage' makes a scratch box beside this one (folders, port, processes of its
own) and a scratch database on the PostgreSQL of DATABASE_URL, or a scratch schema where no
database may be created. Devices write through the scratch box's API while PostgreSQL refuses,
falls silent, and comes back, while its service and sync are killed, and while its disk budget
is used up. Then every acknowledged reading is counted in PostgreSQL, and the ledger is
audited. Nothing of this box's own data is touched, and nothing is left behind; Ctrl-C cleans
up as well. It takes about a minute and a half, one processor and some 30 MiB.

It refuses to begin while this box serves: the load would be felt by its clients.

exit status: 0 passed, 1 failed, 78 there is no PostgreSQL to drill against.
"""

#: Attempts at removing a folder into which a process still writes.
_TRIES = 30


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    outage = verbs.add_parser("outage", help="cut PostgreSQL off, kill, fill, heal, and count")
    outage.add_argument(
        "--database-url",
        default="",
        help="the PostgreSQL to drill against (default: DATABASE_URL of the environment or the "
        "settings, where a password is safer: others can read a command line)",
    )
    outage.add_argument(
        "--seconds",
        type=_seconds,
        default=5.0,
        help="how long devices write in each situation (default: 5)",
    )
    outage.add_argument(
        "--only",
        action="append",
        choices=("refused", "silent", "full"),
        help="do this alone to the box; may be given several times (default: all three)",
    )
    outage.add_argument(
        "--folder",
        type=Path,
        default=None,
        help="where the scratch box lies (default: drill/ in the state folder)",
    )
    outage.add_argument(
        "--beside-the-service",
        action="store_true",
        help="drill although this box serves; its clients may feel it",
    )
    outage.add_argument(
        "--keep", action="store_true", help="leave folder and database behind, to be looked at"
    )
    outage.add_argument("--json", action="store_true", help="print a JSON document at the end")


def run(arguments: argparse.Namespace) -> int:
    """Drill; 0 when it passed. Raises DrillImpossible, ConfigurationError, ConnectFailure."""
    from edgepaas.drill.outage import SITUATIONS, Plan
    from edgepaas.drill.place import DrillImpossible
    from edgepaas.errors import EXIT_DONE, EXIT_FAILED
    from edgepaas.files.locks import LockHeld, held
    from edgepaas.files.paths import find_paths
    from edgepaas.logs import configure_logging
    from edgepaas.terminal import print_json, say

    configure_logging(level="ERROR")
    paths = find_paths()
    server = _server(paths, arguments.database_url)
    if not arguments.beside_the_service:
        _refuse_beside_a_service(paths)
    folder = arguments.folder or paths.state / "drill"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def tell(line: str) -> None:
        if arguments.json:
            print(f"drill: {line}", file=sys.stderr, flush=True)
        else:
            say("drill", line)

    signal.signal(signal.SIGTERM, _interrupt)
    plan = Plan(seconds=arguments.seconds, situations=tuple(arguments.only or SITUATIONS))
    try:
        with held(folder / "lock", timeout=0.0):
            report = _drill(server, folder, plan, tell, keep=arguments.keep)
    except LockHeld:
        raise DrillImpossible(f"another drill runs in {folder}; wait for it") from None
    if arguments.json:
        print_json(report.as_dict())
    else:
        _show(report)
    return EXIT_DONE if report.passed else EXIT_FAILED


def _server(paths: "Paths", url: str) -> "Server":
    from edgepaas.drill.place import Server
    from edgepaas.errors import ConfigurationError
    from edgepaas.logs import register_secret

    settings = _settings(paths)
    for secret in settings.secrets():
        register_secret(secret)
    url = url or settings.text("DATABASE_URL")
    if not url or url.startswith("sqlite"):
        raise ConfigurationError(
            "there is no PostgreSQL to drill against: give DATABASE_URL in the environment, "
            "or --database-url"
        )
    server = Server.of(settings, url)
    register_secret(server.address.password)
    return server


def _settings(paths: "Paths") -> "Settings":
    from edgepaas.settings.resolve import resolve_box

    # Not run/env: a drill may be the first command on a box, or be given another URL.
    return resolve_box(paths).settings


def _refuse_beside_a_service(paths: "Paths") -> None:
    from edgepaas.drill.place import DrillImpossible
    from edgepaas.service.instance_locks import serving_process

    process = serving_process(paths)
    if process is not None:
        which = f" (process {process})" if process else ""
        raise DrillImpossible(
            f"this box serves{which}, and a drill would be felt by its clients: stop it first "
            "('systemctl stop edgepaas.socket edgepaas'), or say --beside-the-service"
        )


def _drill(
    server: "Server", folder: Path, plan: "Plan", tell: Callable[[str], None], *, keep: bool
) -> "Report":
    from edgepaas.drill.outage import Outage
    from edgepaas.drill.place import make_place
    from edgepaas.drill.relay import Relay, dialler
    from edgepaas.drill.scratch import ScratchBox
    from edgepaas.supervisor.stage_processes import PROGRAM

    for leftover in sorted(folder.glob("box-*")):
        tell(f"clearing away what a drill left in {leftover}")
        _clear(server, leftover, tell)
    home = Path(tempfile.mkdtemp(prefix="box-", dir=folder))
    address = server.address
    box = ScratchBox(home, program=PROGRAM, environ=os.environ)
    relay = Relay(dialler(address.host, address.port, address.unix_socket))
    try:
        place = make_place(server, home)
        tell(f"{place.in_words} on {address.masked()}, scratch box in {home}")
        return Outage(server, place, box=box, relay=relay, plan=plan, tell=tell).run()
    finally:
        # Whatever happens now, this is done: a second Ctrl-C would leave processes behind.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        box.stop()
        relay.close()
        if keep:
            tell(f"kept: {home}; the next drill in {folder} clears it away")
        else:
            _clear(server, home, tell)


def _clear(server: "Server", home: Path, tell: Callable[[str], None]) -> None:
    """Remove everything of the drill in *home*: processes, what is in PostgreSQL, the folder."""
    from edgepaas.drill.place import drop_place, noted_place
    from edgepaas.drill.scratch import end_leftover

    end_leftover(home)
    place, where = noted_place(home)
    if place is not None and where != server.address.masked():
        tell(f"{home} stays: {place.in_words} of it is on {where}; drill there once more")
        return
    if place is not None:
        drop_place(server, place)  # first: its name is known only as long as the folder is there
    _remove(home)


def _remove(home: Path) -> None:
    """Remove the folder; a box that Ctrl-C caught while it was being started may still write."""
    import shutil

    from edgepaas.drill.scratch import end_leftover

    for left in reversed(range(_TRIES)):
        try:
            shutil.rmtree(home)
            return
        except OSError:
            if not left:
                raise
            time.sleep(0.1)
            end_leftover(home)


def _show(report: "Report") -> None:
    from edgepaas.terminal import print_table, say

    figures = report.tally
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
        "wrong",
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
