# SPDX-License-Identifier: Apache-2.0
"""Notes in, notes out."""

from typing import Any

import marshmallow as ma
from sqlalchemy import select

from edgepaas.app import Box
from edgepaas.app import api as web
from tests.support.second_application.models import Note


class NoteSchema(ma.Schema):
    id = ma.fields.UUID(dump_only=True)
    text = web.TextField(shortest=1, longest=100, required=True)


def notes_blueprint(box: Box) -> web.ApiBlueprint:
    api = web.ApiBlueprint("notes", __name__, url_prefix="/notes", description="Lines.")

    @api.route("", methods=["POST"])
    @api.arguments(NoteSchema)
    @api.response(201, NoteSchema)
    def write_note(given: dict[str, Any]) -> Note:
        def work(session: Any) -> Note:
            note = Note(text=given["text"])
            session.add(note)
            return note

        return box.database.write(work)

    @api.route("")
    @api.response(200, NoteSchema(many=True))
    def list_notes() -> list[Note]:
        with box.database.read() as session:
            return list(session.scalars(select(Note).order_by(Note.id)))

    return api
