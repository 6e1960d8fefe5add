# SPDX-License-Identifier: Apache-2.0
"""The service's side of handing back: it ends when told, and lifts a fence that is left."""

import threading
from pathlib import Path

from edgepaas.decision.rehearsal_record import note_rehearsal
from edgepaas.errors import EXIT_DECIDE_AGAIN
from edgepaas.files.paths import Paths
from edgepaas.outbox import fence
from edgepaas.service.shutdown import Control
from edgepaas.service.watches.handback import HandBackWatch
from tests.support.boxes import contract
from tests.support.outbox import captured_file
from tests.support.service_process import until

HUB = "postgresql://hub/db"


def ended(control: Control) -> bool:
    """Whether it was asked to end."""
    return control.ending is not None


def watching(paths: Paths, control: Control, **changes: str) -> HandBackWatch:
    """A watch that has begun."""
    watch = HandBackWatch(contract(paths, **changes), paths, control, 20.0)
    task = watch.task()
    if task is not None:
        control.at_end(task.request_stop)
        task.start()
    return watch


def test_it_ends_for_a_new_decision_when_its_own_is_handed_back(paths: Paths) -> None:
    control = Control(lambda: None)
    with captured_file(paths.sqlite):
        watching(paths, control, hub_url=HUB)
        paths.hand_back.write_text('{"generation": "another"}\n')
        assert not control.wait(0.4)
        paths.hand_back.write_text('{"generation": "1"}\n')
        until(lambda: ended(control), "the end")
    assert control.ending is not None
    assert control.ending.status == EXIT_DECIDE_AGAIN
    assert control.ending.patience <= 5


def test_a_fence_whose_drainer_is_gone_is_lifted_once_it_has_expired(paths: Paths) -> None:
    control = Control(lambda: None)
    with captured_file(paths.sqlite) as connection:
        fence.put(connection, 0.5)
        watching(paths, control, hub_url=HUB)
        until(lambda: fence.fenced(connection) is None, "the fence to be lifted")
        fence.put(connection, 600)
        assert not control.wait(1.5)
        assert fence.fenced(connection) is not None
        control.end(None)  # type: ignore[arg-type]


def test_where_there_is_no_hub_nobody_watches(paths: Paths, tmp_path: Path) -> None:
    before = threading.active_count()
    watching(paths, Control(lambda: None))
    watching(paths, Control(lambda: None), hub_url=HUB, database_url=HUB)
    assert threading.active_count() == before


def test_a_rehearsal_that_has_passed_is_announced_once(paths: Paths) -> None:
    """'edgepaas up' has the next service connect while the rest is sent."""
    announced: list[str] = []
    watch = HandBackWatch(
        contract(paths, hub_url=HUB),
        paths,
        Control(lambda: None),
        20.0,
        announce=lambda: announced.append("soon"),
    )
    with captured_file(paths.sqlite):
        watch.look()
        note_rehearsal(paths, "postgresql://another/db", [])
        watch.look()
        assert announced == []
        note_rehearsal(paths, HUB, ["alembic_version_telemetry 0002"])
        watch.look()
        watch.look()
        assert announced == ["soon"]
        note_rehearsal(paths, HUB, ["alembic_version_telemetry 0002"])
        watch.look()
        assert announced == ["soon", "soon"]
        paths.rehearsal.unlink()
        watch.look()
        assert announced == ["soon", "soon"]
