# SPDX-License-Identifier: Apache-2.0
"""The telemetry application behaves alike on SQLite and on PostgreSQL."""

import json
import threading
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from edgepaas.app import Box
from edgepaas.database.ids import name_id
from edgepaas.files.paths import Paths, find_paths
from edgepaas.telemetry import application
from tests.support.answers import json_of
from tests.support.postgres_server import PostgresServer
from tests.support.telemetry_box import open_box

READINGS = "/api/v1/readings"
DEVICES = "/api/v1/devices"
RULES = "/api/v1/rules"
NOON = "2024-05-01T12:00:00Z"
RULE = {"name": "hot", "metric": "temperature", "condition": "above", "threshold": 90}


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def served(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Flask, Box]]:
    """One box for all tests of this file, since each uses names of its own."""
    paths = find_paths({"EDGEPAAS_HOME": str(tmp_path_factory.mktemp("box"))})
    paths.create()
    if request.param == "sqlite":
        with open_box(paths) as box:
            yield box
        return
    server: PostgresServer = request.getfixturevalue("postgres")
    name = server.create_database()
    with open_box(paths, server.url(name)) as box:
        yield box
    server.drop_database(name)


@pytest.fixture
def client(served: tuple[Flask, Box]) -> FlaskClient:
    return served[0].test_client()


@pytest.fixture
def device() -> str:
    """The name of a device that no other test knows."""
    return f"device {uuid.uuid4()}"


def reading(device: str, value: float = 1.5, **more: Any) -> dict[str, Any]:
    return {"device": device, "metric": "temperature", "value": value, **more}


def stored(client: FlaskClient, device: str, **query: Any) -> list[dict[str, Any]]:
    answer = client.get(READINGS, query_string={"device": device, **query})
    assert answer.status_code == 200, answer.text
    return list(json_of(answer)["items"])


def counts(answer: Any) -> tuple[int, int, int]:
    assert answer.status_code == 201, answer.text
    return answer.status_code, json_of(answer)["accepted"], json_of(answer)["duplicates"]


# ---------------------------------------------------------------- readings in


def test_a_reading_comes_back_as_it_was_posted(client: FlaskClient, device: str) -> None:
    identity = str(uuid.uuid4())
    posted = reading(device, 0.1 + 0.2, unit="°C", recorded_at=NOON, id=identity)
    assert counts(client.post(READINGS, json=posted)) == (201, 1, 0)
    (found,) = stored(client, device)
    assert {name: found[name] for name in posted} == posted
    assert found["device_id"] == str(name_id("devices", device))
    assert json_of(client.get(f"{READINGS}/{identity}")) == found


def test_a_reading_without_a_moment_is_of_now_and_without_a_unit_has_none(
    client: FlaskClient, device: str
) -> None:
    client.post(READINGS, json=reading(device))
    (found,) = stored(client, device)
    assert found["recorded_at"] == found["received_at"]
    assert found["unit"] is None
    assert uuid.UUID(found["id"]).version == 7


@pytest.mark.parametrize(
    "value", [0, -1, 5e-324, 1.7976931348623157e308, 0.1, -2.2250738585072014e-308, 2**53 + 1]
)
def test_values_are_stored_to_the_last_bit(client: FlaskClient, device: str, value: float) -> None:
    client.post(READINGS, json=reading(device, value))
    assert stored(client, device)[0]["value"] == float(value)


@pytest.mark.parametrize(
    "moment",
    [
        ("1970-01-01T00:00:00Z", "1970-01-01T00:00:00Z"),
        ("9999-12-31T23:59:59.999999Z", "9999-12-31T23:59:59.999999Z"),
        ("2024-05-01T14:00:00+02:00", NOON),
        ("2024-05-01 12:00:00", NOON),
    ],
)
def test_moments_are_stored_in_utc(
    client: FlaskClient, device: str, moment: tuple[str, str]
) -> None:
    client.post(READINGS, json=reading(device, recorded_at=moment[0]))
    assert stored(client, device)[0]["recorded_at"] == moment[1]


