# SPDX-License-Identifier: Apache-2.0
"""Services to watch: addresses, names, and the nested form."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgepaas.health.checks import CheckFailed
from edgepaas.health.gate import build_board, service_checks, verify
from edgepaas.health.services import probe_service
from edgepaas.settings import ServiceAddress, Settings
from edgepaas.settings.services import ServiceError, read_service


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("mq=tcp://broker:1883", ServiceAddress("mq", "tcp", "broker", 1883)),
        ("broker:1883", ServiceAddress("broker", "tcp", "broker", 1883)),
        ("tcp://broker:1883/ignored", ServiceAddress("broker", "tcp", "broker", 1883)),
        ("http://h", ServiceAddress("h", "http", "h", 80)),
        ("https://h/a=b?c=d", ServiceAddress("h", "https", "h", 443, "/a=b?c=d")),
        ("api=HTTP://[::1]:81/x", ServiceAddress("api", "http", "::1", 81, "/x")),
        ("tcp://[::1]:81", ServiceAddress("::1", "tcp", "::1", 81)),
        (
            "redis://u:p%40w@r:7000",
            ServiceAddress("r", "redis", "r", 7000, username="u", password="p@w"),
        ),
    ],
)
def test_an_address_is_understood(text: str, expected: ServiceAddress) -> None:
    service = read_service(text)
    assert (service.scheme, service.host, service.port) == (
        expected.scheme,
        expected.host,
        expected.port,
    )
    assert service.path == expected.path
    assert (service.username, service.password) == (expected.username, expected.password)
    assert read_service(service.item()) == service


@pytest.mark.parametrize(
    "text",
    ["", "x", "tcp://x", "tcp://x:0", "tcp://x:99999", "tcp://x:a", "ftp://x", "tcp://:80", "=x:1",
     "a b=x:1", "tcp://[::1:80", "x=", "http://a<b"],
)  # fmt: skip
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ServiceError):
        read_service(text)


def test_the_nested_form_adds_an_optional_service() -> None:
    settings = Settings.of(MQTT__HOST="broker", MQTT__PORT="1883")
    assert settings.services == (ServiceAddress("mqtt", "tcp", "broker", 1883),)


def test_a_required_service_may_be_named_by_its_nested_form() -> None:
    settings = Settings.of(
        MQTT__HOST="broker", MQTT__PORT="1883", REDIS__HOST="r", REQUIRED_SERVICES="redis mqtt"
    )
    assert {(s.name, s.required) for s in settings.services} == {("redis", True), ("mqtt", True)}


def test_redis_has_its_port_and_password() -> None:
    settings = Settings.of(REDIS__HOST="r", REDIS__PASSWORD="geheim")
    (redis,) = settings.services
    assert redis == ServiceAddress("redis", "redis", "r", 6379, password="geheim")
    assert "geheim" not in repr(settings.services)
    assert "geheim" in settings.secrets()


@pytest.mark.parametrize(
    ("listed", "host", "expected"),
    [
        ("redis://r:6379", "", ["geheim"]),
        ("cache=redis://r", "", ["geheim"]),
        ("redis=redis://:own@r", "", ["own"]),
        ("redis://one,redis://two", "", ["geheim", "geheim"]),
        ("again=redis://r:6380,other=redis://stranger", "r", ["geheim", "", "geheim"]),
        ("tcp://r:6379,http://r", "", ["", ""]),
    ],
)
def test_the_password_goes_to_each_redis_that_has_none_and_may_be_meant(
    listed: str, host: str, expected: list[str]
) -> None:
    """Whatever its name is; where REDIS__HOST names one, no stranger gets it."""
    settings = Settings.of(OPTIONAL_SERVICES=listed, REDIS__HOST=host, REDIS__PASSWORD="geheim")
    assert [service.password for service in settings.services] == expected


def test_two_services_on_one_host_both_have_a_name() -> None:
    settings = Settings.of(OPTIONAL_SERVICES="tcp://h:1,tcp://h:2")
    assert [s.name for s in settings.services] == ["h", "h:2"]


@given(st.text(max_size=60))
def test_any_text_is_a_service_or_a_service_error(text: str) -> None:
    try:
        service = read_service(text)
    except ServiceError:
        return
    assert read_service(service.item()) == service


@pytest.mark.parametrize(
    "text", ["amqp://u:geheim@broker:5672", "broker", "mq=ftp://h", "x=", "h:0"]
)
def test_a_required_service_that_is_not_understood_is_no_service_that_answers(text: str) -> None:
    """It was dropped with a warning, and the gate passed in production without it."""
    settings = Settings.of(REQUIRED_SERVICES=text, OPTIONAL_SERVICES=f"http://h,{text}")
    required = [service for service in settings.services if service.required]
    assert len(required) == 1
    assert required[0].problem
    assert "geheim" not in required[0].problem + required[0].name
    with pytest.raises(CheckFailed, match="not understood"):
        probe_service(required[0], 5)
    checks = service_checks(settings)
    report = verify(build_board(checks, settings), production=True)
    assert not report.ok
    assert verify(build_board(checks, settings), production=False).ok
    again = Settings.of(REQUIRED_SERVICES=settings.text("REQUIRED_SERVICES"))
    assert [service for service in again.services if service.required] == required
