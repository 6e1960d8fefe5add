# SPDX-License-Identifier: Apache-2.0
"""Secrets never reach a log: the filter of the handlers masks them, not each call site."""

import logging
import re
import traceback

MASK = "****"

#: What stands between user and host of an address is masked as a password.
_URL_PASSWORD = re.compile(r"(?P<head>[A-Za-z][A-Za-z0-9+.-]*://[^\s/:@?#]*:)[^\s@]*@")
_BEARER = re.compile(r"(?i)(\b(?:bearer|x-vault-token:?)\s+)[A-Za-z0-9._~+/=-]{6,}")
_ASSIGNED = re.compile(
    r"""(?i)((?:password|passwd|secret|token)["']?\s*[=:]\s*["']?)(?!\*)[^\s,;&"'}]+"""
)

_secrets: set[str] = set()
_SHORTEST = 4  # masking shorter strings would mask half of every line


def register_secret(value: str) -> None:
    """Have *value* masked in every later log line of this process."""
    if len(value) >= _SHORTEST:
        _secrets.add(value)


def redact(text: str) -> str:
    """Return *text* with registered secrets and everything that looks like one masked."""
    for secret in sorted(_secrets, key=len, reverse=True):
        text = text.replace(secret, MASK)
    text = _URL_PASSWORD.sub(rf"\g<head>{MASK}@", text)
    text = _BEARER.sub(rf"\g<1>{MASK}", text)
    return _ASSIGNED.sub(rf"\g<1>{MASK}", text)


class RedactingFilter(logging.Filter):
    """Rewrites each record once, message and traceback, from whichever logger it comes."""

    def filter(self, record: logging.LogRecord) -> bool:
        if getattr(record, "redacted", False):
            return True
        try:
            message = record.getMessage()
        except (TypeError, ValueError):  # a caller's format and arguments do not fit
            message = f"{record.msg} {record.args}"
        record.msg, record.args = redact(message), None
        if record.exc_info:
            record.exc_text = redact("".join(traceback.format_exception(*record.exc_info)).rstrip())
            record.exc_info = None
        record.redacted = True
        return True
