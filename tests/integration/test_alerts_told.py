# SPDX-License-Identifier: Apache-2.0
"""Told is what a receiver says that it took: real receivers, whose own record decides."""

import json
import re
import socket
from email import message_from_bytes
from email.header import decode_header, make_header
from typing import Any

import pytest

from edgepaas.alerts import history
from edgepaas.alerts.channels.answers import Answer
from edgepaas.alerts.channels.email_channel import EmailChannel
from edgepaas.alerts.channels.mail_message import compose_mail
from edgepaas.alerts.channels.notification import Notification
from edgepaas.alerts.channels.webhook import WebhookChannel
from edgepaas.alerts.channels.webhook_formats import find_format
from edgepaas.alerts.channels.wording import BoxIdentity
from edgepaas.alerts.spool.alert import clean_text
from edgepaas.files.paths import Paths
from tests.support.alert_box import AlertBox, make_config
from tests.support.known_receivers import KNOWN, as_known
from tests.support.receivers import (
    Reply,
    closed_port,
    mail_server,
    receiving,
    swallowing,
)

BOX = BoxIdentity("box-7", "0.1.0")
NOTICE = Notification(
    key="k-1",
    what="raised",
    severity="critical",
    fingerprint="disk",
    origin="health",
    message="the disk is 91 % full",
    condition="disk-0123",
    since=1_800_000_000.0,
    last=1_800_000_000.0,
    count=1,
    new=1,
)
FORM = {"teams connector": "teams", "teams workflow": "teams"}


def webhook(url: str, form: str = "json", **more: Any) -> WebhookChannel:
    return WebhookChannel(url, find_format(form, url), "", 5.0, **more)


def post(url: str, form: str = "json", **more: Any) -> Answer:
    return webhook(url, form, **more).send(NOTICE, BOX)


@pytest.mark.parametrize("name", KNOWN)
def test_each_receiver_takes_its_form_and_is_believed(name: str) -> None:
    taken: list[str] = []
    with receiving(as_known(name, taken)) as receiver:
        url = receiver.url.replace("/hook", "/topic") if name == "ntfy" else receiver.url
        answer = post(url, FORM.get(name, name), token="R0UT1NGKEY")
    assert answer.kind == "taken", answer
    assert len(taken) == 1


@pytest.mark.parametrize("name", ["slack", "discord", "teams connector", "ntfy"])
def test_a_token_is_a_bearers(name: str) -> None:
    with receiving(as_known(name, [])) as receiver:
        post(receiver.url, FORM.get(name, name), token="tk-1")
    assert receiver.requests[0].headers["authorization"] == "Bearer tk-1"


def test_pagerduty_has_the_end_under_the_key_of_the_beginning() -> None:
    from dataclasses import replace

    taken: list[str] = []
    over = replace(NOTICE, what="resolved", ended=1_800_000_100.0, key="k-2")
    with receiving(as_known("pagerduty", taken)) as receiver:
        channel = webhook(receiver.url, "pagerduty", token="R0UT1NGKEY")
        assert [channel.send(one, BOX).kind for one in (NOTICE, over)] == ["taken"] * 2
    first, second = (line.split(" ")[:2] for line in taken)
    assert (first[0], second[0]) == ("trigger", "resolve")
    assert first[1] == second[1]


def test_alertmanager_has_one_alert_that_holds_and_then_none() -> None:
    from dataclasses import replace

    taken: list[str] = []
    over = replace(NOTICE, what="resolved", ended=1_800_000_100.0, last=1_800_000_100.0)
    with receiving(as_known("alertmanager", taken)) as receiver:
        channel = webhook(receiver.url, "alertmanager")
        assert [channel.send(one, BOX).kind for one in (NOTICE, over)] == ["taken"] * 2
    raised, resolved = (json.loads(one) for one in taken)
    holding = [a["labels"]["severity"] for a in raised if a["endsAt"] > "2027-01-15T09"]
    assert holding == ["critical"]
    assert all(alert["endsAt"] == "2027-01-15T08:01:40Z" for alert in resolved)
    assert [a["labels"] for a in raised] == [a["labels"] for a in resolved]


def test_alertmanager_dates_what_a_box_without_a_clock_sends() -> None:
    from dataclasses import replace

    (alert,) = find_format("alertmanager", "").document(replace(NOTICE, since=5.0, last=7.0), BOX)
    assert "startsAt" not in alert
    assert "endsAt" not in alert


