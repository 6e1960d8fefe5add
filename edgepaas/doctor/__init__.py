# SPDX-License-Identifier: Apache-2.0
"""``edgepaas doctor``: examines everything that the box needs and advises what to do.

``preflight`` lists the examinations in their order, ``findings`` runs each within a time limit.
The examinations themselves: ``machine`` (clock, memory, disk, folders, port), ``data`` (DNS, TLS,
PostgreSQL, the SQLite file, schema, alerts, tokens, services), ``forwarding`` (capture, ledger,
disk budget, ballast, hub, drainer).

A new finding is a function in one of these three that returns a Finding (or several), and a line
in ``preflight._examinations``. A check that runs all the time while the box serves, and decides
whether it is ready, belongs to ``edgepaas/health`` instead (a Check in ``health/gate.py``).
"""

from edgepaas.doctor.findings import Examination, Finding, examine

__all__ = ["Examination", "Finding", "examine"]
