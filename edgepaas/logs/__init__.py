# SPDX-License-Identifier: Apache-2.0
"""Logging: key=value or JSON lines, secrets redacted, the journal's priorities."""

from edgepaas.logs.redact import register_secret
from edgepaas.logs.setup import PRINTED, as_json, configure_logging, request_id

__all__ = ["PRINTED", "as_json", "configure_logging", "register_secret", "request_id"]
