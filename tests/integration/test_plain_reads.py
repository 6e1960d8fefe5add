# SPDX-License-Identifier: Apache-2.0
"""Lists are answered without Flask where nothing is unusual, and nobody can tell by the answer."""

import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import marshmallow as ma
import pytest
from flask import Flask
from hypothesis import example, given, settings
from hypothesis import strategies as st
from werkzeug.datastructures import MultiDict
from werkzeug.test import TestResponse

from edgepaas.apikit.blueprint import ApiParser
from edgepaas.apikit.compiled_parser import compile_query
from edgepaas.apikit.smorest_adapter import from_address
from edgepaas.app import Box
from edgepaas.app.api import BooleanField, IntegerField, NotPlain, PageQuery, Problem
from edgepaas.app.facts import insert_new
from edgepaas.errors import DatabaseBusy
from edgepaas.files.paths import Paths
from edgepaas.telemetry.models import READINGS
from edgepaas.telemetry.schemas import ReadingQuery, RuleQuery
from edgepaas.web.access.tokens import TokenStore
from edgepaas.web.plain_reads import PlainReads
from tests.integration.test_telemetry_pages import readings
from tests.support.search import tries
from tests.support.telemetry_box import open_box

FAR = "203.0.113.9"


class Asked:
    """A box whose lists are asked for twice: without Flask where that may be, and with it."""

    def __init__(self, app: Flask, box: Box) -> None:
        self.app, self.box = app, box
        found: Any = app.wsgi_app
        while not isinstance(found, PlainReads):
            found = next(
                below
                for below in (
                    getattr(found, "_app", None),
                    *(cell.cell_contents for cell in getattr(found, "__closure__", None) or ()),
                )
                if callable(below)
            )
        self.reads = found
        self._flask = found._app
        self.by_flask = 0
        found._app = self._counting

    def _counting(self, environ: Any, start_response: Any) -> Any:
        self.by_flask += 1
        return self._flask(environ, start_response)

    def __call__(self, address: str, **request: Any) -> TestResponse:
        """Return the answer, which has to be the one that Flask gives."""
        client = self.app.test_client()
        given = {"headers": {"X-Request-ID": "same", **request.pop("headers", {})}, **request}
        before = self.by_flask
        plain = client.open(address, **given)
        self.was_plain = self.by_flask == before
        routes, self.reads._routes = self.reads._routes, {}
        try:
            ordinary = client.open(address, **given)
        finally:
            self.reads._routes = routes
        assert plain.status == ordinary.status
        assert sorted(plain.headers) == sorted(ordinary.headers)
        assert plain.data == ordinary.data
        return plain


@pytest.fixture
def start(paths: Paths) -> Iterator[Callable[..., Asked]]:
    with ExitStack() as stack:

        def opened(**options: Any) -> Asked:
            app, box = stack.enter_context(open_box(paths, **options))
            rows = readings(random.Random(3))
            box.database.write(lambda session: insert_new(session, READINGS, rows))
            return Asked(app, box)

        yield opened


PLAIN = [
    "/api/v1/readings",
    "/api/v1/readings?limit=7",
    "/api/v1/readings?device=press-1&limit=3&from=2024-05-01T06:00:00Z",
    "/api/v1/readings?to=2024-05-01T06%3A00%3A00%2B02%3A00",
    "/api/v1/readings?from=2024-05-01&metric=x%C2%B0",
    "/api/v1/devices?name=none",
    "/api/v1/rules?enabled=true&device=a+b",
]
UNUSUAL = [
    *("limit=0", "limit=1001", "limit=07", "limit=-1", "limit=1_0", "limit=", "limit=x", "limit="),
    *("limit=1&limit=2", "colour=red", "cursor=nonsense", "device=", "device=%00", "device=%ff"),
    *("from=yesterday", "from=2024-05-01T06:00:00+02:00", "enabled=1", "&&", "=", "limit", "%"),
    *("device=%20a", "device=a%ED%A0%80", "cursor=" + "A" * 600, "a=1&" * 30),
]


