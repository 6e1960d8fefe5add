# SPDX-License-Identifier: Apache-2.0
"""An append route's jobs, as the loop runs them: whatever happens, there is an outcome."""

import marshmallow as ma

from edgepaas.app.append import Append, AppendRequest, AppendRoute
from edgepaas.database.append import Appended, AppendOutcome
from edgepaas.telemetry.models import READINGS


class Fields(ma.Schema):
    """An item."""

    id = ma.fields.UUID()


def refuse(_stored: Appended) -> None:
    raise ValueError("a fault of the application's")


def test_what_the_application_raises_once_the_facts_are_stored_is_the_outcome() -> None:
    """As where a view stores them; nobody else would answer the client."""
    route = AppendRoute(
        "",
        Fields(),
        lambda items, request: Append(
            READINGS, [{"id": request.identity(at)} for at, _ in enumerate(items)], stored=refuse
        ),
    )
    outcomes: list[AppendOutcome] = []
    job = route.job({}, AppendRequest("token"), outcomes.append)
    job.done(job.appended(1))
    assert [repr(outcome) for outcome in outcomes] == [
        repr(ValueError("a fault of the application's"))
    ]
    job.done(outcomes[0])
    assert outcomes == [outcomes[0]] * 2, "what was not stored is not told to the application"
