# SPDX-License-Identifier: Apache-2.0
"""Delivering batches of readings over HTTP: patient with a box that is away for a moment."""

import json
import re
import time
from collections.abc import Callable, Sequence
from http.client import responses
from typing import Any
from urllib.parse import urlencode, urlsplit

from edgepaas.app import jitter, pause_after
from edgepaas.app.http import HttpAnswer, HttpFailure, HttpSession
from edgepaas.telemetry.importer.failures import ImportFailed
from edgepaas.telemetry.importer.importer import BatchRefused

#: Answers that a later attempt may change: limited, away behind a proxy, unavailable.
_TEMPORARY = frozenset({429, 502, 503, 504})
_PATH = "/api/v1/readings"
#: Seconds for one attempt: a busy box may take its time over 10,000 readings.
_DEADLINE = 120.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.25, 10.0
#: How much of an answer that is no JSON is quoted.
_QUOTED = 200
#: The position in a batch that an error's path names: ``[3].value``, ``readings[3].value``.
_POSITION = re.compile(r"^\w*\[(\d+)\]")


class HttpSender:
    """Posts batches to a box's ``/api/v1/readings``.

    What is temporary (no connection, 429, 502, 503, 504) is tried again, honouring
    ``Retry-After``, until *patience* seconds have passed since the last success. The
    readings carry ids, so that sending again after a lost answer doubles nothing.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        patience: float = 120.0,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        on_wait: Callable[[str], None] = lambda reason: None,
    ) -> None:
        self._base = url.rstrip("/")
        self._patience = patience
        self._clock, self._sleep, self._on_wait = clock, sleep, on_wait
        # Proxies of the environment are for the network beyond.
        beyond = _host(url) not in ("127.0.0.1", "::1", "localhost")
        headers = {"Content-Type": "application/json"}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        self._session = HttpSession(proxies=beyond, headers=headers)

    def __call__(self, readings: list[dict[str, Any]]) -> tuple[int, int]:
        """Deliver one batch; return (accepted, duplicates). Raises ImportFailed, BatchRefused."""
        body = json.dumps(readings, allow_nan=False).encode()
        return self._counts(self._answer("POST", _PATH, body))

    def deleted_ids(self, device: str, metrics: Sequence[str]) -> frozenset[str]:
        """Return the ids of readings that an operator deleted; raises ImportFailed.

        None where the box keeps no deletions, as earlier releases do not.
        """
        found: set[str] = set()
        for metric in metrics:
            query: dict[str, Any] = {"device": device, "metric": metric, "limit": 1000}
            while query:
                answer = self._answer("GET", f"{_PATH}/deletions?{urlencode(query)}")
                if answer.status != 200:
                    if answer.status in (401, 403):
                        raise self._no_token(answer)
                    return frozenset()
                try:
                    page = json.loads(answer.body)
                    found.update(one["reading_id"] for one in page["items"])
                    query = {**query, "cursor": page["next_cursor"]} if page["next_cursor"] else {}
                except (ValueError, KeyError, TypeError) as error:
                    raise self._another("it lists no deletions") from error
        return frozenset(found)

    def _answer(self, method: str, path: str, body: bytes | None = None) -> HttpAnswer:
        """Return the final answer to a request; raises ImportFailed where none comes."""
        give_up_at = self._clock() + self._patience
        failures = 0
        while True:
            answer, problem, wait = self._attempt(method, path, body)
            if answer is not None:
                return answer
            failures += 1
            if wait is None:
                pause = pause_after(failures, first=_FIRST_PAUSE, longest=_LONGEST_PAUSE)
                # Importers that lost the same box do not come back in the same instant.
                wait = pause * jitter(0.5)
            if self._clock() + wait > give_up_at:
                raise ImportFailed(
                    f"{self._base} took no readings for {self._patience:g} s: {problem}; see "
                    "'edgepaas status', wait longer with --patience, name another box with --url"
                )
            self._on_wait(problem)
            self._sleep(wait)

    def _attempt(
        self, method: str, path: str, body: bytes | None
    ) -> tuple[HttpAnswer | None, str, float | None]:
        """Return the final answer, or why there is none yet and after how many seconds to retry."""
        try:
            answer = self._session.request(
                method, f"{self._base}{path}", deadline=_DEADLINE, body=body
            )
        except HttpFailure as failure:
            if failure.kind in ("address", "tls"):
                raise ImportFailed(f"{self._base}: {failure}") from failure
            return None, f"no answer ({failure})", None
        if answer.status in _TEMPORARY:
            return None, f"answered {answer.status} ({_message(answer)})", _retry_after(answer)
        return answer, "", None

    def _counts(self, answer: HttpAnswer) -> tuple[int, int]:
        if answer.status == 201:
            try:
                body = json.loads(answer.body)
                return int(body["accepted"]), int(body["duplicates"])
            except (ValueError, KeyError, TypeError) as error:
                raise self._another("its answer 201 counts no readings") from error
        if answer.status in (401, 403):
            raise self._no_token(answer)
        said = self._said(answer)
        if answer.status in (409, 422):
            raise BatchRefused(said, _problems(answer))
        if answer.status in (404, 405):
            raise self._another(f"it answered {answer.status} to POST {_PATH}")
        if answer.status == 413:
            raise ImportFailed(f"{said}; send less at a time with --batch")
        raise ImportFailed(said)

    def _said(self, answer: HttpAnswer) -> str:
        return f"{self._base} answered {answer.status}: {_message(answer)}"

    def _no_token(self, answer: HttpAnswer) -> ImportFailed:
        return ImportFailed(
            f"{self._said(answer)}; run it as root on the box itself (sudo), or make a token with "
            "'edgepaas token create NAME', put it into a file and name that file with --token-file"
        )

    def _another(self, why: str) -> ImportFailed:
        return ImportFailed(
            f"telemetry does not run on {self._base}: {why}; name a box that runs it "
            "(EDGEPAAS_APP=telemetry) with --url"
        )


def _host(url: str) -> str:
    try:
        parts = urlsplit(url)
        if parts.scheme in ("http", "https") and parts.hostname and parts.port != 0:
            return parts.hostname
    except ValueError:  # a port that is no number, an unclosed bracket: the same way out
        pass
    raise ImportFailed(f"--url {url}: give the box's address, as in http://127.0.0.1:8080")


def _retry_after(answer: HttpAnswer) -> float | None:
    """Return the Retry-After of *answer* in seconds; None for none, or for the date form."""
    text = answer.headers.get("retry-after", "").strip()
    return max(float(text), _FIRST_PAUSE) if text.isascii() and text.isdigit() else None


def _message(answer: HttpAnswer) -> str:
    try:
        return str(json.loads(answer.body)["message"]).rstrip(
            "."
        )  # without its full stop: our message continues after it
    except (ValueError, KeyError, TypeError, RecursionError):
        text = answer.body[:_QUOTED].decode("utf-8", "replace").strip()
        return ascii(text) if text else responses.get(answer.status, "no reason")


def _problems(answer: HttpAnswer) -> dict[int, str]:
    """Return what the answer's details say, by position in the batch."""
    problems: dict[int, str] = {}
    try:
        details = json.loads(answer.body)["details"]
        for detail in details:
            position = _POSITION.match(str(detail["path"]))
            if position:
                field = str(detail["path"])[position.end() :].lstrip(".")
                text = ": ".join(filter(None, (field, str(detail["message"]))))
                problems.setdefault(int(position[1]), text)
    except (ValueError, KeyError, TypeError):
        return problems
    return problems