def test_a_list_is_answered_without_flask_and_as_flask_answers_it(
    start: Callable[..., Asked],
) -> None:
    asked = start()
    for address in PLAIN:
        assert asked(address).status_code == 200
        assert asked.was_plain, address
    cursor = asked("/api/v1/readings?limit=7").get_json()["next_cursor"]
    asked(f"/api/v1/readings?limit=7&cursor={cursor}")
    assert asked.was_plain


@pytest.mark.parametrize("query", UNUSUAL)
def test_a_query_that_is_wrong_is_answered_as_ever(start: Callable[..., Asked], query: str) -> None:
    asked = start()
    for name in ("readings", "rules"):
        asked(f"/api/v1/{name}?{query}")
    assert asked.by_flask > 1


UNUSUAL_REQUESTS: list[dict[str, Any]] = [
    {"method": "HEAD"},
    {"method": "DELETE"},
    {"method": "OPTIONS"},
    {"headers": {"Sec-Fetch-Site": "cross-site"}},
    {"headers": {"Origin": "http://elsewhere"}},
    {"headers": {"X-Forwarded-For": "127.0.0.1"}},
    {"headers": {"Host": "rebound.example"}},
    {"headers": {"Host": "a b"}},
    {"headers": {"Authorization": "Bearer wrong"}},
    {"headers": {"Authorization": "Basic YTpi"}},
    {"environ_base": {"REMOTE_ADDR": FAR}},
]


@pytest.mark.parametrize("request_", UNUSUAL_REQUESTS, ids=str)
@pytest.mark.parametrize("cors", [False, True])
def test_a_request_that_is_unusual_is_answered_as_ever(
    start: Callable[..., Asked], request_: dict[str, Any], cors: bool
) -> None:
    allowed = {"CORS_ENABLED": "true", "CORS_ORIGINS": "http://elsewhere"} if cors else {}
    asked = start(ENV="production", **allowed)
    asked("/api/v1/readings?limit=2", **request_)
    assert asked.by_flask == 2
    assert asked("/api/v1/readings?limit=2").status_code == 200
    assert asked.was_plain


def test_a_token_that_may_read_reads(start: Callable[..., Asked], paths: Paths) -> None:
    store = TokenStore(paths.tokens)
    secrets = [store.create(name, read_only=name == "r")[1] for name in ("r", "w")]
    asked = start(ENV="production")
    for secret in secrets:
        answer = asked(
            "/api/v1/readings",
            headers={"Authorization": f"Bearer {secret}"},
            environ_base={"REMOTE_ADDR": FAR},
        )
        assert answer.status_code == 200
        assert asked.was_plain
    store.revoke("r")
    answer = asked(
        "/api/v1/readings",
        headers={"Authorization": f"Bearer {secrets[0]}"},
        environ_base={"REMOTE_ADDR": FAR},
    )
    assert answer.status_code == 401


def test_a_client_that_asks_too_often_is_refused(start: Callable[..., Asked]) -> None:
    asked = start(AUTH_REQUIRED="false", RATE_LIMIT="0.001", RATE_BURST="5")
    client = asked.app.test_client()
    where = {"REMOTE_ADDR": FAR}
    codes = [client.get("/api/v1/readings", environ_base=where).status_code for _ in range(7)]
    assert codes == [200] * 5 + [429] * 2
    assert asked.by_flask == 2


@pytest.mark.parametrize("by_flask", [False, True])
def test_an_answer_that_is_an_error_counts_once(
    start: Callable[..., Asked], by_flask: bool
) -> None:
    """A cursor that is none is found when the list is asked for: after the limit."""
    asked = start(AUTH_REQUIRED="false", RATE_LIMIT="0.001", RATE_BURST="4")
    if by_flask:
        asked.reads._routes = {}
    client = asked.app.test_client()
    codes = [
        client.get("/api/v1/readings?cursor=none", environ_base={"REMOTE_ADDR": FAR}).status_code
        for _ in range(6)
    ]
    assert codes == [422] * 4 + [429] * 2


