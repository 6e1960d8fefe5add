# SPDX-License-Identifier: Apache-2.0
"""Which requests the loop keeps back for one more look at its connections."""

from edgepaas.httpd.loop_appends import Gathering


def looks(gathering: Gathering, found: list[int], *, at_work: int = 0) -> int:
    """Return how often it is looked again, where the looks find so many, one after the other."""
    before = looked = 0
    for gathered in found:
        if not gathering.goes_on(before, gathered, gathered + at_work):
            break
        before, looked = gathered, looked + 1
    return looked


def test_a_lone_client_never_waits_for_a_second_look() -> None:
    """Neither the first request nor any after it."""
    gathering = Gathering()
    for _ in range(10):
        assert looks(gathering, [1, 1]) == 0
        gathering.note(1)


def test_clients_that_came_together_are_waited_for_while_more_of_them_come() -> None:
    """Until all are there, or a look finds nobody."""
    gathering = Gathering()
    gathering.note(4)
    assert looks(gathering, [1, 2, 3, 4, 5]) == 3
    assert looks(gathering, [1, 2, 2, 2]) == 2
    assert looks(gathering, [4, 4]) == 0


def test_nobody_is_kept_back_while_the_writer_works_for_others() -> None:
    """They share the next commit as it is."""
    gathering = Gathering()
    gathering.note(4)
    assert looks(gathering, [1, 2, 3], at_work=1) == 0


def test_clients_that_are_gone_are_forgotten() -> None:
    """After some hundred requests of one client there is no second look any more."""
    gathering = Gathering()
    gathering.note(64)
    for _ in range(300):
        gathering.note(1)
    assert looks(gathering, [1, 1]) == 0


def test_a_pass_that_found_nothing_is_not_repeated() -> None:
    """There is nothing to hand in."""
    gathering = Gathering()
    gathering.note(4)
    assert looks(gathering, [0, 0]) == 0