@pytest.mark.parametrize(
    ("form", "reply"),
    [
        (
            "teams",
            (
                200,
                {},
                "Webhook message delivery failed with error: Microsoft Teams endpoint returned"
                " HTTP error 429 with ContextId x",
            ),
        ),
        ("teams", (200, {}, "Connector configuration was removed")),
        ("teams", (202, {}, '{"error":{"code":"WorkflowTriggerIsNotEnabled"}}')),
        ("slack", (200, {}, "channel_is_archived")),
        ("slack", (200, {}, '{"ok":false,"error":"not_authed"}')),
        ("discord", (200, {}, '{"message":"Unknown Webhook","code":10015}')),
        ("discord", (200, {}, "error code: 1015")),
        ("ntfy", (200, {}, '{"code":42901,"http":429,"error":"limit reached"}')),
        ("ntfy", (200, {}, "")),
        ("pagerduty", (202, {}, '{"status":"invalid event"}')),
        ("pagerduty", (200, {}, "")),
        ("alertmanager", (200, {}, '{"status":"error","errorType":"bad_data"}')),
        ("json", (200, {}, '{"ok": false}')),
        ("json", (200, {}, '{"success":false}')),
        ("json", (200, {}, '{"status":"error"}')),
        ("json", (200, {}, '{"errcode":93000,"errmsg":"invalid webhook url"}')),
        ("json", (200, {}, '{"code":19001,"msg":"param invalid"}')),
        ("json", (200, {}, '[{"error":"no route"}]')),
        ("json", (200, {}, "Error: no such hook")),
        ("json", (200, {}, "failed to deliver")),
        ("json", (200, {}, "<!DOCTYPE html><html><title>Log in to the network</title></html>")),
        ("slack", (200, {}, "\n <html><body>ok</body></html>")),
    ],
)
def test_a_200_that_reports_a_failure_is_one(form: str, reply: Reply) -> None:
    with receiving(reply) as receiver:
        answer = post(receiver.url, form, token="R0UT1NGKEY")
    assert answer.kind == "later", answer


@pytest.mark.parametrize(
    ("form", "status", "said"),
    [
        ("pagerduty", 400, '{"status":"invalid event","errors":["Invalid routing key"]}'),
        ("pagerduty", 400, '{"message":"Event object is invalid","errors":["\'routing_key\' is"]}'),
        ("slack", 400, "user_not_found"),
        ("slack", 400, "invalid_token"),
        ("teams", 400, "Invalid webhook URL"),
        ("teams", 400, '{"error":{"code":"WorkflowTriggerIsNotEnabled","message":"State"}}'),
        ("ntfy", 400, '{"code":40009,"http":400,"error":"invalid request: topic invalid"}'),
        ("json", 400, "<html><head><title>400 Bad Request</title></head></html>"),
        ("alertmanager", 400, "Client sent an HTTP request to an HTTPS server.\n"),
        ("discord", 422, "<!DOCTYPE html><title>Unprocessable</title>"),
    ],
)
def test_a_400_about_the_address_or_the_key_kills_no_message(
    form: str, status: int, said: str
) -> None:
    with receiving((status, {}, said)) as receiver:
        answer = post(receiver.url, form, token="R0UT1NGKEY")
    assert (answer.kind, answer.reached) == ("later", False), answer


@pytest.mark.parametrize(
    ("form", "status", "said"),
    [
        ("pagerduty", 400, '{"status":"invalid event","errors":["Length of summary"]}'),
        ("slack", 400, "invalid_payload"),
        ("teams", 400, '{"error":{"code":"TriggerInputSchemaMismatch"}}'),
        ("discord", 400, '{"content":["Must be 2000 or fewer in length."]}'),
        ("json", 413, "<html><title>413 Request Entity Too Large</title></html>"),
    ],
)
def test_one_about_the_message_refuses_it(form: str, status: int, said: str) -> None:
    with receiving((status, {}, said)) as receiver:
        assert post(receiver.url, form, token="R0UT1NGKEY").kind == "refused"


