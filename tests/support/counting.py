# SPDX-License-Identifier: Apache-2.0
"""An application that counts: EDGEPAAS_APP=tests.support.counting:application edgepaas up"""

import uuid

from flask import Blueprint, Response, jsonify
from sqlalchemy import Integer, Table, update
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from edgepaas.app import Application, Box
from edgepaas.app.facts import insert_new
from edgepaas.app.models import KindedModel, Text, Uuid, name_id, new_metadata


class Model(KindedModel, DeclarativeBase):
    """Base of the table below."""

    metadata = new_metadata()


class Counter(Model, kind="shared"):
    """How often something was done, on all boxes and both databases together."""

    __tablename__ = "counters"

    id: Mapped[uuid.UUID] = mapped_column(Uuid, primary_key=True)
    name: Mapped[str] = mapped_column(Text(20), unique=True)
    hits: Mapped[int] = mapped_column(Integer, info={"merge": "add"})


COUNTERS: Table = Model.metadata.tables["counters"]


def _blueprints(box: Box) -> list[Blueprint]:
    blueprint = Blueprint("counters", __name__)

    @blueprint.post("/counters/<name>")
    def hit(name: str) -> tuple[Response, int]:
        identity = name_id("counters", name)

        def count(session: Session) -> None:
            insert_new(session, COUNTERS, [{"id": identity, "name": name, "hits": 0}])
            session.execute(
                update(Counter).where(Counter.id == identity).values(hits=Counter.hits + 1)
            )

        box.database.write(count)
        return jsonify({}), 201

    return [blueprint]


application = Application(name="counting", models=Model.metadata, blueprints=_blueprints)
