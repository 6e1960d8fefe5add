# SPDX-License-Identifier: Apache-2.0
"""Real receivers: HTTP and SMTP that accept, refuse, put off, hang, drip, reset and redirect."""

import contextlib
import hashlib
import hmac
import socket
import struct
import time
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path

import pytest
import trustme

from edgepaas.alerts.channels.answers import Answer
from edgepaas.alerts.channels.email_channel import EmailChannel
from edgepaas.alerts.channels.notification import Notification
from edgepaas.alerts.channels.webhook import WebhookChannel
from edgepaas.alerts.channels.webhook_formats import find_format
from edgepaas.alerts.channels.wording import BoxIdentity
from tests.support.receivers import (
    Reply,
    closed_port,
    drip,
    hang,
    mail_server,
    receiving,
    reset,
)

BOX = BoxIdentity("box-7", "0.1.0")
NOTICE = Notification(
    key="k-1",
    what="raised",
    severity="critical",
    fingerprint="disk",
    origin="health",
    message="the disk is 91 % full: make room & <call> @everyone",
    condition="disk-0123",
    since=1_800_000_000.0,
    last=1_800_000_000.0,
    count=3,
    new=3,
)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def trusted(
    authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[trustme.CA]:
    """The authority is one that this box trusts."""
    with authority.cert_pem.tempfile(dir=str(tmp_path)) as file:
        monkeypatch.setenv("SSL_CERT_FILE", file)
        yield authority


def post(url: str, *, timeout: float = 5.0, secret: str = "", form: str = "json") -> Answer:
    return WebhookChannel(url, find_format(form, url), secret, timeout).send(NOTICE, BOX)


class TestWebhook:
    def test_it_takes_the_whole_notice_under_its_key(self) -> None:
        with receiving(204) as receiver:
            answer = post(receiver.url, secret="s3cret")
        assert answer.kind == "taken"
        (request,) = receiver.requests
        assert request.key == "k-1"
        document = request.document
        assert (document["severity"], document["count"], document["box"]) == (
            "critical",
            3,
            "box-7",
        )
        assert document["since"] == "2027-01-15T08:00:00Z"
        expected = hmac.new(b"s3cret", request.body, hashlib.sha256).hexdigest()
        assert request.headers["x-edgepaas-signature"] == f"sha256={expected}"

    @pytest.mark.parametrize(
        ("form", "path"),
        [("slack", ("text",)), ("discord", ("content",)), ("teams", ("attachments",))],
    )
    def test_other_forms_say_what_on_which_box_since_when_and_what_to_do(
        self, form: str, path: tuple[str]
    ) -> None:
        said_ok: dict[str, Reply] = {
            "slack": (200, {}, "ok"),
            "discord": (204, {}, ""),
            "teams": (202, {}, ""),
        }
        with receiving(said_ok[form]) as receiver:
            assert post(receiver.url, form=form).kind == "taken"
        said = str(receiver.requests[0].document[path[0]])
        for part in ("91 %", "box-7", "2027-01-15 08:00:00 UTC", "edgepaas alerts show disk-0123"):
            assert part in said
        if form == "slack":
            assert "&amp; &lt;call&gt;" in said
        if form == "discord":
            assert receiver.requests[0].document["allowed_mentions"] == {"parse": []}

    @pytest.mark.parametrize(
        ("reply", "kind", "reached"),
        [
            (500, "later", True),
            (503, "later", True),
            (429, "later", False),
            (408, "later", False),
            (400, "refused", False),
            (413, "refused", False),
            (422, "refused", False),
            (401, "later", False),
            (403, "later", False),
            (404, "later", False),
            (407, "later", False),
            (410, "later", False),
            (reset, "later", True),
        ],
    )
    def test_what_an_answer_means(self, reply: Reply, kind: str, reached: bool) -> None:
        with receiving(reply) as receiver:
            answer = post(receiver.url)
        assert (answer.kind, answer.reached) == (kind, reached)

    def test_retry_after_in_seconds_and_as_a_date_by_the_servers_clock(self) -> None:
        long_ago = 1_000_000_000
        date = {
            "Date": formatdate(long_ago, usegmt=True),
            "Retry-After": formatdate(long_ago + 90, usegmt=True),
        }
        with receiving((429, {"Retry-After": "17"}), (503, date)) as receiver:
            assert post(receiver.url).retry_after == 17
            assert post(receiver.url).retry_after == pytest.approx(90, abs=2)

    @pytest.mark.parametrize("slowness", [hang, drip])
    def test_its_deadline_is_a_real_one(self, slowness: Reply) -> None:
        with receiving(slowness) as receiver:
            started = time.monotonic()
            answer = post(receiver.url, timeout=0.6)
            assert time.monotonic() - started < 5
        assert (answer.kind, answer.reached, answer.down) == ("later", True, True)

    def test_nobody_there_is_known_not_to_have_it(self) -> None:
        answer = post(f"http://127.0.0.1:{closed_port()}/")
        assert (answer.kind, answer.reached, answer.down) == ("later", False, True)
        assert "refused" in answer.words.lower()

    def test_so_is_a_network_that_swallows_everything(self) -> None:
        """What may have been received is kept as it is; days later it would be stale."""
        with socket.socket() as deaf, contextlib.ExitStack() as callers:
            deaf.bind(("127.0.0.1", 0))
            deaf.listen(0)
            for _ in range(4):  # its queue is full: who comes now is not answered
                caller = callers.enter_context(socket.socket())
                caller.setblocking(False)
                caller.connect_ex(deaf.getsockname())
            answer = post(f"http://127.0.0.1:{deaf.getsockname()[1]}/", timeout=0.4)
        assert (answer.kind, answer.reached, answer.down) == ("later", False, True)

    def test_so_is_a_name_that_does_not_exist(self) -> None:
        answer = post("http://nowhere.invalid/")
        assert (answer.kind, answer.reached, answer.down) == ("later", False, True)

    @pytest.mark.parametrize("status", [301, 302, 307, 308])
    def test_no_redirect_to_another_host_is_followed(self, status: int) -> None:
        with receiving(200) as other, receiving((status, {"Location": other.url})) as receiver:
            answer = post(receiver.url, secret="s3cret")
        assert not other.requests
        assert (answer.kind, answer.down) == ("later", True)
        assert f"127.0.0.1:{other.port}" in answer.words

    def test_one_on_the_same_host_keeps_method_body_and_key(self) -> None:
        with receiving((308, {"Location": "/there"}), 200) as receiver:
            assert post(receiver.url).kind == "taken"
        first, second = receiver.requests
        assert (second.method, second.path, second.body, second.key) == (
            "POST",
            "/there",
            first.body,
            "k-1",
        )

    def test_redirects_come_to_an_end(self) -> None:
        with receiving((307, {"Location": "/round"})) as receiver:
            assert post(receiver.url).kind == "later"
        assert len(receiver.requests) == 4

    def test_tls_is_verified(self, authority: trustme.CA) -> None:
        with receiving(200, certificate=authority.issue_cert("127.0.0.1")) as receiver:
            answer = post(receiver.url)
        assert not receiver.requests
        assert (answer.kind, answer.reached) == ("later", False)
        assert "certificate" in answer.words

    def test_what_the_box_trusts_is_trusted(self, trusted: trustme.CA) -> None:
        with receiving(200, certificate=trusted.issue_cert("127.0.0.1")) as receiver:
            assert post(receiver.url).kind == "taken"

    def test_another_hosts_certificate_is_not(self, trusted: trustme.CA) -> None:
        with receiving(200, certificate=trusted.issue_cert("other.example")) as receiver:
            assert post(receiver.url).kind == "later"
        assert not receiver.requests

    def test_no_login_of_a_netrc_is_sent(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        netrc = tmp_path / "netrc"
        netrc.write_text("machine 127.0.0.1 login me password secret\n")
        netrc.chmod(0o600)
        monkeypatch.setenv("NETRC", str(netrc))
        with receiving(200) as receiver:
            post(receiver.url)
        assert "authorization" not in receiver.requests[0].headers


def mail_channel(port: int, **changes: object) -> EmailChannel:
    values = {
        "host": "127.0.0.1",
        "port": port,
        "security": "none",
        "username": "",
        "password": "",
        "sender": "edgepaas@box-7.example",
        "to": ("anna@example.org", "bert@example.org"),
        "timeout": 5.0,
        **changes,
    }
    return EmailChannel(**values)  # type: ignore[arg-type]


def send(port: int, **changes: object) -> Answer:
    return mail_channel(port, **changes).send(NOTICE, BOX)


class TestMail:
    def test_it_takes_a_message_that_a_person_can_read(self) -> None:
        with mail_server() as box:
            answer = send(box.port)
        assert answer.kind == "taken", answer
        (mail,) = box.mails
        assert mail["Subject"].startswith("[CRITICAL] box-7: the disk is 91 % full")
        assert mail["Message-ID"] == "<k-1@box-7.example>"
        assert mail["To"] == "anna@example.org, bert@example.org"
        assert mail["Auto-Submitted"] == "auto-generated"
        body = mail.get_content()  # type: ignore[attr-defined]
        for part in ("91 %", "box-7", "2027-01-15 08:00:00 UTC", "edgepaas alerts show disk-0123"):
            assert part in body

    def test_starttls_and_login(self, trusted: trustme.CA) -> None:
        certificate = trusted.issue_cert("127.0.0.1")
        login = ("box", "pass word")
        with mail_server(certificate=certificate, starttls=True, login=login) as box:
            answer = send(box.port, security="starttls", username="box", password="pass word")
        assert answer.kind == "taken", answer
        assert box.logins == ["box"]

    def test_tls_from_the_first_byte(self, trusted: trustme.CA) -> None:
        with mail_server(certificate=trusted.issue_cert("127.0.0.1")) as box:
            assert send(box.port, security="tls").kind == "taken"

    @pytest.mark.parametrize("security", ["starttls", "tls"])
    def test_a_certificate_of_nobody_is_not_trusted(
        self, authority: trustme.CA, security: str
    ) -> None:
        certificate = authority.issue_cert("127.0.0.1")
        with mail_server(certificate=certificate, starttls=security == "starttls") as box:
            answer = send(box.port, security=security, username="box", password="secret")
        assert (answer.kind, answer.reached) == ("later", False)
        assert "certificate" in answer.words.lower()
        assert not box.logins

    def test_without_starttls_nothing_is_said_in_the_clear(self) -> None:
        with mail_server() as box:
            answer = send(box.port, security="starttls", username="box", password="secret")
        assert answer.kind == "later"
        assert "STARTTLS" in answer.words
        assert not box.mails

    def test_a_wrong_login_is_mended_later_and_loses_nothing(self, trusted: trustme.CA) -> None:
        certificate = trusted.issue_cert("127.0.0.1")
        with mail_server(certificate=certificate, starttls=True, login=("a", "b")) as box:
            answer = send(box.port, security="starttls", username="a", password="wrong")
        assert (answer.kind, answer.down) == ("later", True)
        assert "login" in answer.words
        assert "wrong" not in answer.words

    def test_greylisting_is_later_and_then_taken(self) -> None:
        with mail_server() as box:
            box.replies["RCPT"] = ["451 4.7.1 try again later"] * 2
            assert send(box.port).kind == "later"
            assert send(box.port).kind == "taken"

    def test_refused_recipients_are_no_fault_of_the_message(self) -> None:
        with mail_server() as box:
            box.replies["RCPT"] = ["550 no such user"] * 2
            answer = send(box.port)
        assert (answer.kind, answer.down) == ("later", True)
        assert "no such user" in answer.words

    def test_one_recipient_is_enough_and_the_other_is_named(self) -> None:
        with mail_server() as box:
            box.replies["RCPT"] = ["550 no such user"]
            answer = send(box.port)
        assert answer.kind == "taken"
        assert "not to anna@example.org" in answer.words

    @pytest.mark.parametrize(
        ("at", "reply", "kind", "reached"),
        [
            ("MAIL", "hang", "later", False),
            ("DATA", "hang", "later", True),
            ("AFTER", "hang", "later", True),
            ("AFTER", "drop", "later", True),
            ("MAIL", "drop", "later", False),
            ("DATA", "554 spam", "refused", False),
            ("DATA", "552 5.3.4 too big", "refused", False),
            ("DATA", "554 5.7.1 your address is on a list", "later", False),
            ("DATA", "550 5.1.8 the sender's domain does not exist", "later", False),
            ("MAIL", "550 relaying denied", "later", False),
            ("DATA", "452 full", "later", False),
        ],
    )
    def test_where_it_stops_tells_whether_it_may_have_arrived(
        self, at: str, reply: str, kind: str, reached: bool
    ) -> None:
        with mail_server() as box:
            box.replies[at] = [reply]
            answer = send(box.port, timeout=1.0)
        assert (answer.kind, answer.reached) == (kind, reached), answer

    def test_a_server_that_says_nothing_is_given_up(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            answer = send(silent.getsockname()[1], host="127.0.0.1", timeout=0.5)
        assert (answer.kind, answer.reached, answer.down) == ("later", False, True), answer

    def test_one_that_resets_too(self) -> None:
        import threading

        with socket.create_server(("127.0.0.1", 0)) as server:

            def once() -> None:
                connection, _ = server.accept()
                linger = struct.pack("ii", 1, 0)
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                connection.close()

            thread = threading.Thread(target=once)
            thread.start()
            answer = send(server.getsockname()[1], host="127.0.0.1")
            thread.join(5)
        assert (answer.kind, answer.reached) == ("later", False)

    def test_nobody_there(self) -> None:
        answer = send(closed_port(), host="127.0.0.1")
        assert (answer.kind, answer.reached, answer.down) == ("later", False, True)

    def test_an_address_that_is_none_is_said(self) -> None:
        answer = send(1, to=("nobody",))
        assert (answer.kind, answer.down) == ("later", True)
        assert "ALERT_EMAIL_TO" in answer.words
