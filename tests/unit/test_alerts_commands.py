# SPDX-License-Identifier: Apache-2.0
"""``edgepaas alert`` and ``edgepaas alerts``: on a sound box and on one of which little is left."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import pytest

from edgepaas.alerts import counts, history, raise_alert
from edgepaas.alerts.channels.answers import Answer
from edgepaas.alerts.channels.config import load_config, read_config
from edgepaas.alerts.channels.email_channel import EmailChannel
from edgepaas.alerts.channels.notification import Notification
from edgepaas.alerts.channels.table import CHANNELS
from edgepaas.alerts.channels.webhook import WebhookChannel
from edgepaas.alerts.channels.webhook_formats import FORMATS, find_format
from edgepaas.alerts.channels.wording import BoxIdentity
from edgepaas.alerts.conditions.listing import list_conditions
from edgepaas.alerts.delivery.heartbeat import beat, seconds_until_heartbeat
from edgepaas.alerts.delivery.run import deliver_once
from edgepaas.alerts.status import mark_waiting
from edgepaas.cli import main
from edgepaas.errors import EXIT_FAILED
from edgepaas.files.paths import Paths
from edgepaas.settings import SETTINGS, Settings
from edgepaas.settings.derive import derive
from edgepaas.settings.table import CHANNEL_SETTINGS
from tests.support.alert_box import REFUSED, TAKEN, AlertBox, make_config
from tests.support.receivers import closed_port, receiving

Output = pytest.CaptureFixture[str]


@pytest.fixture
def box(paths: Paths) -> AlertBox:
    return AlertBox(paths)


def configure(paths: Paths, **settings: str) -> None:
    Settings.of(**settings).write(paths.env_contract)


class TestAlert:
    def test_it_is_kept_and_said_where(self, paths: Paths, capsys: Output) -> None:
        assert main(["alert", "it broke", "--severity", "critical", "--fingerprint", "x"]) == 0
        path = Path(capsys.readouterr().out.removeprefix("accepted: ").strip())
        assert json.loads(path.read_text())["message"] == "it broke"

    def test_resolving_what_is_not_raised_keeps_nothing(self, paths: Paths, capsys: Output) -> None:
        assert main(["alert", "fine", "--fingerprint", "x", "--resolve"]) == 0
        assert "nothing is raised" in capsys.readouterr().out
        assert not paths.alerts.exists() or not list((paths.alerts / "new").iterdir())

    @pytest.mark.parametrize("arguments", [["  "], ["fine", "--resolve"]])
    def test_what_makes_no_sense_is_said(self, arguments: list[str], capsys: Output) -> None:
        assert main(["alert", *arguments]) == 2

    def test_a_spool_that_cannot_be_written_is_said(
        self, paths: Paths, capsys: Output, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("EDGEPAAS_HOME", "/proc/nowhere")
        assert main(["alert", "it broke"]) == 1
        assert "cannot be kept" in capsys.readouterr().err

    def test_it_needs_nothing_but_the_standard_library_and_no_settings(
        self, paths: Paths, tmp_path: Path
    ) -> None:
        """Half of the installed tree is gone, and the contracts are rubbish."""
        paths.env_contract.write_text("\0rubbish")
        script = """
import sys
for name in ("sqlalchemy", "flask", "requests", "pg8000", "alembic", "psutil", "marshmallow",
             "edgepaas.settings", "edgepaas.database", "edgepaas.health", "edgepaas.build"):
    sys.modules[name] = None
