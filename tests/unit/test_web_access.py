# SPDX-License-Identifier: Apache-2.0
"""Who may do what: tokens, loopback, proxies, browsers, rates."""

import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest
from flask import jsonify
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from edgepaas.app import Application
from edgepaas.files.paths import Paths
from edgepaas.web.access.locality import client_network, is_loopback, names_loopback
from edgepaas.web.access.rate_limits import MOST_CLIENTS, RateLimiter
from edgepaas.web.access.tokens import TokenStore
from edgepaas.web.plain_appends import is_usual_host
from edgepaas.web.probe_paths import PROBE_PATHS
from tests.support.boxes import THINGS, make_box

FAR = {"REMOTE_ADDR": "203.0.113.9"}
LOCAL = {"REMOTE_ADDR": "127.0.0.1"}


def client(paths: Paths, application: Application = THINGS, **settings: str) -> FlaskClient:
    return make_box(paths, application, None, **settings).app.test_client()


def read(of: FlaskClient, where: dict[str, str], **headers: str) -> int:
    return of.get("/api/things", environ_base=where, headers=_named(headers)).status_code


def write(of: FlaskClient, where: dict[str, str], **headers: str) -> int:
    return _write(of, where, **headers).status_code


def _write(of: FlaskClient, where: dict[str, str], **headers: str) -> TestResponse:
    return of.post("/api/things", json={"name": "x"}, environ_base=where, headers=_named(headers))


def _named(headers: dict[str, str]) -> dict[str, str]:
    return {name.replace("_", "-"): value for name, value in headers.items()}


@pytest.fixture
def tokens(paths: Paths) -> dict[str, str]:
    """One token of each kind, as the header that carries it."""
    store = TokenStore(paths.tokens)
    return {
        "full": f"Bearer {store.create('full', read_only=False)[1]}",
        "reader": f"bearer {store.create('reader', read_only=True)[1]}",
    }


def test_in_production_a_write_needs_a_token_even_on_the_box(
    paths: Paths, tokens: dict[str, str]
) -> None:
    """Reads of the box itself are open; everything else shows its token."""
    box = client(paths, ENV="production")
    assert (read(box, LOCAL), write(box, LOCAL)) == (200, 401)
    assert (read(box, FAR), write(box, FAR)) == (401, 401)
    for where in (LOCAL, FAR):
        assert read(box, where, Authorization=tokens["full"]) == 200
        assert write(box, where, Authorization=tokens["full"]) == 201
        assert read(box, where, Authorization=tokens["reader"]) == 200
        assert write(box, where, Authorization=tokens["reader"]) == 403


def test_in_development_the_loopback_is_open_and_the_network_is_not(paths: Paths) -> None:
    """A developer needs no token; a colleague's laptop does."""
    box = client(paths, ENV="development")
    assert (read(box, LOCAL), write(box, LOCAL)) == (200, 201)
    assert (read(box, FAR), write(box, FAR)) == (401, 401)


def test_auth_switched_off_in_so_many_words_opens_the_box(paths: Paths) -> None:
    """AUTH_REQUIRED=false is the operator's own decision."""
    box = client(paths, ENV="production", AUTH_REQUIRED="false")
    assert (read(box, FAR), write(box, FAR)) == (200, 201)


@pytest.mark.parametrize(
    "value", ["", "Bearer", "Bearer ", "Basic abc", "Bearer x", "\xff", "x" * 9000]
)
def test_a_wrong_credential_is_401_with_a_challenge_even_where_none_is_needed(
    paths: Paths, value: str
) -> None:
    """Who shows a bad token learns that it is bad."""
    response = client(paths).get(
        "/api/things", environ_base=LOCAL, headers={"Authorization": value}
    )
    assert response.status_code == 401
    assert response.headers["WWW-Authenticate"].startswith("Bearer")


def test_a_revoked_token_is_worth_nothing_at_once(paths: Paths, tokens: dict[str, str]) -> None:
    """The running service follows the file."""
    box = client(paths, ENV="production")
    assert read(box, FAR, Authorization=tokens["full"]) == 200
    TokenStore(paths.tokens).revoke("full")
    assert read(box, FAR, Authorization=tokens["full"]) == 401


