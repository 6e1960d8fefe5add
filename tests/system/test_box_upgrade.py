# SPDX-License-Identifier: Apache-2.0
"""Upgrade with a migration and under load, downgrade, removal, purge, installation again."""

import time
from pathlib import Path

import pytest

from tests.system.appliance import ENV_FILE, PACKAGE, Appliance
from tests.system.client import Writers
from tests.system.hub import Hub
from tests.system.repack import BROKEN, GOOD, later_build

OWN_FOLDERS = ("/etc/edgepaas", "/var/lib/edgepaas", "/var/log/edgepaas", "/var/spool/edgepaas")


def test_an_upgrade_with_a_migration_fails_no_request_and_keeps_everything(
    appliance: Appliance, tmp_path: Path
) -> None:
    """The SQLite file is backed up first; the operator's file of settings stays as it is."""
    later = later_build(appliance.package, tmp_path, version="99.1", migration=GOOD)
    appliance.configure(APP_KEPT="yes")
    settings = appliance.path(ENV_FILE).read_text()
    before = appliance.writer.write("press", 1.0)
    with Writers(appliance.writer) as writers:
        writers.wait_for(20)
        appliance.install(later)
        writers.wait_for(20)
    print(f"{len(writers.acknowledged)} writes, the longest took {writers.longest:.1f} s")
    assert writers.failures == []
    assert not set(writers.acknowledged) - set(appliance.writer.stored("load"))
    assert before in appliance.writer.stored("press")
    assert appliance.path(ENV_FILE).read_text() == settings
    assert "99.1" in appliance.show("edgepaas.service", "StatusText")
    assert list(appliance.path("/var/lib/edgepaas/backups").iterdir())
    schema = appliance.sh("edgepaas schema --check --json")
    assert "9999" in schema


def test_an_upgrade_has_sync_run_the_new_build_and_leaves_alerting_on(
    installed: Appliance, hub: Hub, tmp_path: Path
) -> None:
    """PostgreSQL serves, and is told which build the box runs."""
    edge = hub.wire.edge
    with Appliance("later", installed.package, template=installed, namespace=edge) as box:
        box.write("/etc/edgepaas/hub.pem", hub.authority, 0o644)
        box.configure(DATABASE_URL=hub.url, DB_SSLROOTCERT="/etc/edgepaas/hub.pem")
        box.restart(word="primary")
        box.install(later_build(box.package, tmp_path, version="99.1"))
        deadline = time.monotonic() + 60
        while hub.execute("SELECT build FROM nodes WHERE build LIKE '%99.1%'") == []:
            assert time.monotonic() < deadline, hub.execute("SELECT * FROM nodes")
            time.sleep(0.5)
        for unit in ("edgepaas-sync.service", "edgepaas-alerts.path", "edgepaas-alerts.timer"):
            box.wait_for_state(unit, "active")
        assert box.show("edgepaas-sync.service", "NeedDaemonReload") == "no"
        assert box.sh("systemctl --failed --plain --no-legend --no-pager") == ""


def test_a_migration_that_fails_does_not_keep_the_box_from_starting(
    appliance: Appliance, tmp_path: Path
) -> None:
    """Its tables fit the new build: the file stays and serves, degraded, and an alert says why."""
    later = later_build(appliance.package, tmp_path, version="99.2", migration=BROKEN)
    kept = appliance.writer.write("press", 1.0)
    appliance.install(later)
    ready = appliance.client.wait_ready(word="degraded")
    assert ready["status"] == 200
    assert not appliance.path("/var/lib/edgepaas/quarantine").exists()
    assert "ALERT" in appliance.journal("-b", "-u", "edgepaas-schema", "-p", "warning")
    assert kept in appliance.writer.stored("press")


