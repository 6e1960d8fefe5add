# SPDX-License-Identifier: Apache-2.0
"""How the tests are dealt out among the workers: one by one, in their order.

What begins first is what comes first, so nobody is left with the longest tests at the end. A
file whose tests share something costly goes to one worker, as ``--dist loadscope`` has it.
"""

from typing import Any

from xdist.scheduler import LoadScopeScheduling

#: What these files share is made once for all of their tests.
TOGETHER = frozenset((
    "tests/integration/test_drill_outage.py", "tests/integration/test_sync_mirror.py",
    "tests/integration/test_telemetry_api.py", "tests/unit/test_outbox_salvage.py",
))  # fmt: skip


class OneByOne(LoadScopeScheduling):  # type: ignore[misc]
    """Each test is a scope of its own, but for those of :data:`TOGETHER`."""

    def _split_scope(self, nodeid: str) -> Any:
        file = nodeid.partition("::")[0]
        return file if file in TOGETHER else nodeid