@pytest.mark.parametrize(
    "said",
    ["", "ok", "OK\n", "1", '{"ok":true}', '{"error":null,"errors":[]}', '{"code":0}', "accepted",
     '{"status":"success"}', '{"status":200}', "received: 3 errors in line 7", "null", "true"],
)  # fmt: skip
def test_what_reports_no_failure_is_none(said: str) -> None:
    with receiving((200, {}, said)) as receiver:
        assert post(receiver.url).kind == "taken"


@pytest.mark.parametrize("passing", [400, 401, 403, 404, 405, 407, 410, 429, 451, 502, 504])
def test_a_passing_status_kills_no_critical_alert(passing: int, paths: Paths) -> None:
    with receiving(passing, 200) as receiver:
        box = _box(paths, receiver.url)
        box.accept("the boiler is dry", severity="critical", fingerprint="boiler")
        box.deliverer_of_channels().run()
        box.clock.forward(3600)
        box.deliverer_of_channels().run()
        assert [request.document["what"] for request in receiver.requests] == ["raised"] * 2
        assert len(set(receiver.keys)) == 1
    assert not list(box.spool.folders.dead.iterdir())
    assert [e["what"] for e in history.read(paths)] == ["delivered", "raised"]


def test_what_the_webhook_does_not_take_is_mailed_at_once(paths: Paths) -> None:
    with receiving(404) as receiver, mail_server() as mails:
        box = _box(paths, receiver.url, mails.port)
        box.accept("the boiler is dry", severity="critical", fingerprint="boiler")
        box.deliverer_of_channels().run()
    assert len(mails.mails) == 1
    assert history.read(paths)[0]["via"] == "email"


def test_the_end_is_told_to_whom_the_beginning_was(paths: Paths) -> None:
    """A receiver's own record: no [RESOLVED] of what it never had."""
    with receiving(413, 413, 413, (200, {}, "ok")) as receiver:
        box = _box(paths, receiver.url)
        box.accept("the boiler is dry", severity="critical", fingerprint="boiler")
        for _ in range(4):
            box.deliverer_of_channels().run()
            box.clock.forward(3600)
        assert len(list(box.spool.folders.dead.iterdir())) == 1
        assert box.waiting("boiler") == 1
        box.resolve("boiler", "there is water")
        box.deliverer_of_channels().run()
    taken = receiver.requests[-1].document
    assert taken["what"] == "passed"
    assert "[PASSED]" in taken["title"]
    assert "the boiler is dry" in taken["message"]


def test_a_channel_that_is_set_up_later_hears_what_holds(paths: Paths) -> None:
    box = AlertBox(paths, config=make_config(channels=()))
    box.accept("over before", fingerprint="a")
    box.accept("holds", fingerprint="b")
    box.deliver()
    box.resolve("a")
    box.deliver()
    assert (box.waiting("a"), box.waiting("b")) == (1, 1)
    with receiving((200, {}, "ok")) as receiver:
        box.config = make_config(webhook(receiver.url))
        box.deliverer_of_channels().run()
        box.resolve("b", "it is well")
        box.deliverer_of_channels().run()
    said = [(r.document["what"], r.document["message"]) for r in receiver.requests]
    assert said == [("raised", "holds"), ("resolved", "it is well")]
    assert box.waiting("b") == 0


class TestSecrets:
    URL = "/services/T0AB/B0CD/xYz9SecretPart?sig=abc%2Fdef12"

    @pytest.mark.parametrize(
        "page",
        [
            "no route for {path}",
            "<html><title>404</title><p>{path} was not found</html>",
            '{{"message":"Cannot POST {path}"}}',
            "xYz9SecretPart is unknown",
            "unknown hook XYZ9SECRETPART",
            "sig abc/def12 does not match",
            "no hook %78Yz9SecretPart",
            "no hook &#120;Yz9SecretPart",
            "no hook xYz9\\u0053ecretPart",
            "no hook xYz9Secre...",
        ],
    )
    @pytest.mark.parametrize("status", [200, 404, 500])
    def test_no_part_of_the_address_comes_back(
        self, page: str, status: int, paths: Paths, caplog: pytest.LogCaptureFixture
    ) -> None:
        said = page.format(path=self.URL)
        with receiving((status, {}, said)) as receiver:
            url = receiver.url.replace("/hook", self.URL)
            box = _box(paths, url)
            box.accept("dry", severity="critical", fingerprint="boiler")
            box.deliverer_of_channels().run()
        kept = [path.read_text() for path in paths.alerts.rglob("*.json*")]
        for text in (caplog.text, *kept, json.dumps(history.read(paths))):
            assert not re.search(r"(?i)9secre|def12|B0CD/", text)

    def test_an_answer_that_repeats_nothing_is_shown(self) -> None:
        with receiving((404, {}, "channel_not_found\x1b[2J\u202e")) as receiver:
            answer = post(receiver.url.replace("/hook", self.URL))
        assert answer.words == "it answered 404: channel_not_found [2J"

    def test_nor_does_a_mail_servers_echo_of_the_login(self) -> None:
        with mail_server(login=("box", "hunter2-hunter2"), certificate=None) as mails:
            mails.replies["MAIL"] = ["550 AGJveABodW50ZXIyLWh1bnRlcjI= or hunter2-hunter2 is wrong"]
            answer = _mail(mails.port, username="", password="hunter2-hunter2")
        assert "hunter2" not in answer.words
        assert "AGJve" not in answer.words