from edgepaas.cli import main
sys.exit(main(["alert", "help"]))
"""
        subprocess.run(
            [sys.executable, "-S", "-c", script],
            env={"EDGEPAAS_HOME": paths.home},
            cwd=Path(__file__).resolve().parents[2],
            check=True,
            capture_output=True,
        )
        assert len(list((paths.alerts / "new").iterdir())) == 1


class TestAlerts:
    def test_list_shows_what_holds_also_before_it_was_taken_in(
        self, paths: Paths, capsys: Output
    ) -> None:
        raise_alert("the disk is full", severity="critical", fingerprint="disk")
        assert main(["alerts", "list"]) == 0
        assert "the disk is full" in capsys.readouterr().out
        assert len(list((paths.alerts / "new").iterdir())) == 1
        deliver_once(paths)
        assert main(["alerts", "list", "--json"]) == 0
        (entry,) = json.loads(capsys.readouterr().out)["conditions"]
        assert (entry["state"], entry["count"], entry["undelivered"]) == ("raised", 1, 1)
        assert entry["delivered"]["unheard"] == "log"
        assert main(["alerts", "list"]) == 0
        assert "no: log only" in capsys.readouterr().out

    def test_show_tells_all_with_the_history(self, paths: Paths, capsys: Output) -> None:
        raise_alert("the disk is full", fingerprint="disk")
        deliver_once(paths)
        assert main(["alerts", "show", "disk"]) == 0
        said = capsys.readouterr().out
        assert "logged raised" in said
        assert '"state": "raised"' in said
        assert main(["alerts", "show", "nothing"]) == 2

    def test_deliver_without_channels_tells_the_log(
        self, paths: Paths, capsys: Output, caplog: pytest.LogCaptureFixture
    ) -> None:
        raise_alert("the disk is full", fingerprint="disk")
        assert main(["alerts", "deliver"]) == 0
        said = capsys.readouterr().out
        assert "0 delivered" in said
        assert "1 in the log alone" in said

    def test_test_says_what_each_channel_answered(self, paths: Paths, capsys: Output) -> None:
        with receiving(200) as receiver:
            configure(
                paths,
                ALERT_WEBHOOK_URL=receiver.url,
                ALERT_EMAIL_TO="a@example.org",
                SMTP__HOST="127.0.0.1",
                SMTP__PORT=str(closed_port()),
            )
            assert main(["alerts", "test"]) == 1
            said = capsys.readouterr().out
            assert "webhook      ok: it answered 200" in said
            assert "email        FAILED: cannot be reached" in said
            assert receiver.requests[0].document["what"] == "test"

    def test_test_without_channels_names_the_settings(self, paths: Paths, capsys: Output) -> None:
        assert main(["alerts", "test"]) == 1
        assert "ALERT_WEBHOOK_URL" in capsys.readouterr().out

    def test_retry_sends_what_was_dead_under_its_key(self, paths: Paths, capsys: Output) -> None:
        with receiving(400, 400, 400, 200) as receiver:
            configure(paths, ALERT_WEBHOOK_URL=receiver.url)
            raise_alert("it broke", fingerprint="x")
            deliver_once(paths, linger=60.0)
            assert counts(paths).dead == 1
            assert main(["alerts", "retry"]) == 0
            assert len(set(receiver.keys)) == 1
        assert counts(paths).dead == 0
        assert "1 delivered" in capsys.readouterr().out

    def test_retry_does_not_wait_for_a_pause(self, paths: Paths, capsys: Output) -> None:
        with receiving((429, {"Retry-After": "3600"}), 200) as receiver:
            configure(paths, ALERT_WEBHOOK_URL=receiver.url)
            raise_alert("it broke", fingerprint="x")
            deliver_once(paths)
            deliver_once(paths)
            assert len(receiver.requests) == 1
            assert main(["alerts", "retry"]) == 0
            assert len(receiver.requests) == 2

    def test_discard_forgets_what_waits_and_what_is_dead(
        self, box: AlertBox, paths: Paths, capsys: Output
    ) -> None:
        box.answers = {"webhook": REFUSED, "email": REFUSED}
        box.accept("dead", fingerprint="d")
        for _ in range(3):
            box.deliver()
            box.clock.forward(60)
        raise_alert("it broke", fingerprint="x")
        assert main(["alerts", "discard", "x", "--dead"]) == 0
        assert list_conditions(paths, everything=True)[0]["fingerprint"] == "d"
        assert counts(paths).dead == 0
        assert history.read(paths, what="discarded")
        assert main(["alerts", "discard", "x"]) == 2
        assert main(["alerts", "discard"]) == 2


class TestSilence:
    def test_nobody_is_told_of_what_came_and_went(self, box: AlertBox) -> None:
        box.accept("before", fingerprint="disk")
        box.deliver()
        self.silence(box, "*", 3600)
        box.resolve("disk")
        box.accept("new", fingerprint="sync", severity="critical")
        box.resolve("sync")
        box.accept("holds", fingerprint="holds")
        box.accept("an event")
        box.deliver()
        assert len(box.taken) == 1
        box.clock.forward(3601)
        box.deliver()
        assert sorted(what for what, _ in box.told) == ["raised", "raised", "resolved"]
        box.clock.forward(3601)
        box.deliver()
        assert len(box.taken) == 3
        silenced = history.read(box.paths, what="silenced")
        assert {entry["message"] for entry in silenced} == {"new", "an event"}

    def test_only_what_the_pattern_names(self, box: AlertBox) -> None:
        self.silence(box, "disk*", 3600)
        box.accept("silent", fingerprint="disk-full")
        box.accept("loud", fingerprint="sync")
        box.deliver()
        assert box.told == [("raised", "loud")]

    def test_it_ends_by_the_clock_that_runs_since_boot(self, box: AlertBox) -> None:
        self.silence(box, "*", 3600)
        box.accept(fingerprint="x")
        box.clock.now = type(box.clock.now)(5.0, box.clock.now.since_boot + 3601, "boot-1")
        box.deliver()
        assert len(box.taken) == 1

    def test_it_holds_over_a_reboot_but_not_when_the_clock_was_set_back(
        self, box: AlertBox
    ) -> None:
        self.silence(box, "*", 3600)
        box.accept(fingerprint="x")
        box.clock.reboot()
        box.deliver()
        assert not box.taken
        box.clock.reboot(wall=5.0)
        box.deliver()
        assert len(box.taken) == 1

    def test_by_the_command(self, paths: Paths, capsys: Output) -> None:
        assert main(["alerts", "silence", "disk*", "--for", "2h", "--reason", "works"]) == 0
        assert main(["alerts", "silence"]) == 0
        assert "disk*" in capsys.readouterr().out
        assert main(["alerts", "silence", "disk*", "--end"]) == 0
        assert "1 ended" in capsys.readouterr().out
        assert main(["alerts", "silence", "--for", "a while"]) == 2

    @staticmethod
    def silence(box: AlertBox, pattern: str, seconds: float) -> None:
        from edgepaas.alerts.conditions.silences import add_silence

        box.spool.folders.prepare()
        add_silence(box.spool.folders, pattern, seconds, "", box.clock())


class TestHistory:
    def test_pages_and_filters(self, box: AlertBox) -> None:
        for number in range(5):
            box.accept(f"number {number}", fingerprint=f"f{number}")
        box.deliver()
        everything = history.read(box.paths, limit=1000)
        assert len(everything) == 10
        first = history.read(box.paths, limit=4)
        second = history.read(box.paths, limit=1000, before=first[-1]["id"])
        assert first + second == everything
        assert [e["what"] for e in history.read(box.paths, fingerprint="f3")] == [
            "delivered",
            "raised",
        ]

    def test_torn_and_repeated_lines_are_passed_over(self, box: AlertBox) -> None:
        box.accept(fingerprint="x")
        box.deliver()
        file = box.paths.alerts / "history.jsonl"
        lines = file.read_bytes()
        file.write_bytes(lines + lines + b'{"what": "delivered", "id": 3, \xff')
        box.clock.forward(60)
        box.resolve("x")
        box.deliver()
        assert [e["what"] for e in history.read(box.paths)] == [
            "delivered",
            "resolved",
            "delivered",
            "raised",
        ]


class TestSettings:
    @pytest.mark.parametrize(
        ("url", "form"),
        [
            ("https://hooks.slack.com/services/T/B/x", "slack"),
            ("https://discord.com/api/webhooks/1/x", "discord"),
            ("https://discord.com/api/webhooks/1/x/slack", "slack"),
            ("https://contoso.webhook.office.com/webhookb2/x", "teams"),
            ("https://prod-1.westeurope.logic.azure.com:443/workflows/x", "teams"),
            ("https://alerts.example.org/hooks.slack.com/", "json"),
            ("https://evildiscord.com/api/webhooks/1", "json"),
        ],
    )
    def test_the_form_follows_from_the_address(self, url: str, form: str) -> None:
        assert find_format("auto", url).name == form
        assert find_format("json", url).name == "json"

    def test_the_setting_offers_each_form_of_the_table_and_no_other(self) -> None:
        choices = SETTINGS["ALERT_WEBHOOK_FORMAT"].choices
        assert sorted(choices) == sorted(["auto", *(form.name for form in FORMATS)])

    def test_the_mail_server_is_no_service_to_watch(self) -> None:
        settings = Settings.of(SMTP__HOST="mail.example.org", SMTP__PORT="25")
        assert not settings.services

    def test_without_a_sender_the_box_writes_as_itself(self) -> None:
        config = read_config(
            Settings.of(NODE_NAME="Box 7", ALERT_EMAIL_TO="a@b.example", SMTP__HOST="mail.example")
        )
        (email,) = config.channels
        assert isinstance(email, EmailChannel)
        assert email.sender == "edgepaas@b.example"

    @pytest.mark.parametrize(
        ("given", "sender"),
        [
            ({"NODE_NAME": "box7.plant.example"}, "edgepaas@box7.plant.example"),
            ({"SMTP__USERNAME": "plant@mail.example"}, "plant@mail.example"),
            ({"SMTP__USERNAME": "plant"}, "edgepaas@b.example"),
            ({"ALERT_EMAIL_FROM": "a@c.example"}, "a@c.example"),
        ],
    )
    def test_its_sender_has_a_domain_with_a_dot(self, given: dict[str, str], sender: str) -> None:
        names = {"NODE_NAME": "box7", "ALERT_EMAIL_TO": "a@b.example", "SMTP__HOST": "m.example"}
        (email,) = read_config(Settings.of(**{**names, **given})).channels
        assert isinstance(email, EmailChannel)
        assert email.sender == sender

    def test_a_name_that_was_pasted_with_a_line_separator_breaks_no_subject(self) -> None:
        assert read_config(Settings.of(NODE_NAME="box\u20287")).box.name == "box 7"

    def test_when_the_environment_stage_failed_the_last_known_channels_serve(
        self, paths: Paths
    ) -> None:
        configure(paths, ALERT_WEBHOOK_URL="http://known.example/", ALERT_WINDOW="5")
        deliver_once(paths)
        paths.env_contract.unlink()
        config = load_config(paths)
        (webhook,) = config.channels
        assert isinstance(webhook, WebhookChannel)
        assert webhook.url == "http://known.example/".rstrip("/")
        assert config.window == 5

    def test_or_those_of_the_file_that_somebody_is_mending(
        self, paths: Paths, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        configure(paths, ALERT_WEBHOOK_URL="http://known.example/x")
        deliver_once(paths)
        paths.env_contract.unlink()
        paths.env_file.write_text("ALERT_WEBHOOK_URL=http://mended.example/x\nBOTH_DB=maybe\n")
        config = load_config(paths)
        (webhook,) = config.channels
        assert isinstance(webhook, WebhookChannel)
        assert webhook.url == "http://mended.example/x"

    def test_a_secret_reaches_no_log_and_no_other_user(
        self, paths: Paths, caplog: pytest.LogCaptureFixture
    ) -> None:
        secret = "T0000-very-secret"
        configure(paths, ALERT_WEBHOOK_URL=f"http://127.0.0.1:{closed_port()}/{secret}")
        raise_alert("it broke", fingerprint="x")
        deliver_once(paths, linger=0)
        for path in paths.alerts.rglob("*"):
            if path.is_file():
                assert path.stat().st_mode & 0o077 == 0, path
        assert secret not in paths.alerts_status.read_text()
        assert secret not in caplog.text


class TestHeartbeat:
    def test_it_is_asked_for_while_the_box_is_well(self, box: AlertBox, paths: Paths) -> None:
        box.config = make_config(heartbeat_url="http://dead.man/", heartbeat_interval=300.0)
        folders = box.spool.folders
        folders.prepare()
        asked: list[str] = []

        def ask(url: str, _: float) -> Any:
            asked.append(url)
            return TAKEN

        with receiving(200) as service:
            paths.address.write_text(f"http://127.0.0.1:{service.port}\n")
            assert beat(paths, folders, box.config, box.clock(), ask_for=ask)
            assert not beat(paths, folders, box.config, box.clock(), ask_for=ask)
            box.clock.forward(280)
            assert beat(paths, folders, box.config, box.clock(), ask_for=ask)
        assert asked == ["http://dead.man/"] * 2

    def test_a_box_whose_service_is_away_sends_none(self, box: AlertBox, paths: Paths) -> None:
        box.config = make_config(heartbeat_url="http://dead.man/")
        box.spool.folders.prepare()
        paths.address.write_text(f"http://127.0.0.1:{closed_port()}\n")
        assert not beat(paths, box.spool.folders, box.config, box.clock(), ask_for=lambda *_: TAKEN)
        assert seconds_until_heartbeat(box.spool.folders, box.config, box.clock()) == 0

    def test_without_one_there_is_nothing_to_wait_for(self, box: AlertBox) -> None:
        assert seconds_until_heartbeat(box.spool.folders, box.config, box.clock()) is None


class TestTheTimersMark:
    """ConditionPathExists= of the unit: without the file no process is started."""

    def test_it_is_there_while_something_waits_and_gone_after(self, paths: Paths) -> None:
        mark = paths.alerts / "waiting"
        with receiving((429, {"Retry-After": "60"}), 200) as receiver:
            configure(paths, ALERT_WEBHOOK_URL=receiver.url)
            raise_alert("it broke", fingerprint="x")
            deliver_once(paths)
            assert mark.exists()
            assert main(["alerts", "retry"]) == 0
        assert not mark.exists()

    def test_new_settings_set_it(self, paths: Paths, capsys: Output) -> None:
        deliver_once(paths)
        assert main(["env"]) == 0
        assert (paths.alerts / "waiting").exists()

    def test_a_box_that_never_raised_anything_has_no_folder_for_it(self, paths: Paths) -> None:
        mark_waiting(paths, waiting=True)
        assert not paths.alerts.exists()


class TestWatch:
    def test_it_starts_a_run_for_each_alert_and_what_is_due_until_it_is_told_to_end(
        self, paths: Paths
    ) -> None:
        with receiving((503, {"Retry-After": "1"}), 200) as receiver:
            configure(paths, ALERT_WEBHOOK_URL=receiver.url)
            with watching(paths) as process:
                raise_alert("it broke", fingerprint="x")
                wait_for(lambda: len(receiver.requests) >= 2)
                raise_alert("it got worse", fingerprint="x", severity="critical")
                wait_for(lambda: len(receiver.requests) >= 3)
                process.send_signal(signal.SIGTERM)
                assert process.wait(20) == 0
        assert receiver.keys[0] == receiver.keys[1] != receiver.keys[2]


@contextmanager
def watching(paths: Paths) -> Iterator[subprocess.Popen[bytes]]:
    """``edgepaas alerts deliver --watch`` in the background."""
    process = subprocess.Popen(
        [sys.executable, "-m", "edgepaas", "alerts", "deliver", "--watch"],
        env={"EDGEPAAS_HOME": paths.home},
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait(10)


def wait_for(look: Callable[[], bool], limit: float = 30.0) -> None:
    end = time.monotonic() + limit
    while not look():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


@dataclass(frozen=True)
class Pigeon:
    """A channel of this test's own: all that a new one has to be."""

    name: ClassVar[str] = "pigeon"

    loft: str
    carried: ClassVar[list[str]] = []

    @classmethod
    def configured(cls, settings: Settings) -> Self | None:
        return cls(loft=settings.text("NODE_NAME"))

    def send(self, notification: Notification, box: BoxIdentity) -> Answer:
        self.carried.append(f"{box.name}: {notification.message}")
        return TAKEN


