# SPDX-License-Identifier: Apache-2.0
"""A release that cannot work on the database: 503 with the reason, and every row where it was."""

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from edgepaas.files.paths import Paths
from edgepaas.schema.open_problems import record_refusal
from tests.support.chains import (
    REPOSITORY,
    SHOP,
    bring,
    migrations_folder,
    rows_in,
    sell,
    shop,
    upgrade_body,
    version_of,
    write_revision,
)
from tests.support.service_process import (
    Manager,
    Process,
    child_environ,
    edgepaas,
    free_port,
    get,
    ready_document,
    until,
    write_contracts,
)

_APPLICATION = """
from pathlib import Path

from edgepaas.app import Application
from tests.support.chains import shop_models


def wsgi(box):
    def answer(environ, start_response):
        start_response("200 OK", [])
        return [b"served"]

    return answer


application = Application(
    name="shop",
    models=lambda: shop_models("0002"),
    migrations=Path(__file__).with_name("migrations"),
    wsgi=wsgi,
    guarded=False,
)
"""


class ShopBox:
    """A box with three sales of release 0001, whose new release has the migration *body*."""

    def __init__(self, folder: Path, paths: Paths, body: str) -> None:
        bring(paths, shop(folder, "0001"))
        sell(paths)
        self._folder = folder / "source"
        self.port = free_port()
        self.migrations = migrations_folder(self._folder / "migrations", ["0001"])
        write_revision(self.migrations, "0002", "0001", body)
        (self._folder / "shop_of_a_test.py").write_text(_APPLICATION)

    def _environ(self) -> dict[str, str]:
        return os.environ | {
            "PYTHONPATH": f"{self._folder}:{REPOSITORY}",
            "EDGEPAAS_APP": "shop_of_a_test:application",
            "PORT": str(self.port),
            "LOG_FILE": "none",
        }

    def start(self) -> Process:
        """Start ``edgepaas up`` with the new release."""
        return Process(edgepaas("up"), self._folder, self._environ())

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command of the new release."""
        return subprocess.run(
            edgepaas(*arguments),
            env=self._environ(),
            capture_output=True,
            text=True,
            check=False,
        )


def until_refused(port: int) -> str:
    """Wait for the answer 503 with a reason that is not of the start; return the reasons."""

    def reasons() -> str:
        status, body = get(port, "/health/ready", timeout=5)
        found = " ".join(json.loads(body)["reasons"]) if body else ""
        return found if status == 503 and "being loaded" not in found else ""

    return str(until(reasons, "an answer that says why", 60.0))


def test_a_failing_migration_is_answered_with_503_and_mended_by_the_next_release(
    paths: Paths, tmp_path: Path
) -> None:
    """The empty database was ready, took writes, and the rows stayed aside for good."""
    box = ShopBox(tmp_path, paths, upgrade_body('raise ValueError("a bug of the release")'))
    up = box.start()
    try:
        reason = until_refused(box.port)
        assert "a bug of the release" in reason
        assert "left as it is" in reason
        assert get(box.port, "/health/live")[0] == 200
        status, body = get(box.port, "/sales")
        assert status == 503
        assert b"schema is refused" in body
        assert b"a bug" not in body, "a client needs no paths of the box"
        up.signal(signal.SIGTERM)
        assert up.wait(90.0) == 0
    finally:
        up.close()
    assert version_of(paths.sqlite) == "0001"
    assert len(rows_in(paths.sqlite, "sales")) == 3
    assert not paths.quarantine.exists()
    write_revision(box.migrations, "0002", *SHOP["0002"])
    up = box.start()
    try:
        until(lambda: get(box.port, "/health/ready", timeout=5)[0] == 200, "readiness", 90.0)
        assert get(box.port, "/sales") == (200, b"served")
    finally:
        up.close()
    assert version_of(paths.sqlite) == "0002"
    assert len(rows_in(paths.sqlite, "sales")) == 3


@pytest.mark.parametrize("supervised", [True, False])
def test_a_refused_service_neither_loads_the_application_nor_gets_ready(
    paths: Paths, tmp_path: Path, supervised: bool
) -> None:
    """Below a manager it answers until it is stopped; at a terminal it ends with the reason."""
    port = free_port()
    write_contracts(paths, PORT=str(port), EDGEPAAS_APP="nowhere:application")
    record_refusal(paths, "the file is another release's", "")
    manager = Manager(tmp_path)
    environ = child_environ(tmp_path)
    if supervised:
        environ |= {"NOTIFY_SOCKET": str(manager.path)}
    process = Process(edgepaas("serve"), tmp_path, environ)
    try:
        if supervised:
            assert until_refused(port) == "the file is another release's"
            assert ready_document(port)["state"] == "starting"
            manager.wait_for("STATUS=answering 503: the file is another release's")
            assert manager.count("READY=1") == 0
            process.signal(signal.SIGTERM)
            assert process.wait(90.0) == 0
        else:
            assert process.wait(60.0) == 1
            assert "the file is another release's" in process.output
    finally:
        process.close()
        manager.close()


def test_a_refused_migration_is_not_run_again_by_the_next_process(
    paths: Paths, tmp_path: Path
) -> None:
    """The chain runs it in a process each minute; only a change of code or file is a reason to."""
    box = ShopBox(tmp_path, paths, upgrade_body('raise ValueError("a bug of the release")'))
    ran = 'failed: a bug of the release"'
    for stage in ("env", "dbdecide"):
        assert box.run(stage).returncode == 0
    first, second = box.run("schema"), box.run("schema")
    assert ran in first.stderr
    assert "REFUSED" in first.stdout
    assert ran not in second.stderr
    assert "a bug of the release" in second.stdout
    write_revision(box.migrations, "0002", "0001", upgrade_body('raise ValueError("another bug")'))
    assert "another bug" in box.run("schema").stdout
    assert box.run("schema", "--check").returncode == 1
