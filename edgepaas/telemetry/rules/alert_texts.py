# SPDX-License-Identifier: Apache-2.0
"""What an alert of a rule says: what happened, since when, and what to do."""

from datetime import timedelta

from edgepaas.telemetry.rules.judging import SECOND, ActiveRule, ConditionChange
from edgepaas.telemetry.times import EARLIEST, format_moment

_UNITS = (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1))


def fingerprint(watch_id: str, device: str) -> str:
    """Return what all alerts of one rule about one device have in common."""
    return f"rule:{watch_id}:{device}"


def sentence(watch: ActiveRule, device: str, flip: ConditionChange) -> str:
    """Return the message of the alert, or of its end: one line, whatever a device is called."""
    device, name = _word(device), _word(watch.name)
    said = _raised(watch, device, flip) if flip.raised else _over(watch, device, flip)
    return f"{device}: {said} (rule '{name}')" + (
        f": look at {device}; GET /api/v1/rules/{watch.id} is the rule" if flip.raised else ""
    )


def no_longer_watched(watch: ActiveRule, device: str) -> str:
    """Return the message for an alert whose rule went away, was switched off or changed."""
    return (
        f"{device}: {watch.metric} is watched no longer by the rule '{watch.name}' as it was: "
        "it was changed, switched off or deleted"
    )


def span(seconds: float) -> str:
    """Return e.g. ``1 h 30 min``: the two largest units that there are."""
    left = round(seconds)
    parts = []
    for unit, size in _UNITS:
        number, left = divmod(left, size)
        if number:
            parts.append(f"{number} {unit}")
    return " ".join(parts[:2]) or "0 s"


def _raised(watch: ActiveRule, device: str, flip: ConditionChange) -> str:
    if watch.condition != "absent":
        lasting = f" for {span(watch.for_seconds)}" if watch.for_seconds else ""
        since = "" if flip.since is None else f", since {_moment(flip.since)}"
        return f"{watch.metric} {_demand(watch)}{lasting}{since}; {_reading(flip)}"
    since = "that the rule knows of" if flip.since is None else f"since {_moment(flip.since)}"
    until = "" if flip.at is None else f" until {_moment(flip.at)}"
    return f"no reading of {watch.metric} for {span(watch.for_seconds)}: none {since}{until}"


def _over(watch: ActiveRule, device: str, flip: ConditionChange) -> str:
    lasted = ""
    if flip.lasted >= SECOND:
        lasted = f", after {span(flip.lasted / SECOND)}"
    since = "" if flip.since is None else f" since {_moment(flip.since)}"
    if watch.condition == "absent":
        return f"readings of {watch.metric} come again, there were none{since}{lasted}; " + (
            _reading(flip)
        )
    return f"{watch.metric} {_demand(watch)} no longer, as it was{since}{lasted}; {_reading(flip)}"


def _word(name: str) -> str:
    """Return a name as a line holds it; an older box may have taken one with a line's end."""
    return " ".join(name.split())


def _demand(watch: ActiveRule) -> str:
    if watch.condition == "rate":
        return f"changes by more than {abs(watch.threshold):g} a second"
    return f"is {watch.condition} {watch.threshold:g}"


def _reading(flip: ConditionChange) -> str:
    if flip.at is None or flip.value is None:
        return "no reading"
    return f"{flip.value:g} at {_moment(flip.at)}"


def _moment(microseconds: int) -> str:
    return format_moment(EARLIEST + timedelta(seconds=microseconds // SECOND))
