# SPDX-License-Identifier: Apache-2.0
"""Secrets never reach a log: the filter of the handlers masks them, not each call site.

Two rules find them. What stands where secrets stand (behind the user in an address, behind
``password=``, ``PASSWORD '…'`` or ``Bearer``) is masked whatever it is. The values that the
settings hold are masked where they stand whole. A password that is a part of an ordinary word
is not searched for in that word: ``****paas`` would show it.
"""

import json
import logging
import re
import traceback

from edgepaas.logs.printable import escaped

MASK = "****"

#: What stands between user and host of an address is masked as a password; it may hold an ``@``.
_URL_PASSWORD = re.compile(r"""(?P<head>[A-Za-z][A-Za-z0-9+.-]*://[^\s/:@?#]*:)[^\s"'<>]*@""")
#: "basic" is an ordinary word, too: what follows it as a login has a digit or a padding.
_BEARER = re.compile(
    r"(?i)(\b(?:bearer|x-vault-token:?|basic(?=\s+[A-Za-z+/]*[0-9=]))\s+)[A-Za-z0-9._~+/=-]{6,}"
)
_ASSIGNED = re.compile(
    r"(?i)(?P<head>(?:password|passwd|secret|token)[\"']?\s*[=:]\s*)"
    r"(?:\"(?!\*)(?:[^\"\\]|\\.)*\"|'(?!\*)(?:[^'\\]|\\.)*'|(?!\*)[^\s,;&\"'}]+)"
)
#: SQL that a server repeats: ``ALTER ROLE edge PASSWORD 'x'``.
_SQL_PASSWORD = re.compile(r"(?i)(?P<head>\bpassword\s+[ebu]?&?)'(?:[^'\\]|''|\\.)*'")

_SHORTEST = 4  # masking shorter strings would mask half of every line
#: From so many characters of more than one kind on, a value is no part of an ordinary word.
_UNLIKELY_LENGTH = 12
#: Words of our own lines: masking one of them would show which one the secret is.
_COMMON_WORDS = """
    alert alerts admin application box database default disk edgepaas error false file host hub
    info localhost memory none node password postgres postgresql primary production ready root
    schema secret service socket sqlite standalone sync test token true user warning webhook
"""
_COMMON = frozenset(_COMMON_WORDS.split())

_HTML = {38: "&amp;", 60: "&lt;", 62: "&gt;", 34: "&quot;", 39: "&#x27;"}

_secrets: set[str] = set()
#: What finds them, by their number.
_patterns: dict[int, re.Pattern[str]] = {}


def register_secret(value: str) -> None:
    """Have *value* masked in every later log line of this process, however it is escaped."""
    if len(value) >= _SHORTEST:
        _secrets.add(value)


def redact(text: str) -> str:
    """Return *text* with registered secrets and everything that looks like one masked."""
    text = _URL_PASSWORD.sub(rf"\g<head>{MASK}@", text)
    text = _BEARER.sub(rf"\g<1>{MASK}", text)
    text = _ASSIGNED.sub(rf"\g<head>{MASK}", text)
    text = _SQL_PASSWORD.sub(rf"\g<head>'{MASK}'", text)
    if not _secrets:
        return text
    number = len(_secrets)
    if (pattern := _patterns.get(number)) is None:
        pattern = _patterns[number] = search_pattern(set(_secrets))
    return pattern.sub(MASK, text)


def search_pattern(secrets: set[str]) -> re.Pattern[str]:
    """Return what finds each of *secrets* where it stands whole, in any of its spellings."""
    found = {form for secret in secrets for form in spellings(secret)}
    patterns = [
        _alone(form)
        for form in sorted(found, key=len, reverse=True)
        if len(form) >= _SHORTEST and form.lower() not in _COMMON
    ]
    return re.compile("|".join(patterns) or r"(?!)")


def spellings(secret: str) -> set[str]:
    """Return *secret* as it is, and as URLs, JSON, Python and HTML write it."""
    from urllib.parse import quote, unquote  # loads much, and many processes log no secret

    plain = {secret, unquote(secret)}
    forms = set(plain)
    for one in plain:
        forms |= {quote(one), quote(one, safe=""), repr(one)[1:-1], one.translate(_HTML)}
        forms |= {json.dumps(one)[1:-1], json.dumps(one, ensure_ascii=False)[1:-1]}
    return forms


def _alone(form: str) -> str:
    """Return the pattern of *form*, beside letters and digits only where no word has it."""
    kinds = (str.islower, str.isupper, str.isdigit, lambda c: not c.isalnum())
    mixed = sum(any(kind(character) for character in form) for kind in kinds) > 1
    pattern = re.escape(form)
    if len(form) >= _UNLIKELY_LENGTH and mixed:
        return pattern
    before = r"(?<![^\W_])" if form[0].isalnum() else ""
    after = r"(?![^\W_])" if form[-1].isalnum() else ""
    return f"{before}{pattern}{after}"


class RedactingFilter(logging.Filter):
    """Rewrites each record once, message and traceback, from whichever logger it comes.

    Secrets are masked, and what would move a terminal's cursor is written out.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        if getattr(record, "redacted", False):
            return True
        try:
            message = record.getMessage()
        except (TypeError, ValueError):  # a caller's format and arguments do not fit
            message = f"{record.msg} {record.args}"
        record.msg, record.args = escaped(redact(message)), None
        if record.exc_info:
            trace = "".join(traceback.format_exception(*record.exc_info)).rstrip()
            record.exc_text = escaped(redact(trace))
            record.exc_info = None
        record.redacted = True
        return True