@pytest.mark.parametrize("form", ["list", "object", "ndjson"])
def test_many_readings_come_as_a_list_an_object_or_lines(
    client: FlaskClient, device: str, form: str
) -> None:
    many = [reading(device, value, recorded_at=NOON) for value in range(25)]
    if form == "ndjson":
        lines = "\n".join(json.dumps(one) for one in many) + "\n\n"
        answer = client.post(READINGS, data=lines, content_type="application/x-ndjson")
    else:
        answer = client.post(READINGS, json=many if form == "list" else {"readings": many})
    assert counts(answer) == (201, 25, 0)
    assert sorted(found["value"] for found in stored(client, device)) == list(range(25))


def test_an_empty_list_is_nothing_to_do(client: FlaskClient) -> None:
    assert counts(client.post(READINGS, json=[])) == (201, 0, 0)


def test_ten_thousand_readings_are_one_request_and_one_more_is_too_many(
    client: FlaskClient, device: str
) -> None:
    many = [reading(device, value, recorded_at=NOON) for value in range(10_000)]
    assert counts(client.post(READINGS, json=many)) == (201, 10_000, 0)
    many.append(reading(device))
    for body in (many, {"readings": many}):
        refused = client.post(READINGS, json=body)
        assert (refused.status_code, json_of(refused)["error"]) == (413, "too_large")
    lines = "\n".join(json.dumps(one) for one in many)
    answer = client.post(READINGS, data=lines, content_type="application/x-ndjson")
    assert answer.status_code == 413


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"value": None}, "value"),
        ({"value": "1.5"}, "value"),
        ({"value": True}, "value"),
        ({"device": ""}, "device"),
        ({"device": " a"}, "device"),
        ({"device": "a\0b"}, "device"),
        ({"device": "x" * 201}, "device"),
        ({"metric": 5}, "metric"),
        ({"unit": "x" * 51}, "unit"),
        ({"recorded_at": "yesterday"}, "recorded_at"),
        ({"recorded_at": "1969-12-31T23:59:59Z"}, "recorded_at"),
        ({"recorded_at": "9999-12-31T23:59:59-14:00"}, "recorded_at"),
        ({"id": "7"}, "id"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_a_wrong_field_is_named_by_its_path_and_nothing_is_stored(
    client: FlaskClient, device: str, change: dict[str, Any], path: str
) -> None:
    many = [reading(device), reading(device), {**reading(device), **change}]
    for body, prefix in (({"readings": many}, "readings[2]."), (many, "[2]."), (many[2], "")):
        answer = client.post(READINGS, json=body)
        assert answer.status_code == 422
        assert [detail["path"] for detail in json_of(answer)["details"]] == [prefix + path]
    assert stored(client, device) == []


@pytest.mark.parametrize("body", ["", "{", "[1,", "NaN", '{"value": Infinity}', "\ufeff["])
def test_what_is_no_json_is_refused(client: FlaskClient, body: str) -> None:
    answer = client.post(READINGS, data=body.encode(), content_type="application/json")
    assert (answer.status_code, json_of(answer)["error"]) == (400, "invalid_json")


@pytest.mark.parametrize("body", ["null", "1", '"text"', "[1]", '{"readings": 5}', "{}", "[[]]"])
def test_json_that_is_no_reading_is_refused(client: FlaskClient, body: str) -> None:
    answer = client.post(READINGS, data=body, content_type="application/json")
    assert answer.status_code == 422


def test_another_media_type_is_refused_with_those_that_are_taken(client: FlaskClient) -> None:
    answer = client.post(READINGS, data="a=b", content_type="text/csv")
    assert answer.status_code == 415
    assert "application/json or application/x-ndjson, not text/csv" in json_of(answer)["message"]


# ------------------------------------------------------------------- repeats


def test_the_same_id_with_the_same_content_is_a_duplicate(client: FlaskClient, device: str) -> None:
    posted = reading(device, id=str(uuid.uuid4()), recorded_at=NOON)
    assert counts(client.post(READINGS, json=[posted, posted])) == (201, 1, 1)
    new = reading(device, 2)
    assert counts(client.post(READINGS, json=[new, posted])) == (201, 1, 1)
    assert len(stored(client, device)) == 2


def test_a_repeat_without_a_moment_is_a_duplicate_though_time_went_on(
    client: FlaskClient, device: str
) -> None:
    posted = reading(device, id=str(uuid.uuid4()))
    assert counts(client.post(READINGS, json=posted)) == (201, 1, 0)
    assert counts(client.post(READINGS, json=posted)) == (201, 0, 1)


@pytest.mark.parametrize(
    "change", [{"value": 2.5}, {"unit": "K"}, {"metric": "m"}, {"recorded_at": NOON}]
)
def test_the_same_id_with_other_content_is_a_conflict_and_stores_nothing(
    client: FlaskClient, device: str, change: dict[str, Any]
) -> None:
    first = reading(device, id=str(uuid.uuid4()), recorded_at="2024-05-01T00:00:00Z")
    client.post(READINGS, json=first)
    answer = client.post(READINGS, json=[reading(device, 7), {**first, **change}])
    assert (answer.status_code, json_of(answer)["error"]) == (409, "conflict")
    assert [detail["path"] for detail in json_of(answer)["details"]] == ["[1].id"]
    assert [found["value"] for found in stored(client, device)] == [1.5]


def test_one_id_twice_in_a_request_with_other_content_is_a_conflict(
    client: FlaskClient, device: str
) -> None:
    first = reading(device, id=str(uuid.uuid4()))
    answer = client.post(READINGS, json={"readings": [first, {**first, "value": 3}]})
    assert answer.status_code == 409
    assert json_of(answer)["details"][0]["path"] == "readings[1].id"
    assert stored(client, device) == []


def test_an_idempotency_key_makes_a_repeat_harmless(client: FlaskClient, device: str) -> None:
    headers = {"Idempotency-Key": str(uuid.uuid4())}
    batch = [reading(device, value) for value in (1, 1, 2)]
    assert counts(client.post(READINGS, json=batch, headers=headers)) == (201, 3, 0)
    assert counts(client.post(READINGS, json=batch, headers=headers)) == (201, 0, 3)
    other = {"Idempotency-Key": str(uuid.uuid4())}
    assert counts(client.post(READINGS, json=batch, headers=other)) == (201, 3, 0)
    batch[1]["value"] = 5
    answer = client.post(READINGS, json=batch, headers=headers)
    assert answer.status_code == 409
    assert json_of(answer)["message"].startswith(
        "Idempotency-Key: this key came with another reading"
    )
    assert json_of(answer)["details"][0]["path"] == "Idempotency-Key"
    assert "[1]" in json_of(answer)["details"][0]["message"]


@pytest.mark.parametrize("key", ["", "with blank", "x" * 201, "ü"])
def test_a_malformed_idempotency_key_is_refused(client: FlaskClient, key: str) -> None:
    answer = client.post(READINGS, json=[], headers={"Idempotency-Key": key})
    assert answer.status_code == 422
    assert json_of(answer)["details"][0]["path"] == "Idempotency-Key"


def test_requests_that_race_with_the_same_readings_store_them_once(
    served: tuple[Flask, Box], device: str
) -> None:
    """Four at once, in opposite order, all of them registering the same new devices."""
    many = [
        reading(f"{device} {number % 7}", number, id=str(uuid.uuid4()), recorded_at=NOON)
        for number in range(200)
    ]
    answers: list[Any] = []

    def post(batch: list[dict[str, Any]]) -> None:
        answers.append(served[0].test_client().post(READINGS, json=batch))

    threads = [
        threading.Thread(target=post, args=(many if number % 2 else many[::-1],))
        for number in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [answer.status_code for answer in answers] == [201] * 4
    assert sum(json_of(answer)["accepted"] for answer in answers) == 200
    assert sum(json_of(answer)["duplicates"] for answer in answers) == 600


# --------------------------------------------------------------- readings out


def test_pages_follow_each_other_without_gaps_or_repeats(client: FlaskClient, device: str) -> None:
    """Seven share each moment, so that only the id tells where a page ended."""
    many = [
        reading(device, number, recorded_at=f"2024-05-01T12:00:{number // 7:02d}Z")
        for number in range(100)
    ]
    client.post(READINGS, json=many)
    found: list[dict[str, Any]] = []
    query: dict[str, Any] = {"device": device, "limit": 9}
    while True:
        page = json_of(client.get(READINGS, query_string=query))
        found += page["items"]
        if page["next_cursor"] is None:
            break
        assert len(page["items"]) == 9
        query["cursor"] = page["next_cursor"]
    assert sorted(one["value"] for one in found) == list(range(100))
    order = [(one["recorded_at"], one["id"]) for one in found]
    assert order == sorted(order)


def test_a_listed_reading_is_what_the_schema_makes_of_it(client: FlaskClient, device: str) -> None:
    """Lists are written by hand, for speed; single readings by the schema."""
    many = [reading(device, 0.1, unit="K", recorded_at=NOON), reading(device, 3)]
    client.post(READINGS, json=many)
    listed = stored(client, device)
    assert len(listed) == 2
    for one in listed:
        assert one == json_of(client.get(f"{READINGS}/{one['id']}"))


def test_a_last_page_that_is_just_full_has_no_next(client: FlaskClient, device: str) -> None:
    client.post(READINGS, json=[reading(device), reading(device)])
    page = json_of(client.get(READINGS, query_string={"device": device, "limit": 2}))
    assert (len(page["items"]), page["next_cursor"]) == (2, None)


def test_filters_narrow_a_list_down(client: FlaskClient, device: str) -> None:
    hours = range(10, 15)
    client.post(
        READINGS,
        json=[reading(device, hour, recorded_at=f"2024-05-01T{hour}:00:00Z") for hour in hours]
        + [{**reading(device, 99, recorded_at=NOON), "metric": "humidity"}],
    )
    assert [one["value"] for one in stored(client, device, metric="humidity")] == [99]
    between = {"from": "2024-05-01T11:00:00Z", "to": "2024-05-01T13:00:00Z"}
    found = stored(client, device, metric="temperature", **between)
    assert [one["value"] for one in found] == [11, 12], "from is in, to is not"
    assert stored(client, device, metric="nothing") == []


@pytest.mark.parametrize(
    ("query", "path"),
    [
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
        ("limit=ten", "limit"),
        ("cursor=nonsense", "cursor"),
        ("from=yesterday", "from"),
        ("from=2024-05-01T14:00:00%2B99:00", "from"),
        ("colour=red", "colour"),
        ("limit=1&limit=2", "limit"),
    ],
)
def test_a_wrong_filter_is_named(client: FlaskClient, query: str, path: str) -> None:
    for where in (READINGS, DEVICES, RULES) if path in ("limit", "cursor") else (READINGS,):
        answer = client.get(f"{where}?{query}")
        assert answer.status_code == 422
        assert json_of(answer)["details"][0]["path"] == path


@pytest.mark.parametrize(
    "since",
    [
        "2024-05-01",
        "2024-05-01T02:00:00+02:00",
        "2024-05-01T02:00+02:00",
        "2024-05-01T02:00:00.0%2B02:00",
        "2024-05-01 00:00",
    ],
)
def test_a_filters_moment_may_be_a_date_and_have_a_plus_that_is_not_escaped(
    client: FlaskClient, device: str, since: str
) -> None:
    """In an address + is a blank; nobody means a blank before a zone."""
    for moment in ("2024-04-30T23:59:59Z", "2024-05-01T00:00:00Z"):
        client.post(READINGS, json=reading(device, recorded_at=moment))
    answer = client.get(f"{READINGS}?device={device}&from={since}")
    assert answer.status_code == 200, answer.text
    assert [one["recorded_at"] for one in json_of(answer)["items"]] == ["2024-05-01T00:00:00Z"]


def test_a_filters_wrong_moment_is_shown_as_it_arrived(client: FlaskClient) -> None:
    message = json_of(client.get(f"{READINGS}?from=2024-05-01T14:00:00++02:00"))["message"]
    assert message.startswith("from: '2024-05-01T14:00:00  02:00': not a date and time like ")
    assert "+ is written %2B" in message


def test_what_is_no_uuid_is_said_to_be_none(client: FlaskClient) -> None:
    for where in (READINGS, DEVICES, RULES):
        message = json_of(client.get(f"{where}/seven"))["message"]
        assert message == "There is nothing here: 'seven' is no UUID."
    assert "UUID" not in json_of(client.get("/nothing/seven"))["message"]


def test_a_message_names_the_wrong_field(client: FlaskClient) -> None:
    assert (
        json_of(client.get(f"{READINGS}?cursor=x"))["message"]
        == "cursor: Not a cursor of this API."
    )
    refused = client.post(RULES, json={**RULE, "threshold": None})
    assert json_of(refused)["message"].startswith("threshold: ")


def test_what_is_not_there_is_404(client: FlaskClient) -> None:
    for where in (READINGS, DEVICES, RULES):
        assert client.get(f"{where}/{uuid.uuid4()}").status_code == 404
        assert client.get(f"{where}/seven").status_code == 404


# -------------------------------------------------------------- devices, rules


def test_a_device_registers_itself_once(client: FlaskClient, device: str) -> None:
    client.post(READINGS, json=[reading(device), reading(device, 2)])
    client.post(READINGS, json=reading(device, 3))
    (found,) = json_of(client.get(DEVICES, query_string={"name": device}))["items"]
    assert found["id"] == str(name_id("devices", device))
    assert (found["description"], found["labels"]) == (None, {})


def test_a_device_is_made_read_changed_and_deleted(client: FlaskClient, device: str) -> None:
    made = client.post(DEVICES, json={"name": device, "labels": {"room": "boiler"}})
    assert made.status_code == 201
    where = f"{DEVICES}/{json_of(made)['id']}"
    assert json_of(client.get(where)) == json_of(made)
    changed = json_of(client.patch(where, json={"description": "on the roof"}))
    assert changed["labels"] == {"room": "boiler"}
    assert changed["description"] == "on the roof"
    assert changed["updated_at"] > json_of(made)["updated_at"]
    assert json_of(client.get(where)) == changed
    assert json_of(client.patch(where, json={})) == changed
    refused = client.patch(where, json={"name": "other"})
    assert refused.status_code == 422
    assert json_of(refused)["message"].startswith("name: Cannot be changed")
    client.post(READINGS, json=reading(device))
    assert client.delete(where).status_code == 204
    for answer in (client.get(where), client.patch(where, json={}), client.delete(where)):
        assert answer.status_code == 404
    assert len(stored(client, device)) == 1, "a device's readings outlive it"
    client.post(READINGS, json=reading(device))
    assert json_of(client.get(where))["description"] is None


def test_a_device_that_is_there_already_is_a_conflict_with_the_way_out(
    client: FlaskClient, device: str
) -> None:
    client.post(READINGS, json=reading(device))
    answer = client.post(DEVICES, json={"name": device, "description": "new"})
    assert answer.status_code == 409
    assert f"PATCH {DEVICES}/{name_id('devices', device)}" in json_of(answer)["message"]


def test_a_rule_is_made_read_changed_listed_and_deleted(client: FlaskClient, device: str) -> None:
    made = client.post(RULES, json={**RULE, "device": device})
    assert made.status_code == 201
    assert (json_of(made)["severity"], json_of(made)["enabled"]) == ("warning", True)
    where = f"{RULES}/{json_of(made)['id']}"
    assert json_of(client.get(where)) == json_of(made)
    changed = json_of(client.patch(where, json={"enabled": False, "threshold": 80.5}))
    assert (changed["enabled"], changed["threshold"]) == (False, 80.5)
    listed = json_of(client.get(RULES, query_string={"device": device, "enabled": "false"}))
    assert listed["items"] == [changed]
    on = json_of(client.get(RULES, query_string={"device": device, "enabled": "true"}))
    assert on["items"] == []
    assert client.delete(where).status_code == 204
    assert client.get(where).status_code == 404


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"threshold": None}, "threshold"),
        ({"condition": "rate", "threshold": None}, "threshold"),
        ({"condition": "absent"}, "threshold"),
        ({"condition": "absent", "threshold": None}, "for_seconds"),
        ({"condition": "sideways"}, "condition"),
        ({"severity": "bad"}, "severity"),
        ({"for_seconds": -1}, "for_seconds"),
        ({"for_seconds": 2**31}, "for_seconds"),
        ({"enabled": "yes"}, "enabled"),
        ({"name": ""}, "name"),
    ],
)
def test_a_rule_that_makes_no_sense_is_refused(
    client: FlaskClient, device: str, change: dict[str, Any], path: str
) -> None:
    refused = client.post(RULES, json={**RULE, "device": device, **change})
    assert refused.status_code == 422
    assert [detail["path"] for detail in json_of(refused)["details"]] == [path]
    made = json_of(client.post(RULES, json={**RULE, "device": device}))
    where = f"{RULES}/{made['id']}"
    assert client.patch(where, json=change).status_code == 422
    assert json_of(client.get(where)) == made, "a change that is refused changes nothing"


