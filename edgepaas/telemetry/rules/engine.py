# SPDX-License-Identifier: Apache-2.0
"""The rules at work: readings in, states and alerts out; no database of readings, no thread."""

from collections.abc import Iterable

from edgepaas.telemetry.rules.alert_texts import fingerprint, no_longer_watched, sentence
from edgepaas.telemetry.rules.judging import (
    ActiveRule,
    ConditionChange,
    Received,
    Series,
    advance,
    fall_silent,
)
from edgepaas.telemetry.rules.store import Key, Known, Notice, RuleStore

#: A reading as the rules see it: device, metric, value, recorded_at in microseconds since 1970.
Judged = tuple[str, str, float, int]


class RuleEngine:
    """All rules of the box and what they know; what it finds is kept by :meth:`keep`.

    *awaits_named* says that a device named by an ``absent`` rule is missed although it
    never posted here: right for a box that has no others beside it.
    """

    def __init__(self, store: RuleStore, *, awaits_named: bool) -> None:
        self._store = store
        self._awaits_named = awaits_named
        self._watches: dict[str, ActiveRule] = {}
        self._by_metric: dict[str, list[ActiveRule]] = {}
        self._known: dict[Key, Known] = {}
        self._ready_seconds = 0.0
        self._changed: set[Key] = set()
        self._notices: list[Notice] = []
        self.reload()

    def reload(self) -> None:
        """Go back to what is stored, as after a start."""
        self._known, self._ready_seconds = self._store.load()
        self._changed, self._notices = set(), []

    def use(self, watches: Iterable[ActiveRule]) -> None:
        """Have these rules from now on; what others found is over."""
        self._watches = {watch.id: watch for watch in watches}
        self._by_metric = {}
        for watch in self._watches.values():
            self._by_metric.setdefault(watch.metric, []).append(watch)
        for key, known in list(self._known.items()):
            now = self._watches.get(key[0])
            if now is not None and now.judges_as(known.watch):
                if now != known.watch:  # only its name or severity
                    known.watch = now
                    self._changed.add(key)
                continue
            if known.series.raised:
                self._notice(key, known.watch, None)
            del self._known[key]
            self._changed.add(key)
        if self._awaits_named:
            for watch in self._watches.values():
                if watch.condition == "absent" and watch.device is not None:
                    self._of(watch, watch.device)

    def judge(self, readings: Iterable[Judged], received: Received) -> None:
        """Judge *readings* in their order, which the box took in together."""
        for device, metric, value, moment in readings:
            for watch in self._by_metric.get(metric, ()):
                if watch.device not in (None, device):
                    continue
                key = (watch.id, device)
                series = self._of(watch, device).series
                changes = advance(
                    watch, series, moment, value, received, ready_seconds=self._ready_seconds
                )
                for flip in changes:
                    self._notice(key, watch, flip)
                series.ready_seconds = self._ready_seconds
                self._changed.add(key)

    def listen(self, seconds: float) -> None:
        """Count *seconds* in which the box was ready for readings, and judge the silent devices."""
        self._ready_seconds += seconds
        for key, known in self._known.items():
            if known.watch.condition != "absent":
                continue
            for flip in fall_silent(known.watch, known.series, self._ready_seconds):
                self._notice(key, known.watch, flip)
                self._changed.add(key)

    @property
    def watches_silence(self) -> bool:
        """Whether any rule needs to know how long the box was ready for readings."""
        return any(watch.condition == "absent" for watch in self._watches.values())

    @property
    def has_news(self) -> bool:
        """Whether there is anything to keep beside the seconds of readiness."""
        return bool(self._changed or self._notices)

    def keep(
        self, *, database: str = "", taken: Iterable[str] = (), gone: Iterable[str] = ()
    ) -> None:
        """Store what was found since the last call; see :meth:`RuleStore.keep`."""
        self._store.keep(
            {key: self._known.get(key) for key in self._changed},
            self._notices,
            self._ready_seconds,
            database=database,
            taken=taken,
            gone=gone,
        )
        self._changed, self._notices = set(), []

    def _of(self, watch: ActiveRule, device: str) -> Known:
        key = (watch.id, device)
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = Known(watch, Series(ready_seconds=self._ready_seconds))
            self._changed.add(key)
        return known

    def _notice(self, key: Key, watch: ActiveRule, flip: ConditionChange | None) -> None:
        """Have an alert raised or resolved; no *flip*: the rule is gone as it was."""
        if flip is None:
            raised, message = False, no_longer_watched(watch, key[1])
        else:
            raised, message = flip.raised, sentence(watch, key[1], flip)
        self._notices.append(
            Notice(0, raised, message, watch.severity, fingerprint(watch.id, key[1]))
        )