def test_a_database_that_fails_is_asked_once_and_answered_as_ever(
    start: Callable[..., Asked], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = start()
    calls = []

    def busy(*_: Any) -> Any:
        calls.append(1)
        raise DatabaseBusy("no connection for reading came free")

    monkeypatch.setattr(asked.box.database, "fetch", busy)
    answer = asked.app.test_client().get("/api/v1/readings")
    assert answer.status_code == 503
    assert answer.headers["Retry-After"]
    assert len(calls) == 1
    assert asked("/api/v1/readings").status_code == 503


def test_both_ways_are_counted_alike(start: Callable[..., Asked]) -> None:
    asked = start()
    for _ in range(3):
        asked("/api/v1/readings?limit=1")
    page = asked.app.test_client().get("/metrics").get_data(as_text=True)
    (line,) = [
        line
        for line in page.splitlines()
        if 'route="/api/v1/readings"' in line and "_count{" in line and 'method="GET"' in line
    ]
    assert line.endswith(" 6.0")


def test_a_function_of_the_applications_own_before_requests_is_run(paths: Paths) -> None:
    from edgepaas.telemetry import application

    seen: list[str] = []

    def blueprints(box: Box) -> Any:
        made = list(application.blueprints(box))  # type: ignore[misc]
        made[0].before_app_request(lambda: seen.append("asked"))
        return made

    own = replace(application, blueprints=blueprints)
    with open_box(paths, application=own) as (app, box):
        asked = Asked(app, box)
        assert asked("/api/v1/readings").status_code == 200
        assert not asked.was_plain
    assert seen == ["asked"] * 2


# -- the query --

TEXTS = st.one_of(
    st.text(max_size=8),
    st.sampled_from(
        [
            *(
                "",
                "1",
                "100",
                "0",
                "1000",
                "1001",
                "-1",
                "+1",
                " 1",
                "1 ",
                "1_0",
                "٣",
                "1.0",
                "1e2",
            ),
            *("true", "false", "True", "1" * 20, "press-1", " a", "a\0", "\ud800", "\u200b"),
            *("2024-05-01", "2024-05-01T06:00Z", "2024-05-01T06:00:00 02:00", "2024-05-01 06:00"),
        ]
    ),
)
NAMES = st.sampled_from(
    [*("limit", "cursor", "device", "metric", "from", "to", "since", "enabled", "least", "x", "")]
)


class Least(PageQuery):
    """A query that needs an argument."""

    least = IntegerField(required=True, least=-5)
    enabled = BooleanField()


@settings(max_examples=tries(300))
@given(st.sampled_from([ReadingQuery, RuleQuery, Least]), st.lists(st.tuples(NAMES, TEXTS)))
@example(ReadingQuery, [("cursor", "\ud7c7")])  # unassigned
@example(ReadingQuery, [("device", "a\u00a0b"), ("metric", "a\u3000b")])  # blanks
@example(RuleQuery, [("device", "\ue000\U0010ffff")])  # private, no character
@example(ReadingQuery, [("device", "a\tb")])
def test_a_query_is_loaded_as_the_ordinary_way_loads_it_or_not_at_all(
    schema: type[ma.Schema], pairs: list[tuple[str, str]]
) -> None:
    try:
        plain = compile_query(schema())(pairs)
    except NotPlain:
        plain = None
    ordinary = by_webargs(schema(), pairs)
    assert plain is None or plain == ordinary
    if ordinary is not None:
        assert plain == ordinary, "valid queries are plain"


def by_webargs(schema: ma.Schema, pairs: list[tuple[str, str]]) -> Any:
    """Return what the ordinary way loads; None where it refuses."""

    class Request:
        args = MultiDict(pairs)

    try:
        proxy = ApiParser().load_querystring(Request(), schema)
        assert from_address(proxy)
        return schema.load(proxy)
    except (Problem, ma.ValidationError):
        return None


def test_a_query_that_cannot_be_compiled_is_refused_when_the_route_is_made() -> None:
    class Made(ma.Schema):
        when = IntegerField(load_default=lambda: 1)

    class Listed(ma.Schema):
        names = ma.fields.List(ma.fields.String())

    for schema in (Made(), Listed()):
        with pytest.raises(TypeError):
            compile_query(schema)
