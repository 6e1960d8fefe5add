# SPDX-License-Identifier: Apache-2.0
"""The channels in their order, with a back-off and a circuit breaker each, kept between runs."""

import contextlib
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgepaas.alerts.channels.answers import Answer, Outcome
from edgepaas.alerts.channels.channel import Channel
from edgepaas.alerts.channels.config import AlertConfig
from edgepaas.alerts.channels.notification import Notification
from edgepaas.alerts.spool.checksummed_json import Damaged, checksummed_record, read_checksummed
from edgepaas.alerts.spool.folders import SpoolFolders
from edgepaas.files import shapes
from edgepaas.files.records import RecordType
from edgepaas.timing.backoff import pause_after
from edgepaas.timing.moment import Moment, read_moment, rfc3339

Send = Callable[[Channel, Notification], Answer]

#: After so many failures in a row a channel is not tried for a while; one that is down, at once.
_OPENS_AT = 3
_FIRST_PAUSE, _LONGEST_PAUSE = 5.0, 900.0
#: A channel has refused a message for good once it did so this often: a server, or a proxy in
#: front of it, may blame what was sent for a passing fault of its own.
_REFUSALS = 3


@dataclass(frozen=True)
class ChannelState:
    """How a channel did lately; it is not tried again for *pause* seconds from *tried* on."""

    failures: int = 0
    pause: float = 0.0
    tried: Moment | None = None
    failing_since: Moment | None = None
    words: str = ""
    delivered: Moment | None = None
    settings: str = ""

    @property
    def failing(self) -> str:
        """What it answered last, "" while it takes notifications."""
        return self.words if self.failing_since else ""

    def wait(self, now: Moment) -> float:
        """Return for how many seconds the channel is not to be tried."""
        if self.tried is None:
            return 0.0
        passed = now.seconds_since(self.tried)
        return 0.0 if passed is None else max(0.0, self.pause - passed)

    def as_dict(self) -> dict[str, Any]:
        """Return it as a file keeps it."""
        return {
            "words": self.words,
            "failures": self.failures,
            "pause": round(self.pause, 3),
            "tried_time": None if self.tried is None else rfc3339(self.tried.wall),
            "tried": _entry(self.tried),
            "failing_since": _entry(self.failing_since),
            "delivered": _entry(self.delivered),
            "settings": self.settings,
        }


#: ``channels.json``: :meth:`ChannelState.as_dict`, by the channel's name.
RECORD = RecordType(
    "alert-channels",
    2,
    {
        "channels": shapes.map_of(
            shapes.object_of(
                {
                    "words": shapes.text,
                    "failures": shapes.whole,
                    "pause": shapes.number,
                    "tried_time": shapes.optional(shapes.text),
                    **dict.fromkeys(
                        ("tried", "failing_since", "delivered"), shapes.optional(shapes.moment)
                    ),
                    "settings": shapes.text,
                }
            )
        )
    },
    {1: lambda old: {"channels": old}},
)


