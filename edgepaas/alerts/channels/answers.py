# SPDX-License-Identifier: Apache-2.0
"""A channel's answer, and what became of a notification."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["taken", "refused", "later"]


@dataclass(frozen=True)
class Answer:
    """*kind*: taken; refused for good, so that asking again is of no use; or later.

    *words* for a person. *reached*: the receiver may have it, though it did not say so.
    *down*: nobody answers there at all. *retry_after* in seconds, 0.0 when it did not say.
    """

    kind: Kind
    words: str
    reached: bool = False
    down: bool = False
    retry_after: float = 0.0


@dataclass(frozen=True)
class Outcome:
    """What became of a notification: taken by *via*, refused by every channel, or for later.

    *refused* says why, by channel; *reached*: a receiver may have it; *wait*: seconds until
    it is to be tried again.
    """

    kind: Kind
    via: str = ""
    words: str = ""
    reached: bool = False
    tried: bool = False
    wait: float = 0.0
    refused: Mapping[str, str] = field(default_factory=dict)