@pytest.mark.parametrize(
    "headers",
    [
        {"X_Forwarded_For": "127.0.0.1"},
        {"Forwarded": "for=127.0.0.1"},
        {"X_Real_IP": "127.0.0.1"},
        {"Via": "1.1 proxy"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Host": "rebound.example"},
        {"Host": "[::1"},
        {"Host": "127.0.0.1.nip.example"},
    ],
)
def test_the_boxs_own_rights_are_lent_to_nobody(paths: Paths, headers: dict[str, str]) -> None:
    """Neither to whom a proxy serves, nor to a web page in a browser on the box."""
    box = client(paths)
    assert read(box, LOCAL, **headers) == 401
    assert write(box, LOCAL, **headers) == 401


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:8080", "[::1]:8080", "box.localhost"])
def test_the_boxs_own_names_are_local(paths: Paths, host: str) -> None:
    """What a program or a browser on the box writes."""
    assert read(client(paths), LOCAL, Host=host, Sec_Fetch_Site="none") == 200


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("localhost", True),
        (None, True),
        ("", True),
        ("10.0.0.1", False),
        ("::ffff:10.0.0.1", False),
        ("fe80::1%eth0", False),
        ("nonsense", False),
    ],
)
def test_loopback_is_recognised_in_every_spelling(address: str | None, expected: bool) -> None:
    """A Unix socket has no address, or 'localhost'."""
    assert is_loopback(address) is expected


def test_health_needs_no_token_unless_a_setting_closes_it(paths: Paths) -> None:
    """A load balancer holds none."""
    far = client(paths, ENV="production")
    closed = client(paths, ENV="production", HEALTH_AUTH="true")
    for path in ("/health", "/health/live", "/health/ready", "/ready", "/health/db"):
        assert far.get(path, environ_base=FAR).status_code == 200
        assert closed.get(path, environ_base=FAR).status_code == 401
        assert closed.get(path, environ_base=LOCAL).status_code == 200
    assert far.get("/", environ_base=FAR).status_code == 401
    assert far.get("/openapi.json", environ_base=FAR).status_code == 401