def test_a_new_channel_is_a_class_and_a_line_in_the_table(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgepaas.alerts.channels.config.CHANNELS", (Pigeon,))
    configure(paths, NODE_NAME="box-7")
    raise_alert("it broke", fingerprint="x")
    deliver_once(paths, linger=0.0)
    assert Pigeon.carried == ["box-7: it broke"]
    assert [entry["via"] for entry in history.read(paths, what="delivered")] == ["pigeon"]
    assert counts(paths).delivered == {"pigeon": {"warning": 1}}


def test_a_channel_is_set_up_by_the_settings_that_it_names_and_by_no_fewer() -> None:
    """The commands' texts and the warnings about half a channel come of the same table."""
    values = {
        "ALERT_WEBHOOK_URL": "http://127.0.0.1:9/",
        "ALERT_EMAIL_TO": "a@b.example",
        "SMTP__HOST": "mail.example",
    }
    assert [channel.name for channel in CHANNELS] == list(CHANNEL_SETTINGS)
    for channel in CHANNELS:
        given = {name: values[name] for name in channel.needs}
        assert channel.configured(Settings.of(**given)) is not None
        for name in channel.needs:
            fewer = {other: value for other, value in given.items() if other != name}
            assert channel.configured(Settings.of(**fewer)) is None


def test_what_a_test_of_the_channels_says_without_any_names_what_sets_each_up(
    box: AlertBox, capsys: Output
) -> None:
    assert main(["alerts", "test"]) == EXIT_FAILED
    assert "set ALERT_WEBHOOK_URL, or ALERT_EMAIL_TO and SMTP__HOST" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"ALERT_EMAIL_TO": "a@b.example"}, ["no alert is sent by email: SMTP__HOST is not given"]),
        ({"ALERT_EMAIL_TO": "a@b.example", "SMTP__HOST": "mail.example"}, []),
        ({"SMTP__HOST": "mail.example"}, []),
    ],
)
def test_half_a_channel_is_a_warning_that_names_what_is_missing(
    given: dict[str, str], said: list[str]
) -> None:
    values = {name: setting.default for name, setting in SETTINGS.items()}
    found = derive({**values, **given}, {}, given=given)
    assert [one.message for one in found.findings if "no alert" in one.message] == said
