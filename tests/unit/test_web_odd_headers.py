# SPDX-License-Identifier: Apache-2.0
"""Every route, asked with headers that no program of good will sends: no answer is a 5xx."""

import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask
from werkzeug.routing import Rule

from edgepaas.files.paths import Paths
from tests.support.telemetry_box import open_box

ODD_VALUES = ("", ";", ",,;=;q=x", "*", '"', "version=x", "\xe9\xff", "9" * 5000, "a" * 5000)
ODD_TYPES = ("text/plain;version=x", "application/openmetrics-text;version=x", "a/b/c", "/;q=")
HEADERS = {
    **dict.fromkeys(("Accept", "Content-Type", "Accept-Charset"), ODD_VALUES + ODD_TYPES),
    **dict.fromkeys(
        (
            *("Accept-Encoding", "Accept-Language", "Authorization", "Cache-Control", "Cookie"),
            *("Content-Encoding", "Date", "Forwarded", "From", "Host", "If-Match", "If-Range"),
            *("If-Modified-Since", "If-None-Match", "Idempotency-Key", "Max-Forwards", "Origin"),
            *("Range", "Referer", "Sec-Fetch-Site", "User-Agent", "Via", "X-Forwarded-For"),
            *("X-Forwarded-Host", "X-Forwarded-Proto", "X-Real-IP", "X-Request-ID"),
            *("X-HTTP-Method-Override", "Access-Control-Request-Method", "TE", "Upgrade"),
        ),
        ODD_VALUES,
    ),
}


@pytest.fixture
def app(paths: Paths) -> Iterator[Flask]:
    """A box of development, in which nothing needs a token and CORS is on."""
    settings: dict[str, Any] = {
        "CORS_ENABLED": "true",
        "CORS_ORIGINS": "https://console.example.org",
    }
    with open_box(
        paths, ENV="development", MEMORY_THRESHOLD="100", DISK_THRESHOLD="100", **settings
    ) as (app, _):
        app.config["PROPAGATE_EXCEPTIONS"] = False
        yield app


def _address(rule: Rule) -> str:
    _, address = rule.build({name: uuid.uuid4() for name in rule.arguments}) or ("", "/")
    return address.removeprefix("http://localhost") or "/"


@pytest.mark.parametrize("name", HEADERS)
def test_no_value_of_a_header_is_a_5xx_on_any_route(
    app: Flask, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The processor is as busy as this test makes it.
    monkeypatch.setattr("edgepaas.health.system.SystemMeter._cpu_percent", lambda meter: 5.0)
    client = app.test_client()
    failed = []
    for rule in app.url_map.iter_rules():
        for method in sorted((rule.methods or set()) & {"GET", "POST", "PATCH", "OPTIONS"}):
            for value in HEADERS[name]:
                answer = client.open(_address(rule), method=method, headers={name: value})
                if answer.status_code >= 500:
                    failed.append((method, rule.rule, value[:40], answer.status_code))
    assert failed == []
