# SPDX-License-Identifier: Apache-2.0
"""Reading every page of a list over HTTP: patient with a box that is away for a moment."""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.parse import urlencode

from edgepaas.app import jitter, pause_after
from edgepaas.app.errors import EdgePaaSError
from edgepaas.app.http import HttpAnswer, HttpFailure, HttpSession

#: Answers that a later attempt may change: limited, away behind a proxy, unavailable.
_TEMPORARY = frozenset({429, 502, 503, 504})
_PATH = "/api/v1/readings"
#: The most that one page holds.
_PAGE = 1000
_DEADLINE = 60.0
_MOST_BYTES = 8 * 1024 * 1024
_FIRST_PAUSE, _LONGEST_PAUSE = 0.25, 10.0

Page = tuple[list[dict[str, Any]], bool]


class ExportFailed(EdgePaaSError):
    """The list was not read to its end; says why and the way out."""


class ReadingPages:
    """The pages of a box's readings; each is asked for again until *patience* seconds are over."""

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
        headers = {"Accept": "application/json"}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        self._session = HttpSession(headers=headers)

    def read(self, query: Mapping[str, str]) -> Iterator[Page]:
        """Yield (readings, whether rows may be missing that PostgreSQL alone has) to the end.

        Raises ExportFailed.
        """
        cursor = ""
        while True:
            given = {**query, "limit": str(_PAGE), **({"cursor": cursor} if cursor else {})}
            page = self._page(f"{self._base}{_PATH}?{urlencode(given)}")
            try:
                items, partial = page["items"], bool(page.get("partial"))
                cursor = page["next_cursor"] or ""
            except (KeyError, TypeError) as error:
                raise self._another("its answer is no page of readings") from error
            yield items, partial
            if not cursor:
                return

    def _page(self, address: str) -> dict[str, Any]:
        give_up_at = self._clock() + self._patience
        failures = 0
        while True:
            answer, problem = self._attempt(address)
            if answer is not None:
                return self._document(answer)
            failures += 1
            wait = pause_after(failures, first=_FIRST_PAUSE, longest=_LONGEST_PAUSE) * jitter(0.5)
            if self._clock() + wait > give_up_at:
                raise ExportFailed(
                    f"{self._base} gave no readings for {self._patience:g} s: {problem}; see "
                    "'edgepaas status', wait longer with --patience, name another box with --url"
                )
            self._on_wait(problem)
            self._sleep(wait)

    def _attempt(self, address: str) -> tuple[HttpAnswer | None, str]:
        try:
            answer = self._session.request(
                "GET", address, deadline=_DEADLINE, most_bytes=_MOST_BYTES
            )
        except HttpFailure as failure:
            if failure.kind in ("address", "tls"):
                raise ExportFailed(f"{self._base}: {failure}") from failure
            return None, f"no answer ({failure})"
        if answer.status in _TEMPORARY:
            return None, f"answered {answer.status} ({_message(answer)})"
        return answer, ""

    def _document(self, answer: HttpAnswer) -> dict[str, Any]:
        said = f"{self._base} answered {answer.status}: {_message(answer)}"
        if answer.status in (401, 403):
            raise ExportFailed(
                f"{said}; run it as root on the box itself (sudo), or name a file that holds a "
                "token with --token-file"
            )
        if answer.status in (404, 405):
            raise self._another(f"it answered {answer.status} to GET {_PATH}")
        if answer.status != 200:
            raise ExportFailed(said)
        try:
            found = json.loads(answer.body)
        except (ValueError, RecursionError) as error:
            raise self._another("its answer is no JSON") from error
        if not isinstance(found, dict):
            raise self._another("its answer is no page of readings")
        return found

    def _another(self, why: str) -> ExportFailed:
        return ExportFailed(
            f"telemetry does not run on {self._base}: {why}; name a box that runs it "
            "(EDGEPAAS_APP=telemetry) with --url"
        )


def _message(answer: HttpAnswer) -> str:
    try:
        return str(json.loads(answer.body)["message"]).rstrip(".")
    except (ValueError, KeyError, TypeError, RecursionError):
        return ascii(answer.body[:200].decode("utf-8", "replace").strip()) or "no reason"
