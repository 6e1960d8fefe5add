# SPDX-License-Identifier: Apache-2.0
"""A channel's answer, and what became of a notification."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["taken", "refused", "later"]


@dataclass(frozen=True)
class Answer:
    """*kind*: taken; refused, for what is in the message; or later, for any other fault.

    *words* for an operator. *reached*: the receiver may have it, though it did not confirm
    that. *down*: nothing answers there at all. *retry_after* in seconds, 0.0 without one.
    """

    kind: Kind
    words: str
    reached: bool = False
    down: bool = False
    retry_after: float = 0.0


@dataclass(frozen=True)
class Outcome:
    """What became of a notification: taken by *via*, refused by every channel, or for later.

    *refused*: the reason, by channel that is not asked again; *refusals*: how often each refused
    it; *reached*: a receiver may have it; *wait*: seconds until
    it is to be tried again.
    """

    kind: Kind
    via: str = ""
    words: str = ""
    reached: bool = False
    tried: bool = False
    wait: float = 0.0
    refused: Mapping[str, str] = field(default_factory=dict)
    refusals: Mapping[str, int] = field(default_factory=dict)
