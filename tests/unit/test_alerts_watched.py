# SPDX-License-Identifier: Apache-2.0
"""The watcher is watched: no channel, a dead deliverer or a masked unit is noticed."""

import itertools
from pathlib import Path

import pytest

from edgepaas.alerts.conditions.condition_store import ConditionStore
from edgepaas.alerts.delivery.run import deliver_once
from edgepaas.doctor import data
from edgepaas.files.paths import Paths
from edgepaas.health.alerting import DeliveryWatch, masked_units
from edgepaas.health.checks import CheckFailed
from edgepaas.settings import Settings
from tests.support.alert_box import REFUSED, AlertBox
from tests.support.receivers import receiving

WEBHOOK = {"ALERT_WEBHOOK_URL": "http://127.0.0.1:9/x"}


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def problem(watch: DeliveryWatch) -> str:
    """What the check says, "" while it passes."""
    try:
        watch()
    except CheckFailed as failed:
        assert (failed.consequence, failed.ready) == ("degraded", True)
        return str(failed)
    return ""


@pytest.mark.parametrize(
    ("given", "degraded"),
    [
        ({"ENV": "production"}, True),
        ({"ENV": "production", "ALERT_LOG_ONLY": "true"}, False),
        ({"ENV": "production", "ALERT_EMAIL_TO": "a@b.example"}, True),
        ({"ENV": "production", "ALERT_EMAIL_TO": "a@b.example", "SMTP__HOST": "m"}, False),
        ({"ENV": "production", **WEBHOOK}, False),
        ({"ENV": "development"}, False),
    ],
)
def test_a_production_box_that_can_call_nobody_is_degraded(
    paths: Paths, given: dict[str, str], degraded: bool
) -> None:
    settings = Settings.of(**given)
    found = problem(DeliveryWatch(paths, settings))
    assert bool(found) == degraded
    assert ("ALERT_WEBHOOK_URL" in found) == degraded
    assert data.delivery(paths, settings).level == ("warn" if degraded else "ok")


def test_a_deliverer_that_takes_nothing_up_is_noticed_by_the_clock_of_who_looks(
    paths: Paths,
) -> None:
    box, clock = AlertBox(paths), Clock()
    watch = DeliveryWatch(paths, Settings.of(**WEBHOOK), clock=clock)
    box.accept("dry", severity="critical", fingerprint="boiler")
    assert not problem(watch)
    clock.now += 179
    assert not problem(watch)
    clock.now += 2
    assert "not delivered" in problem(watch)
    assert "edgepaas-alerts" in problem(watch)
    box.deliver()
    assert not problem(watch)


def test_what_was_due_and_never_sent_is_noticed(paths: Paths) -> None:
    with receiving(503) as receiver:
        settings = Settings.of(ALERT_WEBHOOK_URL=receiver.url)
        settings.write(paths.env_contract)
        AlertBox(paths).spool.accept("dry", fingerprint="boiler")
        deliver_once(paths, linger=0.0)
    from edgepaas.timing.moment import Moment, current_moment

    now = current_moment()
    later = Moment(now.wall, now.since_boot + 3000, now.boot_id)
    assert "was not sent" in problem(DeliveryWatch(paths, settings, moment=lambda: later))


@pytest.mark.parametrize(
    "unit",
    [f"edgepaas-alerts{one}" for one in (".service", ".path", ".timer", "-due.service")],
)
@pytest.mark.parametrize("empty", [False, True])
def test_a_masked_unit_is_noticed_before_anything_waits(
    paths: Paths, tmp_path: Path, unit: str, empty: bool
) -> None:
    watch = DeliveryWatch(paths, Settings.of(**WEBHOOK), unit_folders=(tmp_path,))
    (tmp_path / "edgepaas-alerts.service.d").mkdir()
    assert not problem(watch)
    if empty:  # as an image without systemctl masks it
        (tmp_path / unit).touch()
    else:
        (tmp_path / unit).symlink_to("/dev/null")
    assert f"systemctl unmask {unit}" in problem(watch)
    assert masked_units((tmp_path,)) == [unit]


def test_channels_that_all_fail_while_something_waits_are_noticed(paths: Paths) -> None:
    with receiving(404) as receiver:
        settings = Settings.of(ALERT_WEBHOOK_URL=receiver.url)
        settings.write(paths.env_contract)
        AlertBox(paths).spool.accept("dry", fingerprint="boiler")
        deliver_once(paths, linger=0.0)
    found = problem(DeliveryWatch(paths, settings))
    assert "1 wait" in found
    assert "it answered 404" in found


def test_what_every_channel_refused_is_noticed_and_gone_once_it_was_discarded(
    paths: Paths,
) -> None:
    box = AlertBox(paths, answers={"webhook": REFUSED, "email": REFUSED})
    box.accept("dry", fingerprint="boiler")
    for _ in itertools.repeat(None, 3):
        box.deliver()
        box.clock.forward(60)
    watch = DeliveryWatch(paths, Settings.of(**WEBHOOK))
    assert "refused 1" in problem(watch)
    (condition,) = ConditionStore(box.spool).load_all()
    assert (condition.notified.unheard, condition.notified.missed) == ("dead", 1)
    for file in (paths.alerts / "dead").iterdir():
        file.unlink()
    assert not problem(watch)
