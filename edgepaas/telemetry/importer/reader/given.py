# SPDX-License-Identifier: Apache-2.0
"""What the operator says of how a file is written."""

from collections.abc import Mapping
from dataclasses import dataclass

from edgepaas.telemetry.importer.reader.cells import Quotes


@dataclass(frozen=True)
class Given:
    """What the operator says of a file; None: it is to be found out.

    *time_columns* are joined by a blank. *columns* are those with values by the metric's
    name that each gets; None: all others, each of its own name (a wide file).
    """

    time_columns: tuple[str, ...] = ("timestamp",)
    columns: Mapping[str, str] | None = None
    encoding: str | None = None
    delimiter: str | None = None
    decimal: str | None = None
    thousands: str = ""
    time_format: str | None = None
    quotes: Quotes = "strict"
    header_line: int | None = None