class TestForgery:
    NAMES = (
        "pump =?utf-8?q?x=0D=0ABcc:_evil=40example.org?=",
        "pump =?utf-8?b?eA0KQmNjOiBldmlsQGV4YW1wbGUub3Jn?= is dry",
        "pump\r\nBcc: evil@example.org",
        "pump\n\n[RESOLVED] all is well",
        "pump \u2028Bcc: evil@example.org",
        "pump \x1b[2J\x9b1A\u202eyrd",
        "pümp " * 30,
    )

    @pytest.mark.parametrize("name", NAMES)
    def test_a_subject_holds_the_name_and_adds_no_header(self, name: str) -> None:
        from dataclasses import replace

        box = BoxIdentity("=?utf-8?q?b=0D=0ACc:_e=40x.org?=", "0.1.0")
        notice = replace(NOTICE, message=clean_text(name))
        raw = compose_mail(_settings(1), notice, box)
        head, _, body = raw.partition(b"\r\n\r\n")
        names = [line.split(b":")[0] for line in head.split(b"\r\n") if line[:1] != b" "]
        assert len(names) == len(set(names)) == 12
        assert not {b"Bcc", b"Cc"} & set(names)
        assert max(map(len, raw.split(b"\r\n"))) < 998
        subject = str(make_header(decode_header(message_from_bytes(raw)["Subject"])))
        assert name[:4] in subject
        assert "\n" not in subject
        assert not re.search(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]", raw)
        assert b"\r\n[RESOLVED]" not in body

    def test_what_arrives_is_what_was_sent(self) -> None:
        from dataclasses import replace

        name = self.NAMES[0]
        with mail_server() as mails:
            answer = _channel(mails.port).send(replace(NOTICE, message=name), BOX)
        assert answer.kind == "taken"
        (mail,) = mails.mails
        assert "bcc" not in {header.lower() for header in mail}
        assert "Bcc:_evil" in mail["Subject"]

    @pytest.mark.parametrize("name", NAMES)
    def test_no_output_has_what_moves_a_cursor(self, name: str) -> None:
        from dataclasses import replace

        notice = replace(NOTICE, message=clean_text(name), details=(name,))
        for form in ("slack", "discord", "teams", "ntfy", "pagerduty", "alertmanager", "json"):
            body = find_format(form, "").body(notice, BOX, "t").decode()
            if form != "json":
                assert not re.search("[\x1b\x9b\u202e\u2028]", body), form

    def test_cards_and_chats_have_no_links_of_a_names_making(self) -> None:
        from dataclasses import replace

        notice = replace(NOTICE, message="[all is well](https://evil.example) <https://x|y> @here")
        for form in ("slack", "discord", "teams"):
            body = find_format(form, "").body(notice, BOX, "").decode()
            assert "](http" not in body, form
            if form == "slack":
                assert "<http" not in body
            if form == "discord":
                assert "\\\\<http" in body


