# SPDX-License-Identifier: Apache-2.0
"""How the API shows the delivery of rows to PostgreSQL."""

import marshmallow as ma


class ForwardingSchema(ma.Schema):
    """How the rows are on their way to PostgreSQL."""

    state = ma.fields.String(
        required=True,
        metadata={"enum": ["idle", "draining", "held", "blocked", "no-hub", "unknown"]},
    )
    hub = ma.fields.String(
        required=True, metadata={"enum": ["ok", "away", "misconfigured", "schema", "unknown"]}
    )
    rows_waiting = ma.fields.Integer(required=True)
    reason = ma.fields.String(required=True)
    waiting_since = ma.fields.String(required=True, allow_none=True)
    last_delivery = ma.fields.String(required=True, allow_none=True)
    dead_letters = ma.fields.Integer(required=True)
    conflicts = ma.fields.Integer(required=True)
    hub_lost = ma.fields.Integer(required=True)
    hand_back = ma.fields.String(
        required=True,
        metadata={"description": "When PostgreSQL serves again, or why not yet; often empty."},
    )
    running = ma.fields.Boolean(required=True)
