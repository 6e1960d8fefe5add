# SPDX-License-Identifier: Apache-2.0
"""Checks that cannot hang, pile up or load the box.

A probe runs in a thread of its own, at most one for each check; the caller waits for
it up to the check's timeout. Its result is kept for a moment, so that a storm of
questions is one probe, and while a probe hangs, every later question is answered at once.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Literal

from edgepaas.errors import EdgePaaSError
from edgepaas.logs.redact import redact

#: What a failing check does to the box's state; empty: nothing.
Consequence = Literal["", "degraded", "full"]

logger = logging.getLogger("edgepaas.health")


class CheckFailed(EdgePaaSError):
    """A failed probe; *consequence* is the state that the box is in because of it.

    *ready* True says that traffic may come all the same, e.g. with a full disk, on
    which reading still works.
    """

    def __init__(
        self, message: str, *, consequence: Consequence = "degraded", ready: bool = False
    ) -> None:
        super().__init__(message)
        self.consequence: Consequence = consequence
        self.ready = ready


@dataclass(frozen=True)
class Check:
    """One check. *probe* returns a line for a person, or raises the reason of a failure.

    *required* checks fail the gate and decide the box's state; the others are only shown.
    *timeout* and *keep* are in seconds, None takes the board's own; a *timeout* that changes is
    asked for each time. *raised_elsewhere* says that
    what finds the same problem first raises an alert of its own; otherwise a required check
    that keeps failing raises one (:mod:`edgepaas.service.watches.conditions`).
    """

    name: str
    probe: Callable[[], str]
    required: bool = True
    timeout: float | Callable[[], float] | None = None
    keep: float | None = None
    raised_elsewhere: bool = False


@dataclass(frozen=True)
class CheckResult:
    """What a check found, and how many *seconds* it took."""

    name: str
    ok: bool
    message: str
    seconds: float
    required: bool
    consequence: Consequence = ""
    #: Whether the finding, for itself, keeps traffic away.
    ready: bool = True
    #: False where the probe took longer than it may, and still runs.
    answered: bool = True
    #: As the check declares it.
    raised_elsewhere: bool = False

    def as_dict(self) -> dict[str, object]:
        """Return the result as the health routes show it."""
        return {
            "name": self.name,
            "ok": self.ok,
            "required": self.required,
            "message": self.message,
            "seconds": round(self.seconds, 4),
        }


class HealthBoard:
    """All checks of a process.

    *cache_seconds* is for how long a result is kept, *timeout* how long a probe may
    take; both in seconds, a check may set its own.
    """

    def __init__(
        self,
        checks: Iterable[Check],
        *,
        cache_seconds: float = 1.5,
        timeout: float = 2.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._cache_seconds = cache_seconds
        self._timeout = timeout
        self._clock = clock
        self._probes: dict[str, _Probe] = {}
        for check in checks:
            self.add(check)

    def add(self, check: Check) -> None:
        """Ask for *check*, too, from now on."""
        probe = _Probe(
            check,
            keep=self._cache_seconds if check.keep is None else check.keep,
            timeout=self._timeout if check.timeout is None else check.timeout,
            clock=self._clock,
        )
        self._probes = {**self._probes, check.name: probe}

    def results(self) -> list[CheckResult]:
        """Return every check's result, probing where the kept one is too old; bounded."""
        probes = list(self._probes.values())
        for probe in probes:
            probe.begin()  # side by side: together they take as long as the slowest
        return [probe.result() for probe in probes]

    def result(self, name: str) -> CheckResult:
        """Return the result of the check called *name*; KeyError when there is none."""
        return self._probes[name].result()

    def accept(self, name: str, message: str) -> None:
        """Take what another process has just found for the result of the check called *name*.

        It is kept as one's own would be. Does nothing where there is no such check.
        """
        if name in self._probes:
            self._probes[name].accept(message)

    def refresh(self) -> None:
        """Start every probe whose result is too old, and wait for none."""
        for probe in self._probes.values():
            probe.begin()

    def latest(self) -> list[CheckResult]:
        """Return what is known without probing: at once, and possibly nothing."""
        return [known for probe in self._probes.values() if (known := probe.known()) is not None]

    def forget(self) -> None:
        """Have every check probed anew at the next question."""
        for probe in self._probes.values():
            probe.forget()


