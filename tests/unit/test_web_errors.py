# SPDX-License-Identifier: Apache-2.0
"""Whatever goes wrong, there is one error body; what a client sends is never a 5xx."""

import json
import logging
import sqlite3
from typing import Any

import pytest
from flask.testing import FlaskClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, ProgrammingError
from werkzeug.test import TestResponse

from edgepaas.apikit.problems import MOST_DETAILS, Problem
from edgepaas.errors import DatabaseBusy, DatabaseFull, DatabaseRefused, DatabaseUnavailable
from edgepaas.files.paths import Paths
from tests.support.boxes import THINGS, TestBox, make_box
from tests.support.search import tries

JSON = {"Content-Type": "application/json"}


@pytest.fixture
def box(paths: Paths) -> TestBox:
    return make_box(paths)


@pytest.fixture
def client(box: TestBox) -> FlaskClient:
    return box.app.test_client()


def problem(response: TestResponse, status: int) -> dict[str, Any]:
    """Assert that *response* is the one error body with *status*; return it."""
    assert response.status_code == status, response.get_data(as_text=True)
    assert response.mimetype == "application/json"
    body = json.loads(response.data)
    assert list(body) == ["error", "message", "request_id", "details"]
    assert body["request_id"] == response.headers["X-Request-ID"]
    assert all(set(detail) == {"path", "message"} for detail in body["details"])
    return dict(body)


def post(client: FlaskClient, body: bytes, path: str = "/api/things") -> TestResponse:
    return client.post(path, data=body, headers=JSON)


def test_a_sound_request_passes(client: FlaskClient) -> None:
    """The counter-example to all that follows."""
    response = post(client, b'{"name": "\\ud83d\\ude00", "size": 1, "labels": {"a": "b"}}')
    assert response.status_code == 201
    assert response.get_json()["name"] == "\U0001f600"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"\xff",
        b'{"name": "\xed\xa0\x80"}',
        b'{"name": "a\x00b"}',
        b'{"name": "x", "size": NaN}',
        b'{"name": "x", "size": -Infinity}',
        b'{"name": "x", "size": 1e999}',
        b'{"name": "x", "size": ' + b"9" * 5000 + b"}",
        b'{"name": "a", "name": "b"}',
        b"[" * 100_000,
        b"[" * 40 + b"]" * 40,
        b'{"a":' * 40 + b"1" + b"}" * 40,
        b'{"name": "x"} trailing',
    ],
)
def test_what_is_no_json_is_400(client: FlaskClient, body: bytes) -> None:
    """Python's own parser would take some of these and crash on others."""
    assert problem(post(client, body), 400)["error"] == "invalid_json"


@pytest.mark.parametrize(
    ("body", "path"),
    [
        (b"[]", ""),
        (b"null", ""),
        (b'"text"', ""),
        (b"{}", "name"),
        (b'{"name": null}', "name"),
        (b'{"name": 5}', "name"),
        (b'{"name": ""}', "name"),
        (b'{"name": "  "}', "name"),
        (b'{"name": " x"}', "name"),
        (b'{"name": "123456789012345678901"}', "name"),
        (b'{"name": "a\\u0000b"}', "name"),
        (b'{"name": "\\ud800"}', "name"),
        (b'{"name": "x", "typo": 1}', "typo"),
        (b'{"name": "x", "\\udfff": 1}', "\\udfff"),
        (b'{"name": "x", "size": "1"}', "size"),
        (b'{"name": "x", "size": true}', "size"),
        (b'{"name": "x", "size": [1]}', "size"),
        (b'{"name": "x", "size": 1' + b"0" * 400 + b"}", "size"),
        (b'{"name": "x", "count": 1.5}', "count"),
        (b'{"name": "x", "count": "7"}', "count"),
        (b'{"name": "x", "count": false}', "count"),
        (b'{"name": "x", "count": 9223372036854775808}', "count"),
        (b'{"name": "x", "count": 1e300}', "count"),
        (b'{"name": "x", "labels": {"a": 1}}', "labels"),
        (b'{"name": "x", "labels": []}', "labels"),
        (b'{"name": "x", "labels": {"": "a"}}', "labels"),
        (b'{"name": "x", "labels": {"\\u0000": "a"}}', "labels.\\x00"),
    ],
)
def test_a_wrong_field_is_422_with_its_path(client: FlaskClient, body: bytes, path: str) -> None:
    """Every wrong field is named where it stands."""
    found = problem(post(client, body), 422)
    assert [detail["path"] for detail in found["details"]] == [path]