def test_a_downgrade_is_refused_unless_forced_and_then_serves(
    appliance: Appliance, tmp_path: Path
) -> None:
    """Forced, the older build meets a schema from its future: data are put aside, not lost."""
    kept = appliance.writer.write("press", 1.0)
    appliance.install(later_build(appliance.package, tmp_path, version="99.1", migration=GOOD))
    appliance.copy_in(appliance.package, PACKAGE)
    refused = appliance.exec("apt-get", "install", "-y", PACKAGE, check=False, timeout=120)
    assert refused.returncode != 0
    assert appliance.client.state()["status"] == 200
    appliance.install(appliance.package, "--allow-downgrades")
    appliance.client.wait_ready()
    aside = appliance.path("/var/lib/edgepaas/quarantine")
    assert kept in appliance.writer.stored("press") or list(aside.iterdir())


def test_removal_keeps_data_and_settings_and_installing_again_finds_them(
    appliance: Appliance,
) -> None:
    appliance.configure(APP_KEPT="yes")
    kept = appliance.writer.write("press", 1.0)
    appliance.exec("apt-get", "remove", "-y", "edgepaas", timeout=120)
    with pytest.raises(OSError, match="refused"):
        appliance.client.get("/health/live")
    assert appliance.path("/var/lib/edgepaas/edgepaas.db").is_file()
    assert "APP_KEPT" in appliance.path(ENV_FILE).read_text()
    appliance.install()
    assert kept in appliance.writer.stored("press")


def test_a_purge_leaves_nothing_and_installing_again_works(appliance: Appliance) -> None:
    appliance.writer.write("press", 1.0)
    appliance.exec("apt-get", "purge", "-y", "edgepaas", timeout=120)
    left = appliance.sh(
        "find / -xdev -iname '*edgepaas*' -not -path '/proc/*' -not -path '/sys/*' "
        f"-not -path '{PACKAGE}'; find /run -iname '*edgepaas*'"
    ).splitlines()
    assert left == []
    assert appliance.sh("systemctl list-unit-files --no-legend 'edgepaas*' || true") == ""
    assert appliance.sh("systemctl --failed --plain --no-legend --no-pager") == ""
    for folder in OWN_FOLDERS:
        assert not appliance.path(folder).exists()
    appliance._token = ""
    appliance.install()
    assert appliance.writer.stored("press") == []


def test_a_purge_keeps_rows_that_have_not_reached_postgresql_and_says_so(
    appliance: Appliance,
) -> None:
    """PostgreSQL is away: what the box acknowledged is nowhere else."""
    appliance.configure(DATABASE_URL="postgresql://edge@127.0.0.1:9/edge")
    appliance.restart()
    appliance.writer.write("press", 1.0)
    said = appliance.exec("apt-get", "purge", "-y", "edgepaas", timeout=120).stdout
    assert "rows of this box have not reached PostgreSQL" in said
    for folder in OWN_FOLDERS:
        assert not appliance.path(folder).exists()
    (kept,) = appliance.path("/var/backups/edgepaas").iterdir()
    names = {path.name for path in kept.iterdir()}
    assert {"edgepaas.db", "node.json"} <= names
    assert appliance.sh("stat -c '%U %a' /var/backups/edgepaas").strip() == "root 700"
    assert kept.name in said
    appliance.sh("rm -r /var/backups/edgepaas")
    appliance._token = ""
    appliance.install()
    assert appliance.writer.stored("press") == []


def test_installing_while_a_stage_has_something_to_complain_of_succeeds(
    appliance: Appliance,
) -> None:
    """apt is content although the chain fails; the operator reads why and mends it."""
    good = appliance.path(ENV_FILE).read_text()
    appliance.configure(BOTH_DB="false")
    appliance.copy_in(appliance.package, PACKAGE)
    appliance.exec("apt-get", "install", "-y", "--reinstall", PACKAGE, timeout=180)
    assert "BOTH_DB" in appliance.journal("-b", "-u", "edgepaas-env", "-p", "info")
    appliance.write(ENV_FILE, good)
    appliance.client.wait_ready(90)
