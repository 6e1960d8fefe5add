# SPDX-License-Identifier: Apache-2.0
"""Notes in, notes out."""

from collections.abc import Mapping, Sequence
from typing import Any

import marshmallow as ma
from sqlalchemy import select

from edgepaas.app import Box
from edgepaas.app import api as web
from edgepaas.app.append import Append, AppendRequest, AppendRoute
from edgepaas.app.models import utc_now
from tests.support.second_application.models import NOTES, Note


class NoteSchema(ma.Schema):
    id = ma.fields.UUID(dump_only=True)
    text = web.TextField(shortest=1, longest=100, required=True)


class NoteFields(ma.Schema):
    id = ma.fields.UUID()
    text = web.TextField(shortest=1, longest=100, required=True)


def post_notes(notes: Sequence[Mapping[str, Any]], request: AppendRequest) -> Append:
    """Write notes down, all of them or none"""
    now = utc_now()
    rows = [
        {
            "id": note.get("id") or request.identity(position),
            "text": note["text"],
            "written_at": now,
        }
        for position, note in enumerate(notes)
    ]
    return Append(NOTES, rows)


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

    AppendRoute("/many", NoteFields(), post_notes, noun="note").register(api, box.database)

    @api.route("")
    @api.response(200, NoteSchema(many=True))
    def list_notes() -> list[Note]:
        with box.database.read() as session:
            return list(session.scalars(select(Note).order_by(Note.id)))

    return api
