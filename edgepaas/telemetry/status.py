# SPDX-License-Identifier: Apache-2.0
"""``/api/v1/status``: the box's state and how much is stored, cheap enough to be polled."""

from typing import Any

from sqlalchemy import Table, func, select
from sqlalchemy.orm import Session

from edgepaas.app import Box
from edgepaas.app.api import ApiBlueprint
from edgepaas.telemetry.models import DEVICES, READINGS, RULES
from edgepaas.telemetry.schemas import BoxStatusSchema

#: Counting walks an index: a million rows are not walked for every poll.
_COUNTED = 100_000


def status_blueprint(box: Box) -> ApiBlueprint:
    """Return the status endpoint on *box*."""
    api = ApiBlueprint("status", __name__, url_prefix="/api/v1/status", description="The box.")

    @api.route("")
    @api.response(200, BoxStatusSchema)
    def get_status() -> dict[str, Any]:
        """Say how the box is and how much it holds"""
        with box.database.read() as session:
            readings = _count(session, READINGS)
            # Not max(): over an empty table that is a row, and order by uses the index.
            newest = session.execute(
                select(READINGS.c.recorded_at).order_by(READINGS.c.recorded_at.desc()).limit(1)
            ).scalar()
            counts = {
                "devices": _count(session, DEVICES),
                "rules": _count(session, RULES),
                "readings": min(readings, _COUNTED),
                "readings_exact": readings <= _COUNTED,
            }
        return {
            **box.state().as_dict(),
            "build": box.build_version,
            "counts": counts,
            "last_recorded_at": newest,
        }

    return api


def _count(session: Session, table: Table) -> int:
    some = select(table.c.id).limit(_COUNTED + 1).subquery()
    return session.execute(select(func.count()).select_from(some)).scalar_one()
