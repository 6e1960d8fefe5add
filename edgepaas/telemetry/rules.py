"""``/api/v1/rules``: which readings, or which missing ones, are worth an alert."""

import uuid
from collections.abc import Mapping
from typing import Any

from sqlalchemy.orm import Session

from edgepaas.application import Box
from edgepaas.database.ids import content_id, uuid7
from edgepaas.database.types import utc_now
from edgepaas.telemetry import rows
from edgepaas.telemetry.bulk import insert_new, rows_by_id
from edgepaas.telemetry.models import Rule
from edgepaas.telemetry.pages import page
from edgepaas.telemetry.schemas import (
    IDEMPOTENCY_KEY,
    RuleChangeSchema,
    RuleFields,
    RulePage,
    RuleQuery,
    RuleSchema,
)
from edgepaas.web.api import ApiBlueprint, Problem, current_caller, idempotency_key, wrong

RULES = Rule.metadata.tables[Rule.__tablename__]


def rules_blueprint(box: Box) -> ApiBlueprint:
    """Return the rules' endpoints on *box*."""
    api = ApiBlueprint(
        "rules",
        __name__,
        url_prefix="/api/v1/rules",
        description="What is worth an alert. Rules are stored; this release evaluates none.",
    )
    database = box.database

    @api.route("", methods=["POST"])
    @api.arguments(RuleFields)
    @api.doc(parameters=[IDEMPOTENCY_KEY])
    @api.response(201, RuleSchema)
    @api.may_answer(409)
    def create_rule(given: dict[str, Any]) -> Any:
        """Store a rule; this release evaluates none

        Rules are kept for a later release: no reading is compared with them, and none of
        them raises an alert yet.
        """
        return _create(box, given)

    @api.route("")
    @api.arguments(RuleQuery, location="query")
    @api.response(200, RulePage)
    def list_rules(query: dict[str, Any]) -> dict[str, Any]:
        """List rules in the order in which they were made"""
        conditions = [
            RULES.c[name] == query[name]
            for name in ("device", "metric", "enabled")
            if query[name] is not None
        ]
        return page(box, RULES, "created_at", conditions, query)

    @api.route("/<uuid:rule_id>")
    @api.response(200, RuleSchema)
    @api.may_answer(404)
    def get_rule(rule_id: uuid.UUID) -> Any:
        """Return one rule"""
        return rows.get(database, RULES, rule_id)

    @api.route("/<uuid:rule_id>", methods=["PATCH"])
    @api.arguments(RuleChangeSchema(partial=True))
    @api.response(200, RuleSchema)
    @api.may_answer(404)
    def change_rule(changes: dict[str, Any], rule_id: uuid.UUID) -> Any:
        """Change what is given of a rule"""

        def changed(stored: Mapping[str, Any]) -> Mapping[str, Any]:
            _check({**stored, **changes})
            return changes

        return rows.change(database, RULES, rule_id, changed)

    @api.route("/<uuid:rule_id>", methods=["DELETE"])
    @api.response(204)
    @api.may_answer(404)
    def delete_rule(rule_id: uuid.UUID) -> None:
        """Delete a rule"""
        rows.delete_row(database, RULES, rule_id)

    return api


def _check(rule: Mapping[str, Any]) -> None:
    """Raise Problem 422 for a rule that could never hold, or always would."""
    if rule["condition"] == "absent":
        if rule["threshold"] is not None:
            raise wrong("threshold", "'absent' looks at no value: leave it out or give null.")
        if rule["for_seconds"] < 1:
            raise wrong("for_seconds", "'absent' needs the seconds after which it holds.")
    elif rule["threshold"] is None:
        raise wrong("threshold", f"'{rule['condition']}' needs a number to compare with.")


def _create(box: Box, given: Mapping[str, Any]) -> Mapping[str, Any]:
    _check(given)
    key, now = idempotency_key(), utc_now()
    identity = uuid7() if key is None else content_id(current_caller().id, key, RULES.name)
    row = {**given, "id": identity, "created_at": now, "updated_at": now}

    def work(session: Session) -> Mapping[str, Any]:
        if insert_new(session, RULES, [row]):
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
