# SPDX-License-Identifier: Apache-2.0
"""``/api/v1/rules``: which readings, or which missing ones, raise an alert."""

import operator
import uuid
from collections.abc import Mapping
from typing import Any

from sqlalchemy.orm import Session

from edgepaas.app import Box
from edgepaas.app.api import (
    IDEMPOTENCY_KEY,
    ApiBlueprint,
    Problem,
    current_caller,
    idempotency_key,
    wrong,
)
from edgepaas.app.facts import insert_new, rows_by_id
from edgepaas.app.models import content_id, utc_now, uuid7
from edgepaas.telemetry import rows
from edgepaas.telemetry.allowance import Allowance
from edgepaas.telemetry.changing.record import ChangeRecord
from edgepaas.telemetry.models import RULES
from edgepaas.telemetry.pages import PagedList
from edgepaas.telemetry.rules.follower import RuleFollower
from edgepaas.telemetry.schemas import (
    RuleChangeSchema,
    RuleFields,
    RulePage,
    RuleQuery,
    RuleSchema,
)

#: The list, as RulePage describes it.
_LIST = PagedList(
    RULES,
    "created_at",
    RuleSchema(),
    {name: (name, operator.eq) for name in ("device", "metric", "enabled")},
)

#: How the API's description names the parameter of a path.
_PATH = [{"in": "path", "name": "rule_id", "description": "The rule's id."}]


def rules_blueprint(box: Box, follower: RuleFollower, allowed: Allowance) -> ApiBlueprint:
    """Return the rules' endpoints on *box*; the *follower* is notified of every change.

    *allowed* says how many a caller may make.
    """
    api = ApiBlueprint(
        "rules",
        __name__,
        url_prefix="/api/v1/rules",
        description="When readings raise an alert: judged in the order in which they come in.",
    )
    _add_reading(api, box)
    _add_changing(api, box, follower, allowed)
    return api


def _add_reading(api: ApiBlueprint, box: Box) -> None:
    @api.route("")
    @api.answers_query(RuleQuery, RulePage)
    @api.may_answer(409)
    def list_rules(query: dict[str, Any]) -> str:
        """List rules in the order in which they were created"""
        return _LIST.answer(box, query)

    @api.route("/<uuid:rule_id>", parameters=_PATH)
    @api.response(200, RuleSchema)
    @api.may_answer(404)
    def get_rule(rule_id: uuid.UUID) -> Any:
        """Return one rule"""
        return rows.get(box.database, RULES, rule_id)


def _add_changing(api: ApiBlueprint, box: Box, follower: RuleFollower, allowed: Allowance) -> None:
    database = box.database

    def after_change(rule: Mapping[str, Any]) -> Mapping[str, Any]:
        follower.rules_changed()
        return rule

    @api.route("", methods=["POST"])
    @api.arguments(RuleFields)
    @api.doc(parameters=[IDEMPOTENCY_KEY])
    @api.response(201, RuleSchema)
    @api.may_answer(409)
    def create_rule(given: dict[str, Any]) -> Any:
        """Create a rule; it judges the readings that come in from now on

        `above` and `below` hold for values beyond `threshold`, `rate` where the value changes
        by more than `threshold` a second, up or down. The alert is raised by the first reading
        by which that held for `for_seconds`, and resolved by the first one for which it does
        not hold. `absent` is raised when none came for `for_seconds`; the next one resolves it.
        Readings are judged in the order in which this box takes them in, each once, and durations
        are measured by this box's own clock: `recorded_at` is for charts, and for the time between
        the two readings of a `rate`. What comes together holds from when it came. One alert for
        each rule and device.
        """
        return after_change(_create(box, given, allowed))

    @api.route("/<uuid:rule_id>", methods=["PATCH"], parameters=_PATH)
    @api.arguments(RuleChangeSchema(partial=True))
    @api.response(200, RuleSchema)
    @api.may_answer(404)
    def change_rule(changes: dict[str, Any], rule_id: uuid.UUID) -> Any:
        """Change the given fields of a rule

        If that changes what it demands, it starts afresh: its alerts are resolved.
        """

        def changed(stored: Mapping[str, Any]) -> Mapping[str, Any]:
            _check({**stored, **changes})
            return changes

        record = ChangeRecord.of_request(box)
        return after_change(rows.change(database, RULES, rule_id, changed, record))

    @api.route("/<uuid:rule_id>", methods=["DELETE"], parameters=_PATH)
    @api.response(204)
    @api.may_answer(404)
    def delete_rule(rule_id: uuid.UUID) -> None:
        """Delete a rule; its alerts are resolved"""
        rows.delete_row(database, RULES, rule_id, ChangeRecord.of_request(box))
        follower.rules_changed()


def _check(rule: Mapping[str, Any]) -> None:
    """Raise Problem 422 for a rule that could never hold, or always would."""
    if rule["condition"] == "absent":
        if rule["threshold"] is not None:
            raise wrong("threshold", "'absent' looks at no value: leave it out or give null.")
        if rule["for_seconds"] < 1:
            raise wrong("for_seconds", "'absent' needs the seconds after which it holds.")
    elif rule["threshold"] is None:
        raise wrong("threshold", f"'{rule['condition']}' needs a number to compare with.")
    elif rule["condition"] == "rate" and rule["threshold"] < 0:
        raise wrong("threshold", "'rate' goes up or down: give how fast, as a positive number.")


def _create(box: Box, given: Mapping[str, Any], allowed: Allowance) -> Mapping[str, Any]:
    _check(given)
    key, now = idempotency_key(), utc_now()
    identity = uuid7() if key is None else content_id(current_caller().id, key, RULES.name)
    allowed.take(current_caller().id, [str(identity)])
    row = {**given, "id": identity, "created_at": now, "updated_at": now}

    record = ChangeRecord.of_request(box)

    def work(session: Session) -> Mapping[str, Any]:
        if insert_new(session, RULES, [row]):
            record.created(session, RULES, row)
            return row
        return rows_by_id(session, RULES, [identity], list(RULES.c.keys()))[identity]

    stored: Mapping[str, Any] = box.database.write(work)
    if any(stored[name] != value for name, value in given.items()):
        said = "This key made another rule, or the rule was changed since then; use a new key."
        raise Problem(
            409,
            f"Idempotency-Key: {said[:1].lower()}{said[1:]}",
            details=[{"path": "Idempotency-Key", "message": said}],
        )
    return stored