def test_every_wrong_field_is_named_with_its_position(client: FlaskClient) -> None:
    """A list shows which entry is wrong."""
    body = json.dumps([{"name": "a"}, {"name": 1, "size": "x"}, {}]).encode()
    found = problem(post(client, body, "/api/things/many"), 422)
    paths = {detail["path"] for detail in found["details"]}
    assert paths == {"things[1].name", "things[1].size", "things[2].name"}
    assert "and 2 more" in found["message"]


def test_the_details_of_a_very_wrong_request_are_bounded(client: FlaskClient) -> None:
    """Ten thousand mistakes are not ten thousand lines."""
    body = json.dumps([{"name": 1}] * 10_000).encode()
    found = problem(post(client, body, "/api/things/many"), 422)
    assert len(found["details"]) == MOST_DETAILS
    assert found["details"][-2]["path"] == f"things[{MOST_DETAILS - 2}].name"
    assert found["details"][-1]["message"] == "and more: what follows was not looked at"


@pytest.mark.parametrize(
    ("content_type", "encoding"),
    [
        (None, None),
        ("", None),
        ("text/plain", None),
        ("application/x-www-form-urlencoded", None),
        ("multipart/form-data; boundary=x", None),
        ("application/json; charset=utf-16", None),
        (";;;=", None),
        ("application/json", "gzip"),
    ],
)
def test_a_body_of_another_type_is_415(
    client: FlaskClient, content_type: str | None, encoding: str | None
) -> None:
    """What is understood is named."""
    headers = {"Content-Type": content_type, "Content-Encoding": encoding}
    response = client.post(
        "/api/things",
        data=b'{"name": "x"}',
        headers={name: value for name, value in headers.items() if value is not None},
    )
    assert problem(response, 415)["error"] == "unsupported_media_type"


@pytest.mark.parametrize(
    "content_type", ["application/json; charset=UTF-8", "application/merge-patch+json"]
)
def test_other_spellings_of_json_are_understood(client: FlaskClient, content_type: str) -> None:
    """A byte-order mark as well (RFC 8259, 8.1)."""
    response = client.post(
        "/api/things", data=b'\xef\xbb\xbf{"name": "x"}', headers={"Content-Type": content_type}
    )
    assert response.status_code == 201


def test_a_body_beyond_the_limit_is_413(paths: Paths) -> None:
    """REQUEST_MAX_BYTES holds whoever serves the application."""
    client = make_box(paths, REQUEST_MAX_BYTES="1024").app.test_client()
    found = problem(post(client, b'{"name": "' + b"x" * 2000 + b'"}'), 413)
    assert "REQUEST_MAX_BYTES allows 1,024 bytes" in found["message"]


def test_an_error_is_as_compact_as_a_success(client: FlaskClient) -> None:
    """No blanks for programs to skip."""
    assert b'{"error":"not_found","message":' in client.get("/nothing").data


def test_ndjson_is_read_line_by_line(client: FlaskClient) -> None:
    """Empty lines are nothing; a wrong one is named by its number, too many are refused."""
    headers = {"Content-Type": "application/x-ndjson"}

    def send(body: bytes) -> TestResponse:
        return client.post("/api/things/many", data=body, headers=headers)

    assert send(b'{"name":"a"}\r\n\n{"name":"b"}').get_json()["count"] == 2
    assert "at line 3, column 2." in problem(send(b'{"name":"a"}\n\n{"na'), 400)["message"]
    assert "line 2: the name 'a'" in problem(send(b'1\n{"a":1,"a":2}'), 400)["message"]
    deep = b"[" * 40 + b"]" * 40
    assert "line 2: it is nested" in problem(send(b"1\n" + deep), 400)["message"]
    wrong = problem(send(b'{"name":"a"}\n{"name":"\\u0000"}'), 422)
    assert wrong["details"][0]["path"] == "[1].name"
    problem(send(b"1\n" * 101), 413)


