# SPDX-License-Identifier: Apache-2.0
"""The connection to the hub: round trips, transactions, what each failure is called."""

import threading

import pytest

from edgepaas.settings.urls import split_url
from edgepaas.sync.errors import (
    HubMisconfigured,
    HubUnreachable,
    RowRefused,
    SchemaDrift,
    UnclassifiedHubError,
)
from edgepaas.sync.hub.connection import Hub, connect_hub
from tests.support.forwarding import PLAIN, TestHub


def test_nothing_is_left_in_the_session_that_a_pooler_would_give_to_somebody_else(
    hub: TestHub, link: Hub
) -> None:
    before = link.query("SHOW lock_timeout")
    with link.transaction():
        assert link.query("SHOW lock_timeout") == [["3s"]]
        assert link.query("SHOW idle_in_transaction_session_timeout") == [["30s"]]
        assert link.query("SELECT $1::int + 1", 1) == [[2]]
    assert link.query("SHOW lock_timeout") == before
    assert link.query("SELECT count(*) FROM pg_prepared_statements") == [[0]]


def test_many_statements_are_answered_one_by_one_and_an_error_skips_the_rest(
    hub: TestHub, link: Hub
) -> None:
    results = link.run([("SELECT generate_series(1, 3)", ()), ("SELECT $1::text", (None,))])
    assert [result.rows for result in results] == [[[1], [2], [3]], [[None]]]
    assert [result.count for result in results] == [3, 1]
    with pytest.raises(RowRefused):
        link.run([("CREATE TABLE gone ()", ()), ("SELECT 1/0", ()), ("SELECT 1", ())])
    assert link.query("SELECT to_regclass('gone')") == [[None]], "together they are one"
    link.send([("SELECT 1", ())])
    link.send([("SELECT 2", ())])
    assert [link.receive()[0].rows, link.receive()[0].rows] == [[[1]], [[2]]]


def test_a_transaction_whose_answers_were_not_read_is_rolled_back_whole(
    hub: TestHub, link: Hub
) -> None:
    with pytest.raises(KeyError), link.transaction():
        link.query("CREATE TABLE t (a int)")
        link.send([("INSERT INTO t VALUES (1)", ())])
        link.send([("SELECT 1/0", ())])
        raise KeyError
    assert link.query("SELECT to_regclass('t')") == [[None]]


@pytest.mark.parametrize(
    ("sql", "kind"),
    [
        ("SELECT * FROM nowhere", SchemaDrift),
        ("SET ROLE nobody_there", RowRefused),
        ("SELECT 1/0", RowRefused),
        ("DO $$BEGIN RAISE EXCEPTION 'x'; END$$", RowRefused),
        ("DO $$BEGIN RAISE SQLSTATE '0A000'; END$$", UnclassifiedHubError),
        ("DO $$BEGIN RAISE SQLSTATE '40P01'; END$$", HubUnreachable),
        ("DO $$BEGIN RAISE SQLSTATE '42501'; END$$", HubMisconfigured),
        ("DO $$BEGIN RAISE SQLSTATE '53100'; END$$", HubUnreachable),
        ("DO $$BEGIN RAISE SQLSTATE '54000'; END$$", RowRefused),
        ("SELECT pg_terminate_backend(pg_backend_pid())", HubUnreachable),
    ],
)
def test_each_failure_says_what_is_to_be_done(
    hub: TestHub, link: Hub, sql: str, kind: type[Exception]
) -> None:
    with pytest.raises(kind) as caught:
        link.query(sql)
    assert type(caught.value) is kind


def test_a_connection_that_is_cut_from_another_thread_fails_at_once_and_stays_lost(
    hub: TestHub, link: Hub
) -> None:
    timer = threading.Timer(0.2, link.abort)
    timer.start()
    with pytest.raises(HubUnreachable):
        link.query("SELECT pg_sleep(60)")
    timer.join()
    with pytest.raises(HubUnreachable, match="lost"):
        link.query("SELECT 1")


def test_a_way_in_that_is_wrong_says_who_can_mend_it(hub: TestHub) -> None:
    with pytest.raises(HubMisconfigured, match="no such database"):
        connect_hub(split_url(hub.server.url("nowhere")), tls=PLAIN)
    with pytest.raises(HubUnreachable, match="refuses"):
        connect_hub(split_url("postgresql://a:b@127.0.0.1:1/x"), tls=PLAIN)
