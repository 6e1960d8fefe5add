# SPDX-License-Identifier: Apache-2.0
"""The dead man's switch: an address that is requested while the box is well.

The service behind it misses the requests of a box that cannot even raise an alert.
"""

import contextlib
import logging
from collections.abc import Callable, Mapping
from functools import partial

from edgepaas.alerts.channels.answers import Answer
from edgepaas.alerts.channels.config import AlertConfig
from edgepaas.alerts.channels.http_answers import judge_by
from edgepaas.alerts.spool.checksummed_json import checksummed_record, read_checksummed
from edgepaas.alerts.spool.folders import SpoolFolders
from edgepaas.files import shapes
from edgepaas.files.paths import Paths
from edgepaas.files.records import RecordType, same_fields
from edgepaas.settings.own_url import published_url
from edgepaas.timing.moment import Moment, read_moment

logger = logging.getLogger("edgepaas.alerts")

#: The timer comes by once a minute: a little early is better than most of a minute late.
_EARLY = 30.0
_WELL_TIMEOUT = 5.0

#: ``heartbeat.json``: when the last one was sent.
RECORD = RecordType("heartbeat", 2, {"at": shapes.moment}, {1: same_fields})

AskFor = Callable[[str, float], Answer]


def seconds_until_heartbeat(
    folders: SpoolFolders, config: AlertConfig, now: Moment
) -> float | None:
    """Return in how many seconds the next heartbeat is due, None when none is wanted."""
    if not config.heartbeat_url:
        return None
    try:
        last = RECORD.fields_of(read_checksummed(folders.root / "heartbeat.json"))
        passed = now.seconds_since(read_moment(last["at"]))
    except (OSError, ValueError):  # none yet, or one that is not understood
        return 0.0
    if passed is None:
        return 0.0
    early = min(_EARLY, config.heartbeat_interval / 4)
    return max(0.0, config.heartbeat_interval - early - passed)


def beat(
    paths: Paths,
    folders: SpoolFolders,
    config: AlertConfig,
    now: Moment,
    *,
    ask_for: AskFor | None = None,
) -> bool:
    """Ask for the heartbeat's address if it is due and the box is well; whether it was had."""
    if seconds_until_heartbeat(folders, config, now) != 0.0:
        return False
    if not is_well(paths):
        logger.warning("no heartbeat is sent: the service does not report that it is ready")
        return False
    ask = ask_for or partial(_ask_for, proxy=config.proxy)
    answer = ask(config.heartbeat_url, config.timeout)
    if answer.kind != "taken":
        logger.warning("the heartbeat was not taken: %s", answer.words)
        return False
    with contextlib.suppress(OSError):  # once more than needed does no harm
        folders.put(
            folders.root / "heartbeat.json",
            checksummed_record(RECORD, {"at": now.as_dict()}),
        )
    return True


def is_well(paths: Paths) -> bool:
    """Whether the service reports on loopback that it is ready."""
    from edgepaas.http_client import HttpFailure, fetch

    url = published_url(paths)
    try:
        answer = fetch("GET", f"{url}/health/ready", deadline=_WELL_TIMEOUT, most_bytes=0)
    except HttpFailure:  # also where nothing is published
        return False
    return answer.status == 200


def _ask_for(url: str, timeout: float, *, proxy: str) -> Answer:
    from edgepaas.alerts.channels.webhook import request

    return request("GET", url, timeout, judge=_judge, proxy=proxy)


def _judge(status: int, headers: Mapping[str, str], body: bytes) -> Answer:
    """Return what an answer means: a page is one of the services that wait for heartbeats."""
    return judge_by(status, headers, b"", lambda _said, _document: False)
