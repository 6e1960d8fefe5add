# SPDX-License-Identifier: Apache-2.0
"""A process that writes with the ORM's way, and is killed on its way to the client's answer.

python -m tests.support.captured_process URL STEP ID
"""

import os
import signal
import sys
import uuid
from collections.abc import Callable
from typing import Any

from sqlalchemy import insert
from sqlalchemy.orm import Session

from edgepaas.files.paths import find_paths
from edgepaas.marks.journaling import JournalingRider
from edgepaas.outbox.hub_capture.keeping import JournaledChanges
from edgepaas.outbox.journal.journal import Journal
from edgepaas.pgdriver.flights.exchange import Exchange
from edgepaas.service.hub_capture import capture_on_hub
from edgepaas.telemetry.models import DEVICES
from tests.support.journaled_box import device, journaled_box, sends_a_half

#: What the process is killed before (-) or after (+); whether the hub then has the row, and
#: whether the journal has it.
STEPS = {
    "-first": (False, False),  # nothing was sent
    "+first": (False, False),  # BEGIN and the statement were sent, their answer not read
    "-commit": (False, False),  # nothing of COMMIT's flight was sent
    "half-sent": (False, False),  # a part of COMMIT's flight was sent
    "+commit": (True, False),  # it was sent, its answer not read
    "-mark": (True, False),  # the answer was read
    "-record": (True, False),  # the mark is known to have moved
    "-sync": (True, True),  # what was captured is in the journal, and not synced
    "+record": (True, True),  # the client has not heard of it
}


def add_device(identity: str) -> Callable[[Session], object]:
    """Return work that stores one device under *identity*."""
    row = {**device(f"machine {identity}"), "id": uuid.UUID(identity)}
    return lambda session: session.execute(insert(DEVICES).values(row))


def _killing(original: Callable[..., Any], *, after: bool) -> Callable[..., Any]:
    def killed(*arguments: Any, **options: Any) -> Any:
        if after:
            original(*arguments, **options)
        os.kill(os.getpid(), signal.SIGKILL)

    return killed


def arm(step: str) -> None:
    """Have this process killed at *step* of the next commit."""
    changes: Any = JournaledChanges
    exchange: Any = Exchange
    if step == "-first":
        exchange.send = _killing(exchange.send, after=False)
    elif step == "+first":
        exchange.receive = _killing(exchange.receive, after=False)
    elif step == "half-sent":

        def armed_to_halve(original: Callable[..., Any]) -> Callable[..., Any]:
            def next_order(self: Any) -> Any:
                exchange.send = sends_a_half(exchange.send)
                return original(self)

            return next_order

        changes.next_order = armed_to_halve(changes.next_order)
    elif step == "-mark":
        rider: Any = JournalingRider
        rider.committed = _killing(rider.committed, after=False)
    elif step == "-sync":
        journal: Any = Journal
        journal.sync = _killing(journal.sync, after=False)
    elif step == "-commit":
        changes.next_order = _killing(changes.next_order, after=False)
    elif step == "+commit":

        def armed(original: Callable[..., Any]) -> Callable[..., Any]:
            def next_order(self: Any) -> Any:
                exchange.receive = _killing(exchange.receive, after=False)
                return original(self)

            return next_order

        changes.next_order = armed(changes.next_order)
    elif step == "-record":
        changes.keep = _killing(changes.keep, after=False)
    elif step == "+record":
        changes.keep = _killing(changes.keep, after=True)
    else:
        raise ValueError(f"no such step: {step}")


def main() -> None:
    """Write a row, then another one on the way of which the process is killed."""
    url, step, identity = sys.argv[1:]
    paths = find_paths()
    with journaled_box(paths, url) as box:
        capture_on_hub(box.keeper, paths, may_mend=True)
        box.database.write(add_device(str(uuid.uuid4())))
        arm(step)
        box.database.write(add_device(identity))
    raise AssertionError(f"{step} was never met")


if __name__ == "__main__":
    main()