@pytest.mark.parametrize(
    ("query", "path"),
    [
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
        ("limit=x", "limit"),
        ("limit=1_0", "limit"),
        ("limit=%D9%A3", "limit"),
        ("limit=" + "9" * 5000, "limit"),
        ("limit=", "limit"),
        ("limit=1&limit=2", "limit"),
        ("limti=1", "limti"),
        ("cursor=" + "x" * 501, "cursor"),
    ],
)
def test_a_wrong_argument_in_the_address_is_422(client: FlaskClient, query: str, path: str) -> None:
    """A mistyped filter is not dropped: it would answer another question."""
    found = problem(client.get(f"/api/things?{query}"), 422)
    assert [detail["path"] for detail in found["details"]] == [path]


@pytest.mark.parametrize("address", ["/%00", "/api/things?cursor=%00", "/?a=%ed%a0%80"])
def test_an_address_that_no_text_can_hold_is_400(client: FlaskClient, address: str) -> None:
    """NUL and bytes that are no UTF-8 end at the door."""
    for answer in (
        client.open(address),
        client.get("/", environ_overrides={"PATH_INFO": "/\xff"}),
    ):
        assert problem(answer, 400)["error"] == "bad_request"


@pytest.mark.parametrize(
    "path", ["/nothing", "/api/things/no-uuid", "//api//things", "/../etc", "*"]
)
def test_what_is_not_there_is_404(client: FlaskClient, path: str) -> None:
    """No redirect, no page of werkzeug's."""
    answer = client.get("/", environ_overrides={"PATH_INFO": path})
    assert problem(answer, 404)["error"] == "not_found"


@pytest.mark.parametrize("method", ["DELETE", "PATCH", "TRACE", "FOO", "PUT"])
def test_a_method_that_is_not_there_is_405_and_names_those_that_are(
    client: FlaskClient, method: str
) -> None:
    """RFC 9110, 15.5.6 wants the Allow header."""
    response = client.open("/api/things", method=method)
    problem(response, 405)
    assert {"GET", "POST"} <= {name.strip() for name in response.headers["Allow"].split(",")}


def test_head_and_options_are_answered_without_a_body(client: FlaskClient) -> None:
    """What a monitoring probe and a browser send."""
    for method in ("HEAD", "OPTIONS"):
        response = client.open("/", method=method)
        assert (response.status_code, response.data) == (200, b"")


@pytest.mark.parametrize(
    ("failure", "status", "retry"),
    [
        (DatabaseUnavailable("postgresql://u:hunter2secret@h/d refused"), 503, True),
        (DatabaseBusy("queue"), 503, True),
        (DatabaseFull("disk"), 507, False),
        (DatabaseRefused("no such character"), 422, False),
    ],
)
def test_a_database_that_refuses_is_503_or_507_without_its_address(
    box: TestBox, client: FlaskClient, failure: Exception, status: int, retry: bool
) -> None:
    """Come again, or make room; where the database lies is nobody's business."""
    box.database.failure = failure
    response = post(client, b'{"name": "x"}')
    assert "hunter2secret" not in problem(response, status)["message"]
    assert ("Retry-After" in response.headers) == retry


class ServerError(Exception):
    """An error as the driver raises it: the server's fields by their codes."""


def statement_error(kind: type[DBAPIError], state: str) -> DBAPIError:
    return kind("INSERT", None, ServerError({"C": state, "M": "no such\u202echaracter"}))


