# SPDX-License-Identifier: Apache-2.0
"""The forwarding state is declared once: everything that shows it follows."""

from dataclasses import fields

import pytest

from edgepaas.apikit.forwarding import ForwardingSchema
from edgepaas.app import BoxState
from edgepaas.outbox.forwarding_state import DECLARATIONS, Forwarding, display_lines, words_of
from edgepaas.sync.status import RECORD, SyncStatus
from edgepaas.web.views import metrics, page

FULL = Forwarding(
    state="held",
    hub="away",
    rows_waiting=1234,
    reason="refused",
    waiting_since="2026-01-01T00:00:00.000Z",
    last_delivery="2026-01-01T00:00:01.000Z",
    dead_letters=2,
    conflicts=3,
    hub_lost=4,
    hand_back="in 9 s",
)


def test_every_field_has_a_meaning_and_a_unit() -> None:
    """Those of the dataclass, all of them, each a sentence."""
    assert [one.name for one in DECLARATIONS] == [one.name for one in fields(Forwarding)]
    for one in DECLARATIONS:
        assert one.meaning.endswith(".") and one.meaning[0].isupper()
        assert (one.unit == "word") == (one.words is not None)


def test_the_api_has_every_field_with_its_meaning() -> None:
    """Under the names that clients know."""
    schema = ForwardingSchema()
    assert schema.dump(FULL.as_dict()) == FULL.as_dict()
    assert list(schema.fields) == [
        "state", "hub", "rows_waiting", "reason", "waiting_since", "last_delivery",
        "dead_letters", "conflicts", "hub_lost", "hand_back", "server", "running",
    ]  # fmt: skip
    for one in DECLARATIONS:
        assert schema.fields[one.name].metadata["description"] == one.meaning
    assert schema.fields["hub"].metadata["enum"] == list(words_of("hub"))
    assert type(schema).__name__ == "ForwardingSchema"


def test_the_metrics_have_the_names_that_dashboards_know() -> None:
    """With the words of the hub as a label."""
    state = BoxState("fallback", "fallback", forwarding=FULL.as_dict())
    found = {family.name: family for family in metrics._about_forwarding(state)}
    assert set(found) == {
        "edgepaas_sync_running",
        "edgepaas_sync_hub",
        "edgepaas_sync_rows_waiting",
        "edgepaas_sync_dead_letters",
        "edgepaas_sync_conflicts",
        "edgepaas_sync_hub_lost",
        "edgepaas_sync_waiting_since_timestamp_seconds",
        "edgepaas_sync_last_delivery_timestamp_seconds",
    }
    hub = {sample.labels["hub"]: sample.value for sample in found["edgepaas_sync_hub"].samples}
    assert hub == {"ok": 0, "away": 1, "misconfigured": 0, "schema": 0, "error": 0, "unknown": 0}
    assert found["edgepaas_sync_running"].samples[0].value == 1
    assert found["edgepaas_sync_rows_waiting"].samples[0].value == 1234
    idle = BoxState("primary", "primary", forwarding=Forwarding("idle", "ok").as_dict())
    names = {family.name for family in metrics._about_forwarding(idle)}
    assert "edgepaas_sync_waiting_since_timestamp_seconds" not in names


def test_page_and_commands_show_the_same_to_a_person() -> None:
    """With the way out; what counts nothing is left out, the rows that wait are not."""
    lines = dict(display_lines(FULL.as_dict()))
    assert lines["waiting"] == "1,234 rows to be sent"
    assert lines["dead letters"] == "2; 'edgepaas sync dead-letters'"
    assert lines["lost there"] == "4; 'edgepaas sync acknowledge'"
    written = page._forwarding(FULL.as_dict())
    for label, text in lines.items():
        assert f"<th>{label}</th>" in written and text.replace("'", "&#x27;") in written
    assert dict(display_lines(Forwarding("idle", "ok").as_dict())) == {
        "PostgreSQL": "accepts rows",
        "waiting": "0 rows to be sent",
    }


@pytest.mark.parametrize("name", ["state", "hub"])
def test_the_drainer_says_no_word_that_is_not_declared(name: str) -> None:
    """And never the word for a drainer that is not there."""
    for word in words_of(name):
        values = {**SyncStatus().values(), name: word}
        if word == "unknown":
            with pytest.raises(ValueError, match=name):
                RECORD.document(values)
        else:
            assert RECORD.document(values)[name] == word