def test_a_rule_is_made_once_for_one_idempotency_key(client: FlaskClient, device: str) -> None:
    headers = {"Idempotency-Key": str(uuid.uuid4())}
    rule = {**RULE, "device": device}
    first = client.post(RULES, json=rule, headers=headers)
    again = client.post(RULES, json=rule, headers=headers)
    assert (again.status_code, json_of(again)) == (201, json_of(first))
    other = client.post(RULES, json={**rule, "threshold": 1}, headers=headers)
    assert other.status_code == 409
    assert json_of(other)["message"].startswith("Idempotency-Key: ")


# --------------------------------------------------------------------- status


def test_the_status_says_how_the_box_is_and_what_it_holds(
    served: tuple[Flask, Box], client: FlaskClient, device: str
) -> None:
    client.post(READINGS, json=reading(device, recorded_at="9999-12-31T23:59:59.999999Z"))
    status = json_of(client.get("/api/v1/status"))
    assert status["state"] == served[1].contract.db_state
    assert status["reasons"] == ["decided by a test"]
    assert status["counts"]["readings"] >= 1
    assert status["counts"]["readings_exact"] is True
    assert status["last_recorded_at"] == "9999-12-31T23:59:59.999999Z"


def test_the_smoke_requests_are_answered(client: FlaskClient) -> None:
    for request in application.smoke:
        assert client.open(request.path, method=request.method).status_code == request.expect


