# SPDX-License-Identifier: Apache-2.0
"""Hubs that are not what they were: another one in its place, or one with a will of its own."""

from collections.abc import Iterator

import pytest
from sqlalchemy import ForeignKey
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from edgepaas.database.model import KindedModel, new_metadata
from edgepaas.database.types import Text
from edgepaas.outbox import capture
from edgepaas.outbox.space import retention
from edgepaas.sync.hub.connection import Hub
from edgepaas.sync.mirror.mirror import Mirror
from tests.support.forwarding import Hubs, TestBox, TestHub, box_at, document, make_hub, rows_of
from tests.support.postgres_server import PostgresServer


@pytest.fixture(autouse=True)
def alerts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    raised: list[str] = []
    monkeypatch.setattr(
        "edgepaas.alerts.catalogue_entry.raise_alert",
        lambda message, *, fingerprint, **_: raised.append(fingerprint),
    )
    return raised


@pytest.fixture
def another(hubs: Hubs) -> Iterator[TestHub]:
    found = hubs.take()
    yield found
    hubs.give_back(found)


def test_another_hub_gets_the_shared_rows_that_the_outbox_has_forgotten(
    box: TestBox, link: Hub, another: TestHub
) -> None:
    """Else the mirror would delete the last copy of what the new one never had."""
    box.place("a", note="x")
    box.place("b")
    box.samples(1)
    box.drain_all(link)
    box.write("DELETE FROM places WHERE name = 'b'")
    box.drain_all(link)
    retention.reclaim(box.file, older_than=0)
    with another.link() as new:
        assert [one.hub_lost for one in box.drain_all(new)] == [4]
        Mirror(document()).run(box.file, new)
    assert rows_of(box.file, "SELECT name, note FROM places") == [("a", "x")]
    assert another.ask("SELECT name, note FROM places") == [["a", "x"]]


class Model(KindedModel, DeclarativeBase):
    """Base of the table below."""

    metadata = new_metadata()


class Branch(Model, kind="shared"):
    """Grows on another one."""

    __tablename__ = "branches"

    id: Mapped[str] = mapped_column(Text(), primary_key=True)
    parent: Mapped[str | None] = mapped_column(ForeignKey("branches.id"))


def test_a_baseline_of_rows_that_point_to_each_other_lands_whole(
    postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """More of them than one statement holds, children first in the file."""
    hub = make_hub(postgres, Model.metadata)
    path = tmp_path_factory.mktemp("box") / "box.db"
    with box_at(path, Model.metadata) as box:
        capture.remove(box.file)
        box.file.execute("UPDATE outbox_state SET baseline = ''")
        rows = [(f"{n:05}", f"{n + 1:05}" if n % 5 else None) for n in range(1, 2501)]
        box.file.execute("PRAGMA foreign_keys=OFF")
        box.write("INSERT INTO branches VALUES (?, ?)", *rows)
        box.file.execute("PRAGMA foreign_keys=ON")
        capture.install(box.file, document(Model.metadata), node_id=box.node)
        with hub.link() as link:
            assert sum(one.dead for one in box.drain_all(link)) == 0
    assert hub.one("SELECT count(*) FROM branches") == 2500
    postgres.drop_database(hub.name)