def wsgi_application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    """Says which path it was asked for, and how much it was sent."""
    body = environ["wsgi.input"].read()
    start_response("200 OK", [("Content-Type", "text/plain"), ("X-Request-ID", "its own")])
    return [f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']} {len(body)}".encode()]


def test_a_wsgi_application_has_every_path_that_is_not_the_platforms(paths: Paths) -> None:
    """The box's guards stand before it, and the health routes stay the box's."""
    mounted = Application(name="any", wsgi=lambda box: wsgi_application)
    box = client(paths, mounted)
    assert box.get("/", environ_base=LOCAL).data == b"GET / 0"
    answer = box.put("/a/b?c", data=b"12345", environ_base=LOCAL)
    assert answer.data == b"PUT /a/b 5"
    assert answer.headers["X-Request-ID"] != "its own"
    assert box.get("/health", environ_base=LOCAL).get_json() == {"status": "ok"}
    assert box.get("/", environ_base=FAR).status_code == 401


def test_an_application_with_a_sign_in_of_its_own_is_not_guarded(paths: Paths) -> None:
    """The platform's own routes still are."""
    own = Application(name="any", wsgi=lambda box: wsgi_application, guarded=False)
    box = client(paths, own, ENV="production")
    assert box.post("/login", data=b"x", environ_base=FAR).status_code == 200
    assert box.get("/openapi.json", environ_base=FAR).status_code == 401


_TOWARDS_THE_APPLICATION = [
    ("POST", "/admin"),
    ("GET", "/health/admin"),
    ("POST", "/health/admin"),
    ("DELETE", "/health/../admin"),
    ("POST", "/health/%2e%2e/admin"),
    ("POST", "/health/live"),
    ("POST", "/ready/x"),
    ("PUT", "/metrics"),
    ("OPTIONS", "/admin"),
    ("OPTIONS", "/health/admin"),
]


@pytest.mark.parametrize(("method", "path"), _TOWARDS_THE_APPLICATION)
def test_nothing_reaches_a_guarded_application_without_a_token(
    paths: Paths, tokens: dict[str, str], method: str, path: str
) -> None:
    """Neither a path that looks like a health route, nor a method that writes nothing."""
    mounted = Application(name="any", wsgi=lambda box: wsgi_application)
    box = client(paths, mounted, ENV="production")
    refused = box.open(path, method=method, environ_base=FAR)
    assert refused.status_code == 401
    assert refused.get_json()["error"] == "unauthorized"
    headers = {"Authorization": tokens["full"]}
    admitted = box.open(path, method=method, environ_base=FAR, headers=headers)
    assert admitted.status_code == 200
    assert admitted.data.startswith(method.encode())


def test_a_preflight_never_reaches_a_guarded_application(paths: Paths) -> None:
    """The platform answers it for the origins that are listed; others need a token."""
    mounted = Application(name="any", wsgi=lambda box: wsgi_application)
    box = client(
        paths,
        mounted,
        ENV="production",
        CORS_ENABLED="true",
        CORS_ORIGINS="https://console.example",
    )
    asked = {"Access-Control-Request-Method": "DELETE", "Origin": "https://console.example"}
    answer = box.options("/admin", headers=asked, environ_base=FAR)
    assert (answer.status_code, answer.data) == (200, b"")
    assert "DELETE" in answer.headers["Access-Control-Allow-Methods"]
    for others in ({**asked, "Origin": "https://evil.example"}, {"Origin": asked["Origin"]}):
        assert box.options("/admin", headers=others, environ_base=FAR).status_code == 401


def test_the_list_of_probes_is_that_of_the_health_routes(paths: Paths) -> None:
    """What the lanes and the early responder know is what the platform answers."""
    app = make_box(paths).app
    own = ("health.", "metrics.")
    rules = {rule.rule for rule in app.url_map.iter_rules() if rule.endpoint.startswith(own)}
    assert rules == PROBE_PATHS


def test_paths_that_only_look_like_probes_are_limited(paths: Paths) -> None:
    """An application's routes below /health/ are counted like all others."""
    mounted = Application(name="any", wsgi=lambda box: wsgi_application)
    box = client(paths, mounted, AUTH_REQUIRED="false", RATE_LIMIT="1", RATE_BURST="2")
    statuses = [box.get("/health/x", environ_base=FAR).status_code for _ in range(3)]
    assert statuses == [200, 200, 429]


def test_a_client_that_asks_too_often_is_told_when_to_come_again(paths: Paths) -> None:
    """429 with Retry-After; the box itself and the probes are never limited."""
    box = client(paths, AUTH_REQUIRED="false", RATE_LIMIT="1", RATE_BURST="3")
    statuses = [read(box, FAR) for _ in range(5)]
    assert statuses == [200, 200, 200, 429, 429]
    limited = box.get("/api/things", environ_base=FAR)
    assert int(limited.headers["Retry-After"]) >= 1
    assert limited.get_json()["error"] == "too_many_requests"
    assert read(box, {"REMOTE_ADDR": "203.0.113.10"}) == 200
    assert {read(box, LOCAL) for _ in range(10)} == {200}
    assert {box.get("/ready", environ_base=FAR).status_code for _ in range(10)} == {200}


def test_a_rate_of_nothing_limits_nobody(paths: Paths) -> None:
    """RATE_LIMIT=0 is off."""
    box = client(paths, AUTH_REQUIRED="false", RATE_LIMIT="0", RATE_BURST="1")
    assert {read(box, FAR) for _ in range(20)} == {200}


def test_a_bucket_fills_up_again_and_never_beyond_its_burst() -> None:
    """Ten seconds of silence are not ten seconds of requests at once."""
    now = [0.0]
    limiter = RateLimiter(2, 3, clock=lambda: now[0])
    assert [limiter.seconds_to_wait("a") for _ in range(4)] == [0, 0, 0, 0.5]
    now[0] += 0.5
    assert limiter.seconds_to_wait("a") == 0
    now[0] += 1000
    assert [limiter.seconds_to_wait("a") > 0 for _ in range(4)] == [False, False, False, True]


def test_the_table_of_clients_is_bounded() -> None:
    """A flood of addresses takes no memory."""
    limiter = RateLimiter(1, 1, clock=lambda: 0.0)
    for number in range(MOST_CLIENTS * 2):
        limiter.seconds_to_wait(str(number))
    assert len(limiter._buckets) == MOST_CLIENTS


def test_a_whole_ipv6_network_is_one_client() -> None:
    """Whoever has a /64 has addresses without end."""
    assert client_network("2001:db8::1") == client_network("2001:db8::ffff:1")
    assert client_network("2001:db8::1") != client_network("2001:db8:0:1::1")
    assert client_network("::ffff:10.0.0.1") == client_network("10.0.0.1")
    assert client_network("odd") == "odd"


def test_every_answer_carries_the_security_headers(paths: Paths) -> None:
    """Errors and pages alike."""
    box = client(paths)
    for path in ("/", "/nothing", "/health", "/openapi.json"):
        headers = box.get(path).headers
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["X-Frame-Options"] == "DENY"
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        assert headers["Cache-Control"] == "no-store"


def test_cors_is_off_unless_listed(paths: Paths) -> None:
    """No origin reads the box's answers by default."""
    headers = {"Origin": "https://console.example"}
    assert "Access-Control-Allow-Origin" not in client(paths).get("/", headers=headers).headers


def test_a_listed_origin_may_read_and_another_may_not(paths: Paths) -> None:
    """The preflight needs no token; the request itself does."""
    box = client(paths, CORS_ENABLED="true", CORS_ORIGINS="https://console.example")
    preflight = {"Access-Control-Request-Method": "POST", "Origin": "https://console.example"}
    answer = box.options("/api/things", headers=preflight, environ_base=FAR)
    assert answer.status_code == 200
    assert answer.headers["Access-Control-Allow-Origin"] == "https://console.example"
    assert "Authorization" in answer.headers["Access-Control-Allow-Headers"]
    assert "Origin" in answer.headers["Vary"]
    other = box.options("/api/things", headers={**preflight, "Origin": "https://evil.example"})
    assert "Access-Control-Allow-Origin" not in other.headers


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("abc-123", True),
        ("a" * 128, True),
        ("a" * 129, False),
        ("a b", False),
        ("\xff", False),
        ("a\x1b[31m", False),
        ("", False),
    ],
)
def test_a_sound_request_id_is_echoed_and_any_other_replaced(
    paths: Paths, given: str, kept: bool
) -> None:
    """It stands in log lines, so it is checked."""
    answer = client(paths).get("/health", headers={"X-Request-ID": given})
    assert (answer.headers["X-Request-ID"] == given) is kept
    assert answer.headers["X-Request-ID"]


def test_the_caller_is_known_to_the_view(paths: Paths, tokens: dict[str, str]) -> None:
    """Idempotency keys of two tokens are two."""
    box = client(paths)
    body = [{"name": "x"}]
    named = box.post("/api/things/many", json=body, headers={"Authorization": tokens["full"]})
    assert named.get_json()["caller"] == "full"
    assert box.post("/api/things/many", json=body).get_json()["caller"] == "local"


def test_jsonify_keeps_the_order_of_keys(paths: Paths) -> None:
    """Documents read as they were written."""
    with make_box(paths).app.app_context():
        assert jsonify(b=1, a=2).get_data() == b'{"b":1,"a":2}\n'


@pytest.mark.parametrize("judge", [is_usual_host, names_loopback])
def test_hosts_that_a_client_makes_up_take_no_memory(judge: Callable[[str], bool]) -> None:
    """A head may have 256 KiB, and what is remembered of one has no limit but its number."""
    tracemalloc.start()
    try:
        for number in range(300):
            assert not judge(f"{number}.{'x' * 100_000}")
        assert tracemalloc.get_traced_memory()[0] < 5_000_000
    finally:
        tracemalloc.stop()
    assert judge("localhost:8080")