class _Probe:
    """One check's thread, and what it found last."""

    def __init__(
        self,
        check: Check,
        *,
        keep: float,
        timeout: float | Callable[[], float],
        clock: Callable[[], float],
    ) -> None:
        self._check = check
        self._keep = keep
        self._allowed = timeout
        self._clock = clock
        self._changed = threading.Condition()
        self._result: CheckResult | None = None
        self._at = 0.0
        self._running_since: float | None = None

    @property
    def _timeout(self) -> float:
        return self._allowed() if callable(self._allowed) else self._allowed

    def begin(self) -> None:
        """Start the probe unless a fresh result is there or it is running already."""
        with self._changed:
            if self._fresh() or self._running_since is not None:
                return
            self._running_since = self._clock()
            # Not edgepaas.timing.deadline: that starts a thread for each call, and would pile
            # up one more at each question while a probe hangs. This one is shared.
            thread = threading.Thread(
                target=self._run, name=f"check-{self._check.name}", daemon=True
            )
            try:
                thread.start()
            except RuntimeError as error:  # no more threads: that, too, is a finding
                self._running_since = None
                self._store(self._failed(f"the check cannot be started: {error}", 0.0))

    def result(self) -> CheckResult:
        """Return a fresh result, waiting up to the timeout for it."""
        self.begin()
        timeout = self._timeout
        waits_until = time.monotonic() + timeout  # a condition waits in real time
        with self._changed:
            while not self._fresh() and self._running_since is not None:
                spent = self._clock() - self._running_since
                left = min(waits_until - time.monotonic(), timeout - spent)
                if left <= 0:
                    late = self._failed(f"no answer within {timeout:g} s", max(spent, 0.0))
                    self._store(replace(late, answered=False))
                    break
                self._changed.wait(left)
            return self._result or self._failed("not checked yet", 0.0)

    def known(self) -> CheckResult | None:
        with self._changed:
            return self._result

    def accept(self, message: str) -> None:
        with self._changed:
            self._store(
                CheckResult(
                    name=self._check.name,
                    ok=True,
                    message=message,
                    seconds=0.0,
                    required=self._check.required,
                    raised_elsewhere=self._check.raised_elsewhere,
                )
            )

    def forget(self) -> None:
        with self._changed:
            self._at = float("-inf")

    def _fresh(self) -> bool:
        return self._result is not None and self._clock() - self._at < self._keep

    def _run(self) -> None:
        began = time.perf_counter()
        try:
            message = self._check.probe()
            result = CheckResult(
                name=self._check.name,
                ok=True,
                message=redact(message),
                seconds=time.perf_counter() - began,
                required=self._check.required,
                raised_elsewhere=self._check.raised_elsewhere,
            )
        except BaseException as error:  # noqa: BLE001 - handed to the caller, whatever it is
            result = self._judge(error, time.perf_counter() - began)
        with self._changed:
            self._running_since = None
            self._store(result)
            self._changed.notify_all()

    def _judge(self, error: BaseException, seconds: float) -> CheckResult:
        if isinstance(error, CheckFailed):
            return self._failed(str(error), seconds, error.consequence, ready=error.ready)
        if not isinstance(error, EdgePaaSError | OSError):
            logger.error("check %s failed", self._check.name, exc_info=error)
        return self._failed(str(error) or type(error).__name__, seconds)

    def _failed(
        self,
        message: str,
        seconds: float,
        consequence: Consequence = "degraded",
        *,
        ready: bool = False,
    ) -> CheckResult:
        return CheckResult(
            name=self._check.name,
            ok=False,
            message=redact(message),
            seconds=seconds,
            required=self._check.required,
            consequence=consequence if self._check.required else "",
            ready=ready or not self._check.required,
            raised_elsewhere=self._check.raised_elsewhere,
        )

    def _store(self, result: CheckResult) -> None:
        before, self._result, self._at = self._result, result, self._clock()
        if before is not None and before.ok != result.ok:
            level = logging.INFO if result.ok else logging.WARNING
            logger.log(level, "check %s: %s: %s", result.name, _word(result.ok), result.message)


def _word(ok: bool) -> str:
    return "ok" if ok else "failed"
