# SPDX-License-Identifier: Apache-2.0
"""The routes that probes ask for: one list for guards, lanes and the early responder.

Standard library only: they are answered before anything else is loaded.
"""

#: What probes and scrapers ask for, exactly; a prefix would open whatever an application has there.
PROBE_PATHS = frozenset(
    {
        *("/health", "/health/live", "/health/ready", "/ready", "/health/db", "/health/system"),
        "/metrics",
    }
)

#: A probe only asks; any other method on such a path may be an application's own route.
PROBE_METHODS = frozenset({"GET", "HEAD"})


def is_probe(method: str, path: str) -> bool:
    """Tell whether *method* on *path* is a probe, which the platform itself answers."""
    return method in PROBE_METHODS and path in PROBE_PATHS
