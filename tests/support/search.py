# SPDX-License-Identifier: Apache-2.0
"""How long the tests that search for a counter-example search: a little here, long in a soak."""

import os

from hypothesis import HealthCheck, settings

SOAK = bool(os.environ.get("EDGEPAAS_SOAK"))
#: Tries of a search that says nothing else.
TRIES = 30


def tries(here: int = TRIES, soak: int = 0) -> int:
    """Return how many examples to try: *here*, or *soak* of them (else a hundred times *here*)."""
    return (soak or 100 * here) if SOAK else here


def set_up() -> None:
    """Have every search of Hypothesis that says nothing else try as many."""
    # How fast an example is made says more of what else the machine does than of the test.
    settings.register_profile(
        "edgepaas",
        max_examples=tries(),
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
    )
    settings.load_profile("edgepaas")
