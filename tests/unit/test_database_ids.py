# SPDX-License-Identifier: Apache-2.0
"""Keys made by the application: unique, sortable, the same for the same thing."""

import os
import threading
import uuid
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgepaas.database.ids import Uuid7Source, content_id, name_id, uuid7

PARTS = st.lists(
    st.none() | st.text() | st.binary() | st.integers() | st.floats(allow_nan=False), max_size=5
)


def test_a_uuid7_carries_version_variant_and_the_time() -> None:
    """RFC 9562, 5.7: 48 bits of Unix milliseconds lead."""
    made = Uuid7Source(lambda: 0x0123_4567_89AB * 1_000_000)()
    assert made.version == 7
    assert made.variant == uuid.RFC_4122
    assert made.int >> 80 == 0x0123_4567_89AB


def test_uuid7s_grow_even_when_the_clock_stands_still_or_steps_back() -> None:
    """A box without a clock battery still gives out keys in order."""
    clock = iter([5_000, 5_000, 5_000, 1_000, 4_000, 6_000])
    source = Uuid7Source(lambda: next(clock) * 1_000_000)
    made = [source() for _ in range(6)]
    assert made == sorted(made)
    assert len(set(made)) == 6
    assert made[4].int >> 80 == 5_000
    assert made[5].int >> 80 == 6_000


def test_a_full_counter_borrows_the_next_millisecond(monkeypatch: pytest.MonkeyPatch) -> None:
    """More keys than the counter holds in one millisecond stay unique and in order."""
    source = Uuid7Source(lambda: 1_000_000)
    first = source()
    source._counter = (1 << 42) - 1
    second, third = source(), source()
    assert first < second < third
    assert second.int >> 80 == 2


def test_a_batch_of_uuid7s_grows_between_single_ones_and_borrows_as_they_do() -> None:
    source = Uuid7Source(lambda: 1_000_000)
    made = [source(), *source.batch(1000), source(), *source.batch(0), *source.batch(1)]
    assert made == sorted(set(made))
    assert len(made) == 1003
    assert {(one.version, one.variant, one.int >> 80) for one in made} == {(7, uuid.RFC_4122, 1)}
    assert len({one.int & 0xFFFF_FFFF for one in made}) > 990
    source._counter = (1 << 42) - 10
    more = [*source.batch(20), source(), source()]
    assert [*made, *more] == sorted({*made, *more})
    assert {one.int >> 80 for one in more} == {2}


def test_uuid7s_of_many_threads_are_unique() -> None:
    """The source is shared by all of a service's threads."""
    made: list[uuid.UUID] = []
    threads = [
        threading.Thread(target=lambda: made.extend(uuid7() for _ in range(500))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(made)) == 4000


def test_a_forked_process_does_not_repeat_its_parents_uuid7s() -> None:
    """Both would otherwise count on from the same place."""
    source = Uuid7Source(lambda: 7_000_000)
    source()
    counter = source._counter
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, str(source()).encode())
        os._exit(0)
    os.waitpid(child, 0)
    theirs = uuid.UUID(os.read(reader, 36).decode())
    os.close(reader)
    os.close(writer)
    assert theirs != source()
    assert (theirs.int >> 64 & 0xFFF, theirs.int >> 32 & 0x3FFF_FFFF) != (
        (counter + 1) >> 30,
        (counter + 1) & 0x3FFF_FFFF,
    )


def test_a_name_has_one_id_for_ever() -> None:
    """Fixed: ids made by earlier releases are in databases."""
    assert name_id("devices", "boiler") == uuid.UUID("b17a97a4-e982-5c4c-859b-dedabed98543")
    assert name_id("devices", "boiler").version == 5
    assert name_id("devices", "boiler") != name_id("rules", "boiler")
    assert name_id("devices", "Boiler") != name_id("devices", "boiler")


def test_content_has_one_id_for_ever() -> None:
    """Fixed: repeating an import of an earlier release doubles nothing."""
    made = content_id("token", "key", 3, 1.5, None, b"x", datetime(2026, 1, 1, tzinfo=UTC))
    assert made == uuid.UUID("4be0a61d-31e0-87cc-b7a6-7ec908c63d4a")
    assert (made.version, made.variant) == (8, uuid.RFC_4122)


@given(PARTS, PARTS)
def test_different_content_has_different_ids(one: list[object], other: list[object]) -> None:
    """No two lists of parts run into each other; types are told apart."""
    alike = [(type(a), a) for a in one] == [(type(b), b) for b in other]
    # 0.0 and -0.0 compare equal and are different content.
    if alike and repr(one) == repr(other):
        assert content_id(*one) == content_id(*other)  # type: ignore[arg-type]
    elif not alike:
        assert content_id(*one) != content_id(*other)  # type: ignore[arg-type]


def test_the_same_moment_in_another_zone_is_the_same_content() -> None:
    """A time is content by the moment it names."""
    moment = datetime(2026, 3, 1, 12, tzinfo=UTC)
    assert content_id(moment) == content_id(moment.astimezone(timezone(timedelta(hours=5))))
    with pytest.raises(ValueError, match="zone"):
        content_id(datetime(2026, 3, 1, 12))