@pytest.mark.parametrize(
    ("failure", "status"),
    [
        (statement_error(DataError, "22021"), 422),
        (statement_error(DataError, "22001"), 422),
        (statement_error(IntegrityError, "23502"), 422),
        (statement_error(IntegrityError, "23514"), 422),
        (statement_error(ProgrammingError, "P0001"), 422),
        (statement_error(IntegrityError, "23505"), 409),
        (statement_error(IntegrityError, "23503"), 409),
        (statement_error(ProgrammingError, "42601"), 500),
    ],
)
def test_values_that_the_database_refuses_are_the_clients_and_no_bug(
    box: TestBox, client: FlaskClient, failure: Exception, status: int
) -> None:
    """Where no view caught it; a statement that makes no sense is a bug of ours."""
    box.database.failure = failure
    message = problem(post(client, b'{"name": "x"}'), status)["message"]
    assert ("no such" in message) is (status < 500)
    assert "\u202e" not in message


@pytest.mark.parametrize(("value", "status"), [("1", 409), ("NULL", 422), ("-1", 422)])
def test_a_constraint_of_the_box_is_answered_as_one_of_postgresql(
    box: TestBox, client: FlaskClient, value: str, status: int
) -> None:
    """SQLite has other codes for the same."""
    connection = sqlite3.connect(":memory:")
    connection.execute("CREATE TABLE t (a INTEGER NOT NULL UNIQUE CHECK (a > 0))")
    connection.execute("INSERT INTO t VALUES (1)")
    with pytest.raises(sqlite3.IntegrityError) as caught:
        connection.execute(f"INSERT INTO t VALUES ({value})")
    connection.close()
    box.database.failure = IntegrityError("INSERT", None, caught.value)
    problem(post(client, b'{"name": "x"}'), status)


def test_a_bug_is_500_with_the_request_id_that_finds_it_in_the_log(
    client: FlaskClient, caplog: pytest.LogCaptureFixture
) -> None:
    """The client learns nothing of the code."""
    with caplog.at_level(logging.ERROR):
        found = problem(client.get("/api/things/crash"), 500)
    assert "RuntimeError" not in json.dumps(found)
    assert any(record.exc_info for record in caplog.records)


@pytest.mark.parametrize(
    ("settings_given", "address", "shown"),
    [
        ({"ENV": "development", "LOG_LEVEL": "DEBUG"}, "127.0.0.1", True),
        ({"ENV": "development", "LOG_LEVEL": "INFO"}, "127.0.0.1", False),
        ({"ENV": "production", "LOG_LEVEL": "DEBUG"}, "127.0.0.1", False),
        ({"ENV": "development", "LOG_LEVEL": "DEBUG", "AUTH_REQUIRED": "false"}, "10.1.1.1", False),
    ],
)
def test_a_traceback_is_shown_to_the_developer_alone_and_without_secrets(
    paths: Paths, settings_given: dict[str, str], address: str, shown: bool
) -> None:
    client = make_box(paths, THINGS, None, **settings_given).app.test_client()
    response = client.get("/api/things/crash", environ_base={"REMOTE_ADDR": address})
    text = json.dumps(problem(response, 500))
    assert ("RuntimeError" in text) is shown
    assert "hunter2" not in text


def test_a_retry_is_never_after_less_than_a_second() -> None:
    """Retry-After counts whole seconds (RFC 9110, 10.2.3)."""
    assert Problem(429, retry_after=0.001).headers == {"Retry-After": "1"}
    assert Problem(429, retry_after=2.4).headers == {"Retry-After": "2"}


@settings(max_examples=tries(50), deadline=None, suppress_health_check=list(HealthCheck))
@given(
    body=st.one_of(
        st.binary(max_size=200),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=30),
            lambda inner: (
                st.lists(inner, max_size=4)
                | st.dictionaries(
                    st.sampled_from(["name", "size", "count", "labels"]) | st.text(max_size=5),
                    inner,
                    max_size=5,
                )
            ),
            max_leaves=12,
        ).map(lambda value: json.dumps(value).encode("utf-8", "surrogatepass")),
    ),
    ndjson=st.booleans(),
)
def test_no_body_whatsoever_causes_a_5xx(client: FlaskClient, body: bytes, ndjson: bool) -> None:
    """Hypothesis tries what nobody thought of."""
    media_type = "application/x-ndjson" if ndjson else "application/json"
    path = "/api/things/many" if ndjson else "/api/things"
    response = client.post(path, data=body, headers={"Content-Type": media_type})
    assert response.status_code < 500
    json.loads(response.data)
