# SPDX-License-Identifier: Apache-2.0
"""Notes, a whole application: EDGEPAAS_APP=notes:application edgepaas up"""

import marshmallow as ma
from flask import Blueprint
from sqlalchemy import select
from sqlalchemy.orm import mapped_column

from edgepaas.app import Application, Box, SmokeRequest, api
from edgepaas.app.models import Text, Uuid, new_model_base, uuid7

Model = new_model_base()


class Note(Model, kind="facts"):  # only ever added; the other kinds are "shared" and "local"
    __tablename__ = "notes"
    id = mapped_column(Uuid, primary_key=True, default=uuid7)
    text = mapped_column(Text(200), nullable=False)


class NoteSchema(ma.Schema):
    id = ma.fields.UUID(dump_only=True)
    text = api.TextField(shortest=1, longest=200, required=True)


def blueprints(box: Box) -> list[Blueprint]:
    notes = api.ApiBlueprint("notes", __name__, url_prefix="/notes", description="Notes.")

    @notes.route("")
    @notes.response(200, NoteSchema(many=True))
    def list_notes():
        """List the notes, the oldest first"""
        with box.database.read() as session:
            return session.scalars(select(Note).order_by(Note.id)).all()

    @notes.route("", methods=["POST"])
    @notes.arguments(NoteSchema)
    @notes.response(201, NoteSchema)
    def write_note(given):
        """Write a note down; answered once it is durable"""
        note = Note(**given)
        box.database.write(lambda session: session.add(note))
        return note

    return [notes]


application = Application(
    name="notes",
    models=Model.metadata,
    blueprints=blueprints,
    smoke=(SmokeRequest("GET", "/notes"),),
)
