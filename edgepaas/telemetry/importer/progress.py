# SPDX-License-Identifier: Apache-2.0
"""Showing how far an import has come: a bar on a terminal, a line now and then elsewhere."""

import time
from collections.abc import Callable
from typing import TextIO

from edgepaas.telemetry.importer.failures import counted
from edgepaas.telemetry.importer.importer import Progress

_BAR_WIDTH = 24
#: Seconds between two drawings: on a terminal, and in a log.
_REDRAW, _LINE_EVERY = 0.1, 5.0


class ProgressDisplay:
    """Draws progress on *stream*, which is meant to be standard error."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._clock = clock
        self._terminal = stream.isatty()
        self._started = clock()
        self._drawn_at = float("-inf")
        self._width = 0

    def update(self, progress: Progress) -> None:
        """Show *progress*, unless something was shown a moment ago."""
        now = self._clock()
        last = progress.done >= progress.total
        if not last and now - self._drawn_at < (_REDRAW if self._terminal else _LINE_EVERY):
            return
        self._drawn_at = now
        self._write(self._text(progress, max(now - self._started, 1e-6)))
        if last:
            self.close()

    def note(self, reason: str) -> None:
        """Say why nothing moves."""
        self._write(f"waiting for the box: {reason}")
        self._drawn_at = self._clock()

    def close(self) -> None:
        """End the bar's line, so that what is printed next does not run into it."""
        if self._terminal and self._width:
            self._stream.write("\n")
            self._stream.flush()
        self._width = 0

    def _text(self, progress: Progress, seconds: float) -> str:
        share = progress.done / progress.total if progress.total else 1.0
        speed = progress.done / seconds
        text = (
            f"{progress.done:,}/{counted(progress.total, 'reading')} ({share:.0%}), {speed:,.0f}/s"
        )
        if 0 < progress.done < progress.total:
            text += f", {(progress.total - progress.done) / speed:.0f} s left"
        if not self._terminal:
            return text
        filled = int(share * _BAR_WIDTH)
        return f"[{'#' * filled}{'.' * (_BAR_WIDTH - filled)}] {text}"

    def _write(self, text: str) -> None:
        if self._terminal:
            # A shorter text has to blank out the rest of the longer one below it.
            self._stream.write("\r" + text.ljust(self._width))
            self._width = len(text)
        else:
            self._stream.write(text + "\n")
        self._stream.flush()
