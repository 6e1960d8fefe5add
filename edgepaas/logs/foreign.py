# SPDX-License-Identifier: Apache-2.0
"""What another program answered, as it may be shown: printable, and without our secrets.

A receiver's error page repeats the address that was asked for, or the login. How it writes them
cannot be known: so a text that holds one in any spelling is left out as a whole.
"""

import re
from collections.abc import Iterable

from edgepaas.logs.printable import printable_line
from edgepaas.logs.redact import redact

#: Characters that are shown of an answer.
LONGEST = 300
LEFT_OUT = "(what it says repeats a secret and is left out)"
#: Shorter ones are looked for as whole words.
_PART_OF_A_WORD = 8
_SHORTEST = 3
_MOST_DECODINGS = 3
_ENTITY = re.compile(r"&(?:#(\d{1,7})|#[xX]([0-9a-fA-F]{1,6})|amp|lt|gt|quot|apos|sol|nbsp);")
_NAMED = {"amp": "&", "lt": "<", "gt": ">", "quot": '"', "apos": "'", "sol": "/", "nbsp": " "}
_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|x([0-9a-fA-F]{2})|([\"'\\/]))")


def foreign_text(text: str, secrets: Iterable[str] = ()) -> str:
    """Return *text* of another program as one line; what repeats one of *secrets* is left out."""
    if any(repeats(text, secret) for secret in secrets):
        return LEFT_OUT
    said = redact(printable_line(text))
    return said if len(said) <= LONGEST else said[: LONGEST - 1] + "…"


def repeats(text: str, secret: str) -> bool:
    """Whether *text* holds *secret*, or a good part of it, in any spelling."""
    wanted = _letters(_decoded(secret)[-1])
    if len(wanted) < _SHORTEST:
        return len(secret) >= _SHORTEST and secret in text
    for form in _decoded(text):
        if len(wanted) < _PART_OF_A_WORD:
            if wanted in (_letters(word) for word in re.split(r"[^\w]+", form)):
                return True
            continue
        letters = _letters(form)
        windows = range(len(wanted) - _PART_OF_A_WORD + 1)
        if any(wanted[start : start + _PART_OF_A_WORD] in letters for start in windows):
            return True
    return False


def _letters(text: str) -> str:
    return "".join(filter(str.isalnum, text)).casefold()


def _decoded(text: str) -> list[str]:
    """Return *text* as it is, and what is left of it once each kind of escape is undone."""
    from urllib.parse import unquote

    forms = [text]
    for _ in range(_MOST_DECODINGS):
        plain = _ESCAPE.sub(_of_escape, _ENTITY.sub(_of_entity, unquote(forms[-1])))
        if plain == forms[-1]:
            break
        forms.append(plain)
    return forms


def _of_entity(match: re.Match[str]) -> str:
    if match[1] or match[2]:
        return _character(int(match[1]) if match[1] else int(match[2], 16))
    return _NAMED[match[0][1:-1]]


def _of_escape(match: re.Match[str]) -> str:
    return match[3] or _character(int(match[1] or match[2], 16))


def _character(number: int) -> str:
    return chr(number) if number < 0x110000 else "\N{REPLACEMENT CHARACTER}"
