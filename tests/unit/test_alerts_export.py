# SPDX-License-Identifier: Apache-2.0
"""``edgepaas alerts export``: the history for a spreadsheet or a program, the oldest first."""

import csv
import io
import json

import pytest

from edgepaas.alerts import history
from edgepaas.cli import main
from edgepaas.files.paths import Paths
from edgepaas.timing.moment import Moment


def test_both_forms_hold_the_history_and_filter_it_by_time(
    paths: Paths, capsys: pytest.CaptureFixture[str]
) -> None:
    paths.alerts.mkdir(parents=True, exist_ok=True)
    for day in range(3):
        now = Moment(wall=day * 86400.0, since_boot=1.0, boot_id="b")
        values = {"severity": "warning", "fingerprint": "pump", "message": f'day {day}, "dry"'}
        history.record(paths.alerts, "raised", now, f"{day}", **values)
    assert main(["alerts", "export"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["message"] for row in rows] == [f'day {day}, "dry"' for day in range(3)]
    asked = ["--format", "ndjson", "--from", "1970-01-02", "--to", "1970-01-03T01:00:00+01:00"]
    assert main(["alerts", "export", *asked]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line)["time"] == "1970-01-02T00:00:00Z"
    assert main(["alerts", "export", "--from", "yesterday"]) == 2
