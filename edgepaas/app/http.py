# SPDX-License-Identifier: Apache-2.0
"""Requests to other servers, under a deadline that bounds the whole exchange.

A :class:`HttpSession` follows no redirect and uses no proxy unless it is told to, trusts what
the system trusts, and reads answers up to a bound. :class:`HttpFailure` says what went wrong
without a word of the request, which may hold a secret.
"""

from edgepaas.http_client import FailureKind, HttpAnswer, HttpFailure, HttpSession

__all__ = ["FailureKind", "HttpAnswer", "HttpFailure", "HttpSession"]