@pytest.mark.parametrize(
    ("state", "partial"),
    [("standalone", None), ("local-first", None), ("fallback", True), ("draining", True)],
)
def test_lists_say_so_while_rows_may_be_missing(
    paths: Paths, state: str, partial: bool | None
) -> None:
    with open_box(paths, state=state) as (app, _box):
        for where in (READINGS, DEVICES, RULES):
            answer = json_of(app.test_client().get(where))
            assert answer.get("partial") is partial
            assert answer["items"] == []


def test_a_list_that_was_whole_never_ends_early(paths: Paths, postgres_url: str) -> None:
    """In an outage it goes on with what the box has, and where that ends an error says so."""
    many = [reading("d", number, id=str(uuid.uuid4()), recorded_at=NOON) for number in range(10)]
    many.sort(key=lambda one: one["id"])
    with (
        open_box(paths, postgres_url) as (server, _),
        open_box(paths, state="fallback") as (embedded, _),
    ):
        server.test_client().post(READINGS, json=many)
        embedded.test_client().post(READINGS, json=many[:6])

        def page(app: Flask, cursor: str, limit: int = 100) -> Any:
            return app.test_client().get(f"{READINGS}?limit={limit}&cursor={cursor}")

        first = json_of(server.test_client().get(f"{READINGS}?limit=4"))
        rest = json_of(page(embedded, first["next_cursor"]))
        assert [one["id"] for one in rest["items"]] == [one["id"] for one in many[4:6]]
        assert rest["partial"] is True
        cut = page(embedded, rest["next_cursor"])
        assert (cut.status_code, json_of(cut)["error"]) == (409, "list_cut")
        last = json_of(page(server, rest["next_cursor"], 3))
        assert [one["id"] for one in last["items"]] == [one["id"] for one in many[6:9]]
        end = json_of(page(server, last["next_cursor"]))
        assert ([one["id"] for one in end["items"]], end["next_cursor"]) == ([many[9]["id"]], None)
        begun = json_of(embedded.test_client().get(f"{READINGS}?limit=4"))
        assert json_of(page(embedded, begun["next_cursor"]))["next_cursor"] is None


def test_a_cursor_of_one_database_goes_on_in_the_other(paths: Paths, postgres_url: str) -> None:
    many = [reading("d", number, id=str(uuid.uuid4()), recorded_at=NOON) for number in range(10)]
    with open_box(paths) as (embedded, _), open_box(paths, postgres_url) as (server, _):
        for app in (embedded, server):
            app.test_client().post(READINGS, json=many)
        first = json_of(embedded.test_client().get(f"{READINGS}?limit=4"))
        rest = json_of(
            server.test_client().get(f"{READINGS}?limit=100&cursor={first['next_cursor']}")
        )
        identities = [one["id"] for one in first["items"] + rest["items"]]
        assert identities == sorted(one["id"] for one in many)