class ChannelFailover:
    """All configured channels; *jitter* gives a factor for each pause.

    *send* replaces :meth:`edgepaas.alerts.channels.channel.Channel.send` in tests.
    """

    def __init__(
        self,
        folders: SpoolFolders,
        config: AlertConfig,
        *,
        clock: Callable[[], Moment],
        jitter: Callable[[], float],
        send: Send | None = None,
    ) -> None:
        self._folders = folders
        self._config = config
        self._clock = clock
        self._jitter = jitter
        self._send = send or (lambda channel, notification: channel.send(notification, config.box))
        self.states = _read(folders)
        #: Whether a channel's settings are others than in the run before.
        self.changed = False
        self._names = [channel.name for channel in config.channels]
        for channel in config.channels:
            settings = _digest(channel)
            if self.states.get(channel.name, ChannelState()).settings != settings:
                # An operator has changed where it goes: what was wrong before may be mended.
                self.changed = True
                self.states[channel.name] = ChannelState(settings=settings)

    def send(self, notification: Notification) -> Outcome:
        """Try each channel in its order until one takes the notification."""
        refused = {name: why for name, why in notification.refused.items() if name in self._names}
        refusals = dict(notification.refusals)
        reached = tried = False
        waits, words = [], []
        for channel in self._config.channels:
            name = channel.name
            if name in refused:
                continue
            wait = self.states[name].wait(self._clock())
            if wait > 0:
                waits.append(wait)
                words.append(f"{name} is not tried yet: {self.states[name].words}")
                continue
            answer = self._send(channel, notification)
            tried, reached = True, reached or answer.reached
            self._note(name, answer)
            if answer.kind == "taken":
                return Outcome("taken", name, answer.words, reached=True, tried=True)
            words.append(f"{name}: {answer.words}")
            if answer.kind == "refused":
                refusals[name] = refusals.get(name, 0) + 1
                if refusals[name] >= _REFUSALS:
                    refused[name] = answer.words
                    continue
            waits.append(max(self.pause_after(notification.attempts + 1), answer.retry_after))
        said = "; ".join(words)
        if not waits:
            return Outcome("refused", words=said, reached=reached, tried=tried, refused=refused)
        return Outcome("later", "", said, reached, tried, min(waits), refused, refusals)

    def wait(self) -> float:
        """Return the seconds until some channel may be tried; 0.0: now."""
        now = self._clock()
        return min((self.states[name].wait(now) for name in self._names), default=0.0)

    def failing_for(self) -> float:
        """Return for how many seconds no channel has taken anything; 0.0 when one works."""
        now, found = self._clock(), []
        for name in self._names:
            since = self.states[name].failing_since
            if since is None:
                return 0.0
            passed = now.seconds_since(since)
            found.append(float("inf") if passed is None else passed)
        return min(found, default=0.0)

    def failing_since(self) -> Moment | None:
        """Return since when no channel has taken anything, None when one works."""
        found = [self.states[name].failing_since for name in self._names]
        known = [moment for moment in found if moment is not None]
        return known[0] if known and len(known) == len(found) else None

    def forget_pauses(self) -> None:
        """Have every channel tried at once, as an operator asks."""
        for name in self._names:
            self.states[name] = replace(self.states[name], pause=0.0)
        self._save()

    def pause_after(self, failures: int) -> float:
        """Return the seconds to wait after so many failures in a row, with jitter."""
        return pause_after(failures, first=_FIRST_PAUSE, longest=_LONGEST_PAUSE) * self._jitter()

    def _note(self, name: str, answer: Answer) -> None:
        """Remember how the channel did."""
        now, state = self._clock(), self.states[name]
        if answer.kind == "later":
            failures = state.failures + 1
            opens = answer.down or answer.retry_after > 0 or failures >= _OPENS_AT
            pause = max(self.pause_after(failures), answer.retry_after) if opens else 0.0
            state = replace(
                state,
                failures=failures,
                pause=pause,
                tried=now,
                failing_since=state.failing_since or now,
            )
        else:
            # Who refuses is there; what is wrong is the message.
            taken = answer.kind == "taken"
            state = replace(
                state,
                failures=0,
                pause=0.0,
                tried=now,
                failing_since=None if taken else state.failing_since,
                delivered=now if taken else state.delivered,
            )
        before = self.states[name]
        self.states[name] = replace(state, words=answer.words)
        if before.failing_since is not None or answer.kind != "taken" or before.delivered is None:
            self._save()

    def _save(self) -> None:
        states = {name: state.as_dict() for name, state in self.states.items()}
        content = checksummed_record(RECORD, {"channels": states})
        with contextlib.suppress(OSError):  # the pauses only spare attempts
            self._folders.put(_file(self._folders), content)


def _read(folders: SpoolFolders) -> dict[str, ChannelState]:
    try:
        found = RECORD.fields_of(read_checksummed(_file(folders)))["channels"]
        return {name: _state(entry) for name, entry in found.items()}
    except (OSError, Damaged, KeyError, TypeError, ValueError, AttributeError):
        return {}  # what is forgotten is an attempt that was to be spared


def _state(entry: Mapping[str, Any]) -> ChannelState:
    return ChannelState(
        failures=int(entry["failures"]),
        pause=float(entry["pause"]),
        tried=_moment(entry["tried"]),
        failing_since=_moment(entry["failing_since"]),
        words=str(entry["words"]),
        delivered=_moment(entry["delivered"]),
        settings=str(entry["settings"]),
    )


def _entry(moment: Moment | None) -> dict[str, Any] | None:
    return None if moment is None else moment.as_dict()


def _moment(entry: Any) -> Moment | None:
    return None if entry is None else read_moment(entry)


def _digest(channel: Channel) -> str:
    """Return what shows whether a channel's settings were changed; it reveals no secret."""
    values = "\0".join(str(value) for value in vars(channel).values())
    return hashlib.sha256(values.encode()).hexdigest()[:16]


def _file(folders: SpoolFolders) -> Path:
    return folders.root / "channels.json"
