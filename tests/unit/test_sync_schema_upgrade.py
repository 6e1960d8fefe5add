# SPDX-License-Identifier: Apache-2.0
"""The child process that upgrades the hub's schema: failing, and stopped."""

import os
import threading
from pathlib import Path

import pytest

from edgepaas.errors import EXIT_DECIDE_AGAIN
from edgepaas.sync.hub.schema_upgrade import HubSchemaUpgrade, SchemaBlocked
from edgepaas.sync.shutdown import Stopped, StopRequest
from tests.support.service_process import until


def test_a_schema_stage_that_fails_blocks_with_its_last_line(tmp_path: Path) -> None:
    script = tmp_path / "schema"
    script.write_text("#!/bin/sh\necho first\necho 'edgepaas: it does not fit' >&2\nexit 1\n")
    script.chmod(0o755)
    schema = HubSchemaUpgrade([str(script)], {}, StopRequest(), at_head=False)
    with pytest.raises(SchemaBlocked, match="it does not fit"):
        schema.run()
    assert not schema.at_head


def test_a_schema_stage_that_takes_long_does_not_outlive_a_stop(tmp_path: Path) -> None:
    script = tmp_path / "schema"
    script.write_text(f"#!/bin/sh\necho $$ > {tmp_path}/pid\nexec sleep 600\n")
    script.chmod(0o755)
    stop = StopRequest()
    schema = HubSchemaUpgrade([str(script)], {"PATH": "/usr/bin:/bin"}, stop, at_head=False)
    pid_file = tmp_path / "pid"

    def end() -> None:
        until(lambda: pid_file.exists() and pid_file.read_text().strip(), "the child")
        stop.request(EXIT_DECIDE_AGAIN, "a new decision")

    threading.Thread(target=end).start()
    with pytest.raises(Stopped):
        schema.run()
    pid = int(pid_file.read_text())

    def ended() -> bool:
        try:
            return os.waitpid(pid, os.WNOHANG)[0] == pid
        except ChildProcessError:
            return True  # its Popen has gone, and taken its status in

    until(ended, "the end of the child")
