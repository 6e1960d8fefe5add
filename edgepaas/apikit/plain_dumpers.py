# SPDX-License-Identifier: Apache-2.0
"""How values are written as JSON, as a driver returned them: SQLite's forms and PostgreSQL's."""

import json
import uuid
from json.encoder import encode_basestring_ascii
from typing import Any


def dump_text(value: Any) -> str:
    """Return a text as JSON, in ASCII."""
    return encode_basestring_ascii(value if type(value) is str else str(value))


def dump_number(value: Any) -> str:
    """Return a number of a floating-point column as JSON."""
    return float.__repr__(value if type(value) is float else float(value))


def dump_boolean(value: Any) -> str:
    """Return a truth, which SQLite has as 0 or 1, as JSON."""
    return "true" if value else "false"


def dump_integer(value: Any) -> str:
    """Return a whole number as JSON."""
    return int.__repr__(int(value))


def dump_document(value: Any) -> str:
    """Return a JSON document, which SQLite has as its text, as compact JSON."""
    return json.dumps(json.loads(value) if type(value) is str else value, separators=(",", ":"))


def dump_uuid(value: Any) -> str:
    """Return a UUID, which SQLite has as its text, as JSON."""
    return f'"{value}"' if type(value) is uuid.UUID else encode_basestring_ascii(str(value))
