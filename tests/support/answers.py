# SPDX-License-Identifier: Apache-2.0
"""What a test reads of an answer."""

from typing import Any

from werkzeug.test import TestResponse


def json_of(answer: TestResponse) -> Any:
    """Return the JSON body of *answer*, which has one: any other body fails the test."""
    assert answer.json is not None, (answer.status, answer.get_data(as_text=True)[:200])
    return answer.json
