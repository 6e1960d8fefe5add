# SPDX-License-Identifier: Apache-2.0
"""A condition that ends is resolved by whoever finds it ended, also in another process."""

from dataclasses import replace

import pytest

from edgepaas.alerts import raise_alert
from edgepaas.alerts.catalogue import CATALOGUE
from edgepaas.alerts.catalogue_entry import CatalogueEntry
from edgepaas.alerts.conditions.raised_fingerprints import raised_fingerprints
from edgepaas.cli import main
from edgepaas.decision.contract import DatabaseContract
from edgepaas.decision.decide import Decision, store_decision
from edgepaas.files.paths import Paths
from edgepaas.schema.stage import prepare_database
from edgepaas.settings import Settings
from edgepaas.telemetry import application as telemetry
from edgepaas.timing.moment import current_moment
from tests.support.telemetry_box import contract_for
from tests.unit.test_service_loss import build


def raised(paths: Paths) -> list[str]:
    return raised_fingerprints(paths, "")


def decided(paths: Paths, state: str, *, rows: int = 0) -> None:
    sqlite = state not in ("primary",)
    contract = contract_for(paths, None if sqlite else "postgresql://hub/edge", state)
    found: DatabaseContract = replace(contract, rows_waiting=rows)
    store_decision(Decision(found, None, False, current_moment()), paths)


def test_a_fallback_is_over_when_postgresql_serves_again_with_every_row(paths: Paths) -> None:
    decided(paths, "fallback")
    assert raised(paths) == ["database-fallback"]
    decided(paths, "primary", rows=3)
    assert raised(paths) == ["rows-not-in-postgres"]
    decided(paths, "primary")
    assert raised(paths) == []


def test_a_setting_that_was_corrected_is_wrong_no_longer(paths: Paths) -> None:
    paths.env_file.write_text("DATABASE_URL=postgresql://hub:port/edge\n")
    assert main(["env"]) == 0
    assert raised(paths) == ["settings:DATABASE_URL"]
    paths.env_file.write_text("DATABASE_URL=postgresql://hub/edge\n")
    assert main(["env"]) == 0
    assert raised(paths) == []


def test_the_schema_stage_ends_what_it_finds_in_order(paths: Paths) -> None:
    for fingerprint in ("sqlite-unmigrated", "sqlite-foreign", "not-captured", "sqlite-replaced"):
        raise_alert("said by an earlier run", severity="critical", fingerprint=fingerprint)
    raise_alert("no end is found here", severity="critical", fingerprint="sqlite-rebuilt")
    prepare_database(contract_for(paths, None), Settings.of(), paths, telemetry)
    assert raised(paths) == ["sqlite-rebuilt"]


def test_a_database_that_answers_again_ends_its_loss(paths: Paths) -> None:
    database, watch, _, _ = build(paths, "postgresql", "postgres_only")
    database.trouble = RuntimeError("gone")
    assert not watch.look()
    assert raised(paths) == ["database-lost"]
    database.trouble = None
    assert watch.look()
    assert raised(paths) == []


@pytest.mark.parametrize("entry", CATALOGUE, ids=lambda entry: entry.pattern)
def test_every_alert_of_the_platform_names_the_part_that_raises_it(entry: CatalogueEntry) -> None:
    """``origin`` is what an operator looks for first; the default says nothing."""
    assert entry.origin not in ("", "edgepaas")
