# SPDX-License-Identifier: Apache-2.0
"""Taking over what was accepted and delivered in ``run/`` while the spool's disk was dead."""

import contextlib

from edgepaas.alerts.conditions.condition_store import ConditionStore
from edgepaas.alerts.spool.accept import Spool
from edgepaas.alerts.spool.alert import read_alert
from edgepaas.alerts.spool.checksummed_json import Damaged, read_checksummed
from edgepaas.alerts.spool.stand_in import stand_in
from edgepaas.files.paths import Paths


def take_over(paths: Paths) -> int:
    """Take what was accepted and delivered in ``run/`` into the spool; returns how many files.

    Raises OSError, NotSpooled, and then what is left there is taken the next time.
    """
    other = stand_in(paths)
    if not other.alerts.is_dir():
        return 0
    spool, taken = Spool(paths), 0
    store, temporary = ConditionStore(spool), ConditionStore(Spool(other))
    with store.lock():
        for condition in temporary.load_all():
            known = store.load(condition.name)
            if known is None or (known.state, condition.state) == ("resolved", "raised"):
                store.save(condition)
            elif (known.state, condition.state) == ("raised", "resolved"):
                spool.accept(
                    condition.ended_by,
                    severity="info",
                    fingerprint=condition.fingerprint,
                    origin=condition.origin,
                    resolved=True,
                    now=condition.ended,
                )
            temporary.delete(condition)
            taken += 1
    for path in sorted(temporary.spool.folders.new.glob("*.json")):
        with contextlib.suppress(Damaged):
            alert = read_alert(read_checksummed(path))
            spool.accept(
                alert.message,
                severity=alert.severity,
                fingerprint=alert.fingerprint,
                origin=alert.origin,
                resolved=alert.resolved,
                event=alert.event,
                alert_id=alert.id,
                now=alert.at,
            )
        path.unlink()
        taken += 1
    return taken