class TestNetworks:
    def test_a_dead_family_takes_no_time_from_the_other(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A name with two addresses, of which the first swallows packets."""
        with swallowing() as dead, receiving((200, {}, "ok")) as receiver, mail_server() as mails:

            def resolve(host: str, port: Any, *_: Any, **__: Any) -> list[Any]:
                places = [dead, ("127.0.0.1", int(port))]
                return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", place) for place in places]

            monkeypatch.setattr(socket, "getaddrinfo", resolve)
            url = receiver.url.replace("127.0.0.1", "hooks.test")
            assert post(url).kind == "taken"
            assert _mail(mails.port, host="mail.test").kind == "taken"

    @pytest.mark.parametrize("first", ["refused", "unroutable"])
    def test_nor_does_one_that_fails(self, first: str, monkeypatch: pytest.MonkeyPatch) -> None:
        place = ("127.0.0.1", 1) if first == "refused" else ("255.255.255.255", 1)
        with receiving((200, {}, "ok")) as receiver:

            def resolve(host: str, port: Any, *_: Any, **__: Any) -> list[Any]:
                places = [place, ("127.0.0.1", int(port))]
                return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", one) for one in places]

            monkeypatch.setattr(socket, "getaddrinfo", resolve)
            assert post(receiver.url.replace("127.0.0.1", "hooks.test")).kind == "taken"

    def test_a_proxy_is_asked_for_every_address(self) -> None:
        with receiving((200, {}, "ok")) as proxy:
            url = "http://hooks.example.test/x"
            assert post(url, proxy=f"http://127.0.0.1:{proxy.port}").kind == "taken"
        assert proxy.requests[0].path == url

    @pytest.mark.parametrize("scheme", ["http", "https"])
    def test_a_proxy_that_is_away_is_said_to_be(self, scheme: str) -> None:
        answer = post(f"{scheme}://x.test/", proxy=f"http://127.0.0.1:{closed_port()}")
        assert (answer.kind, answer.down) == ("later", True)
        assert "the proxy itself" in answer.words
        assert "refused" in answer.words

    @pytest.mark.parametrize("status", [403, 407, 502])
    def test_so_is_one_that_lets_nothing_through(self, status: int) -> None:
        with receiving(200) as proxy:
            proxy.tunnels = status
            answer = post("https://x.test/", proxy=f"http://127.0.0.1:{proxy.port}")
        assert (answer.kind, answer.down) == ("later", True)
        assert f"it answered {status}" in answer.words

    def test_a_proxys_login_is_sent_and_not_shown(self) -> None:
        with receiving((407, {}, "who is ab:geheim99? YWI6Z2VoZWltOTk=")) as proxy:
            answer = post("http://x.test/", proxy=f"http://ab:geheim99@127.0.0.1:{proxy.port}")
        assert proxy.requests[0].headers["proxy-authorization"].startswith("Basic ")
        assert (answer.kind, answer.down) == ("later", True)
        assert "geheim" not in answer.words


class TestGreeting:
    @pytest.mark.parametrize(
        ("host", "helo", "said"),
        [
            ("edge1", "", "[127.0.0.1]"),
            ("edge1.plant.example", "", "edge1.plant.example"),
            ("edge_1.plant", "", "[127.0.0.1]"),
            ("edge1", "mail.plant.example", "mail.plant.example"),
        ],
    )
    def test_it_is_a_name_with_a_dot_or_an_address(
        self, host: str, helo: str, said: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(socket, "gethostname", lambda: host)
        with mail_server() as mails:
            assert _mail(mails.port, helo=helo).kind == "taken"
        assert mails.greetings[-1] == said

    @pytest.mark.parametrize("reply", ["504 5.5.2 need fully-qualified hostname", "550 go away"])
    def test_a_greeting_that_is_refused_is_no_fault_of_the_message(self, reply: str) -> None:
        for command in ("MAIL", "RCPT"):
            with mail_server() as mails:
                mails.replies[command] = [reply] * 2
                answer = _mail(mails.port)
            assert (answer.kind, answer.down, answer.reached) == ("later", True, False)


def _box(paths: Paths, url: str, mail_port: int = 0) -> AlertBox:
    channels: list[Any] = [webhook(url)]
    if mail_port:
        channels.append(_channel(mail_port))
    return AlertBox(paths, config=make_config(*channels))


def _settings(port: int, **changes: Any) -> EmailChannel:
    values = {
        "host": "127.0.0.1",
        "port": port,
        "security": "none",
        "username": "",
        "password": "",
        "sender": "edgepaas@plant.example",
        "to": ("anna@example.org",),
        "timeout": 5.0,
    }
    return EmailChannel(**{**values, **changes})


_channel = _settings


def _mail(port: int, **changes: Any) -> Answer:
    return _channel(port, **changes).send(NOTICE, BOX)
