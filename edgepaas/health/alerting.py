# SPDX-License-Identifier: Apache-2.0
"""How many alerts there are, and whether they reach people.

The deliverer may be dead, or masked: what it reports of itself is not believed. What lies in the
spool tells, by the clock of the process that looks.
"""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from edgepaas import alerts
from edgepaas.alerts.spool.alert import read_name
from edgepaas.alerts.status import read_counts, read_status
from edgepaas.health.checks import CheckFailed
from edgepaas.timing.moment import Moment, current_moment, read_moment

if TYPE_CHECKING:
    from edgepaas.alerts.status import AlertCounts
    from edgepaas.files.paths import Paths
    from edgepaas.settings import Settings

#: A run takes everything out of ``new/`` at its beginning; so many seconds after an alert was
#: raised no run has begun.
_PATIENCE = 180.0
#: What waits is looked at by a timer each minute; so many seconds after it was due it was not.
_OVERDUE = 600.0
#: The units that deliver; without either of them nothing starts on its own.
_UNITS = (
    "edgepaas-alerts.service",
    "edgepaas-alerts.path",
    "edgepaas-alerts.timer",
    "edgepaas-alerts-due.service",
)
#: Where systemd looks first.
_UNIT_FOLDERS = (Path("/etc/systemd/system"), Path("/run/systemd/system"))

#: The other units of a box. A stage that is masked is skipped at each start, and the service goes
#: on with what it decided last, until there is no contract any more.
CHAIN_UNITS = (
    "edgepaas-env.service",
    "edgepaas-dbdecide.service",
    "edgepaas-schema.service",
    "edgepaas-sync.service",
    "edgepaas.service",
    "edgepaas.socket",
)

NO_CHANNEL = "no channel is set up, so alerts reach nobody"
SET_UP = (
    "set ALERT_WEBHOOK_URL, or ALERT_EMAIL_TO and SMTP__HOST; ALERT_LOG_ONLY=true where the log"
    " is watched"
)


class DeliveryWatch:
    """A check: whether an alert that is raised now would reach a person."""

    def __init__(
        self,
        paths: "Paths",
        settings: "Settings",
        *,
        clock: Callable[[], float] = time.monotonic,
        moment: Callable[[], Moment] = current_moment,
        unit_folders: tuple[Path, ...] = _UNIT_FOLDERS,
    ) -> None:
        self._paths = paths
        self._clock = clock
        self._moment = moment
        self._unit_folders = unit_folders
        self._has_channel = has_channel(settings)
        self._log_will_do = settings.flag("ALERT_LOG_ONLY") or settings.text("ENV") != "production"
        self._oldest, self._seen_at = "", clock()

    def __call__(self) -> str:
        """Return how alerts are delivered; raises CheckFailed where they are not."""
        if masked := masked_units(self._unit_folders):
            message = f"{', '.join(masked)} masked, so alerts are not delivered"
            raise CheckFailed(f"{message}: 'systemctl unmask {' '.join(masked)}'", ready=True)
        if late := self._not_looked_at():
            raise CheckFailed(late, ready=True)
        counts = read_counts(self._paths)
        if not self._has_channel:
            if self._log_will_do:
                return "the log alone: no channel is set up"
            raise CheckFailed(f"{NO_CHANNEL}: {SET_UP}", ready=True)
        failing = {name: why for name, why in counts.channels.items() if why}
        if counts.waiting and failing and len(failing) == len(counts.channels):
            said = "; ".join(f"{name}: {why}" for name, why in failing.items())
            raise CheckFailed(f"no channel takes alerts, {counts.waiting} wait: {said}", ready=True)
        if counts.dead:
            raise CheckFailed(
                f"every channel refused {counts.dead} notifications: 'edgepaas alerts list' shows"
                " why, then 'edgepaas alerts retry' or 'discard'",
                ready=True,
            )
        return f"{counts.waiting} alerts wait"

    def _not_looked_at(self) -> str:
        """Return why the deliverer seems to be dead, "" while it works."""
        remedy = "look at 'systemctl status edgepaas-alerts', or run 'edgepaas alerts deliver'"
        oldest = _oldest_waiting(self._paths)
        if oldest != self._oldest:
            self._oldest, self._seen_at = oldest, self._clock()
        waited = self._clock() - self._seen_at
        if oldest and waited >= _PATIENCE:
            return f"alerts are not delivered: none was taken up for {waited:.0f} s; {remedy}"
        status = read_status(self._paths)
        due = status.get("next_in_seconds")
        if isinstance(due, int | float) and "updated" in status:
            passed = self._moment().seconds_since(read_moment(status["updated"]))
            if passed is not None and passed - due >= _OVERDUE:
                late = f"what was due {passed - due:.0f} s ago was not sent"
                return f"alerts are not delivered: {late}; {remedy}"
        return ""


def has_channel(settings: "Settings") -> bool:
    """Whether all settings of some channel are there."""
    from edgepaas.settings.table import CHANNEL_SETTINGS

    return any(all(map(settings.text, names)) for names in CHANNEL_SETTINGS.values())


def masked_units(
    folders: tuple[Path, ...] = _UNIT_FOLDERS, units: tuple[str, ...] = _UNITS
) -> list[str]:
    """Return which of *units*, by default those that deliver alerts, are masked."""
    return [unit for unit in units if any(_is_masked(folder / unit) for folder in folders)]


def _is_masked(unit: Path) -> bool:
    """Whether it is a link to nothing, or empty (systemd.unit(5))."""
    try:
        if unit.is_symlink() and unit.resolve() == Path("/dev/null"):
            return True
        return unit.is_file() and unit.stat().st_size == 0
    except OSError:  # a folder that cannot be looked into tells nothing
        return False


def no_unit_masked(folders: tuple[Path, ...] = _UNIT_FOLDERS) -> str:
    """Say that no unit of the chain is masked; raises CheckFailed with what unmasks it."""
    if masked := masked_units(folders, CHAIN_UNITS):
        names = " ".join(masked)
        raise CheckFailed(
            f"{', '.join(masked)} masked, so the box does not do all of its work:"
            f" 'systemctl unmask {names}', then 'systemctl restart edgepaas'",
            ready=True,
        )
    return "no unit is masked"


def _oldest_waiting(paths: "Paths") -> str:
    """Return the name of the oldest alert that no run has taken up, "" without one."""
    try:
        names = [path.name for path in (paths.alerts / "new").iterdir()]
    except OSError:  # no alert was ever raised; a folder that cannot be read is another check's
        return ""
    return min((name for name in names if read_name(name) is not None), default="")


#: Seconds for which what was counted is not counted again: a full spool is ten thousand names.
_KEPT = 2.0


class AlertWatch:
    """Counts the alerts of the box when asked, at most every other second."""

    def __init__(self, paths: "Paths", clock: Callable[[], float] = time.monotonic) -> None:
        self._paths = paths
        self._clock = clock
        self._lock = threading.Lock()
        self._counted_at = float("-inf")
        self._counts: AlertCounts | None = None

    def __call__(self) -> "AlertCounts":
        """Return the counts, as of a moment ago."""
        with self._lock:
            if self._counts is None or self._clock() - self._counted_at >= _KEPT:
                self._counts = alerts.counts(self._paths)
                self._counted_at = self._clock()
            return self._counts

    def line(self) -> str:
        """Return e.g. ``alerts: 2 open, 1 critical``; empty when there is nothing to say."""
        said = self().line()
        return f"alerts: {said}" if said else ""
