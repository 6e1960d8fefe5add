# SPDX-License-Identifier: Apache-2.0
"""The hosts of one address: tried in their order, within one deadline, until one will do.

As libpq does it (PostgreSQL manual, 34.1.1.3 "Specifying Multiple Hosts"), but that a host
which does not answer holds the next one up for a share of the time only: that one is then
tried beside it (as RFC 8305, "Happy Eyeballs", does with addresses), and the first that will
do is taken.
"""

import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from edgepaas.pgdriver import wire
from edgepaas.pgdriver.failures import ConnectFailure, Failure
from edgepaas.settings.urls import Address
from edgepaas.timing.deadline import OutOfTime, Scope, within

T = TypeVar("T")

#: Of the time that is left, what one host may use: its own words about its end are better
#: than those of the caller whose time is up.
_SHARE = 0.95


def endpoint_of(address: Address) -> str:
    """Return the server's place for a message: ``host:port`` or the socket's path; of each host."""
    return ", ".join(host.unix_socket or f"{host.host}:{host.port}" for host in address.hosts())


def out_of_time(address: Address, late: OutOfTime) -> ConnectFailure:
    """Return the failure of an attempt whose time was up, by what it waited for."""
    place = endpoint_of(address)
    if late.stage == wire.RESOLVING:
        return ConnectFailure(
            Failure.DNS,
            f"the name {address.host} was not resolved within {late.seconds:g} s: "
            "the name server does not answer; check this box's name servers",
        )
    if late.stage in ("", wire.CONNECTING):
        return wire.unreachable_failure(place, late.seconds)
    return wire.silent_failure(place, late.stage, late.seconds)


def try_hosts(
    address: Address,
    seconds: float,
    attempt: Callable[[Scope, Address], T],
    *,
    discard: Callable[[T], object],
    longest: float | None = None,
) -> T:
    """Return what *attempt* gives for the first host of *address* that will do.

    *attempt* gets one host at a time, and raises ConnectFailure where that host will not do.
    All of it ends within *seconds*; an attempt may extend its own, to *longest* altogether.
    What an attempt gives that is not needed any more goes to *discard*. Raises
    ConnectFailure, which names every host that was tried and its reason.
    """
    hosts = address.hosts()
    if len(hosts) == 1:
        return _tried(hosts[0], seconds, attempt, discard, longest)
    return _Race(hosts, seconds, attempt, discard, longest=longest).run()


def _tried(
    host: Address,
    seconds: float,
    attempt: Callable[[Scope, Address], T],
    discard: Callable[[T], object],
    longest: float | None,
) -> T:
    try:
        return within(seconds, lambda scope: attempt(scope, host), discard=discard, longest=longest)
    except OutOfTime as late:
        raise out_of_time(host, late) from None


class _Race(Generic[T]):
    """Attempts that begin one after the other, and may go on beside each other."""

    def __init__(
        self,
        hosts: Sequence[Address],
        seconds: float,
        attempt: Callable[[Scope, Address], T],
        discard: Callable[[T], object],
        *,
        longest: float | None,
    ) -> None:
        self._hosts = hosts
        self._seconds = seconds
        self._longest = max(seconds, longest or seconds)
        self._attempt = attempt
        self._discard = discard
        self._lock = threading.Lock()
        self._over = False
        #: Of each attempt that ended: the host's position, and what it gave or raised.
        self._ended: queue.SimpleQueue[tuple[int, list[T], Exception | None]] = queue.SimpleQueue()

    def run(self) -> T:
        """Return what the first host gave that will do; raises ConnectFailure."""
        try:
            return self._run()
        finally:
            with self._lock:
                self._over = True
            while not self._ended.empty():
                for value in self._ended.get()[1]:
                    self._discard(value)

    def _run(self) -> T:
        began = time.monotonic()
        until = began + self._longest
        pause = self._seconds / (2 * len(self._hosts))
        failures: dict[int, ConnectFailure] = {}
        begun = 0
        next_is_due = True
        while len(failures) < len(self._hosts):
            left = until - time.monotonic()
            if left <= 0:
                break
            if next_is_due and begun < len(self._hosts):
                self._begin(begun, max(began + self._seconds - time.monotonic(), 0.0), left)
                begun, next_is_due = begun + 1, False
            try:
                position, values, error = self._ended.get(
                    timeout=min(pause, left) if begun < len(self._hosts) else left
                )
            except queue.Empty:
                next_is_due = True
                continue
            if error is None:
                return values[0]
            if not isinstance(error, ConnectFailure):
                raise error
            failures[position] = error
            next_is_due = True
        raise _none_will_do(self._hosts, failures, self._seconds)

    def _begin(self, position: int, left: float, longest: float) -> None:
        host = self._hosts[position]

        def run() -> None:
            values: list[T] = []
            error: Exception | None = None
            try:
                seconds = max(round(left * _SHARE, 2), 0.01)
                values.append(_tried(host, seconds, self._attempt, self._discard, longest))
            except Exception as raised:  # noqa: BLE001 - raised again in the caller's thread
                error = raised
            with self._lock:
                if not self._over:
                    self._ended.put((position, values, error))
                    return
            for value in values:
                self._discard(value)

        threading.Thread(target=run, name="edgepaas-host", daemon=True).start()


def _none_will_do(
    hosts: Sequence[Address], failures: dict[int, ConnectFailure], seconds: float
) -> ConnectFailure:
    """Return the one failure of all *hosts*; those without one were not reached in time."""
    found = [
        failures.get(position) or wire.unreachable_failure(endpoint_of(host), seconds)
        for position, host in enumerate(hosts)
    ]
    said = [
        str(failure) if endpoint_of(host) in str(failure) else f"{endpoint_of(host)}: {failure}"
        for host, failure in zip(hosts, found, strict=True)
    ]
    full = any(failure.full for failure in found)
    # That one is a standby is as it should be; what keeps the others away is the reason, above
    # all where it may pass.
    telling = sorted(
        (failure for failure in found if failure.kind is not Failure.READ_ONLY),
        key=lambda failure: failure.permanent,
    )
    kind = Failure.BUSY if full else (telling[0].kind if telling else Failure.READ_ONLY)
    return ConnectFailure(
        kind,
        f"none of its {len(hosts)} hosts can be used: {'; '.join(said)}",
        permanent=all(failure.permanent for failure in found),
        full=full,
    )
