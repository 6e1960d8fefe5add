# SPDX-License-Identifier: Apache-2.0
"""Shapes: what the value of a field in a state file must look like, checked with its path.

A shape is a function of (value, path) that raises :class:`Misshapen` where the value does not
fit. Standard library only and quick: every stage of a boot reads a few such files.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

Shape = Callable[[Any, str], None]

#: SQLite and PostgreSQL hold no larger integer, so no counter of ours is one.
_LARGEST = 2**63


class Misshapen(ValueError):
    """A value has another shape than its record declares; the message names its path."""


def text(value: Any, path: str) -> None:
    """Accept a string."""
    _expect(isinstance(value, str), path, "a text", value)


def flag(value: Any, path: str) -> None:
    """Accept true or false."""
    _expect(isinstance(value, bool), path, "true or false", value)


def whole(value: Any, path: str) -> None:
    """Accept an integer of at most 64 bits; true and false are none."""
    fits = isinstance(value, int) and not isinstance(value, bool) and abs(value) < _LARGEST
    _expect(fits, path, "a whole number", value)


def number(value: Any, path: str) -> None:
    """Accept a finite number; true and false are none."""
    fits = isinstance(value, int | float) and not isinstance(value, bool)
    _expect(fits and abs(value) < _LARGEST and math.isfinite(value), path, "a number", value)


def anything(value: Any, path: str) -> None:
    """Accept any JSON value: another record's, or one that is only shown."""


def optional(shape: Shape) -> Shape:
    """Return the shape of null or what *shape* accepts."""

    def check(value: Any, path: str) -> None:
        if value is not None:
            shape(value, path)

    return check


def one_of(*words: str) -> Shape:
    """Return the shape of one of *words*."""

    def check(value: Any, path: str) -> None:
        _expect(isinstance(value, str) and value in words, path, f"one of {words}", value)

    return check


def list_of(shape: Shape) -> Shape:
    """Return the shape of a list whose items *shape* accepts."""

    def check(value: Any, path: str) -> None:
        _expect(isinstance(value, list), path, "a list", value)
        for position, item in enumerate(value):
            shape(item, f"{path}[{position}]")

    return check


def pair_of(first: Shape, second: Shape) -> Shape:
    """Return the shape of a list of two, each with a shape of its own."""

    def check(value: Any, path: str) -> None:
        _expect(isinstance(value, list) and len(value) == 2, path, "a list of two", value)
        first(value[0], f"{path}[0]")
        second(value[1], f"{path}[1]")

    return check


def map_of(shape: Shape) -> Shape:
    """Return the shape of an object with any names, whose values *shape* accepts."""

    def check(value: Any, path: str) -> None:
        _expect(isinstance(value, dict), path, "an object", value)
        for name, item in value.items():
            shape(item, f"{path}.{name}" if path else name)

    return check


def object_of(fields: Mapping[str, Shape]) -> Shape:
    """Return the shape of an object that has exactly *fields*."""

    def check(value: Any, path: str) -> None:
        _expect(isinstance(value, dict), path, "an object", value)
        for name in fields:
            if name not in value:
                raise Misshapen(f"{_at(path)}lacks {name}")
        for name in value:
            if name not in fields:
                raise Misshapen(f"{_at(path)}has {name!r:.60}, which is not known")
        for name, shape in fields.items():
            shape(value[name], f"{path}.{name}" if path else name)

    return check


#: The shape of :meth:`edgepaas.timing.moment.Moment.as_dict`.
moment = object_of({"wall": number, "since_boot": number, "boot_id": text})


def _expect(fits: bool, path: str, expected: str, value: Any) -> None:
    if not fits:
        raise Misshapen(f"{_at(path)}is {type(value).__name__}, not {expected}")


def _at(path: str) -> str:
    return f"{path} " if path else "it "
