# SPDX-License-Identifier: Apache-2.0
"""``/api/v1/changes``: who changed a device or a rule, on which box, and what it was before."""

import operator
from typing import Any

from edgepaas.app import Box
from edgepaas.app.api import ApiBlueprint
from edgepaas.telemetry.changing.schemas import ChangePage, ChangeQuery, ChangeSchema
from edgepaas.telemetry.models import CHANGES
from edgepaas.telemetry.pages import PagedList

#: The list, as ChangePage describes it.
_LIST = PagedList(
    CHANGES,
    "changed_at",
    ChangeSchema(),
    {name: (name, operator.eq) for name in ("kind", "row_id", "changed_by")},
)


def changes_blueprint(box: Box) -> ApiBlueprint:
    """Return the endpoint on *box*."""
    api = ApiBlueprint(
        "changes",
        __name__,
        url_prefix="/api/v1/changes",
        description="Who changed devices and rules, and on which box.",
    )

    @api.route("")
    @api.answers_query(ChangeQuery, ChangePage)
    @api.may_answer(409)
    def list_changes(query: dict[str, Any]) -> str:
        """List changes of devices and rules in the order in which they were made

        A device that its first reading registered is not among them: the reading says who.
        """
        return _LIST.answer(box, query)

    return api
