# SPDX-License-Identifier: Apache-2.0
"""What may be taken at sight: plain JSON, and the values in it; everything else is NotPlain."""

from collections.abc import Callable, Sequence
from typing import Any

import marshmallow as ma

from edgepaas.apikit.json_body import is_sound_text, parse_json
from edgepaas.apikit.problems import Problem
from edgepaas.logs.printable import unprintable

#: Loads a value that stands in a JSON object, null among them; raises NotPlain.
PlainLoader = Callable[[Any], Any]
#: Writes a value, as a driver returned it, as JSON; never called with None.
PlainDumper = Callable[[Any], str]


class NotPlain(Exception):
    """The ordinary way has to look at it: it is wrong, or valid and unusual."""


def read_plain(body: bytes) -> Any:
    """Return *body* as JSON, as :func:`~edgepaas.apikit.json_body.read_json` reads it.

    Raises NotPlain for what that refuses.
    """
    try:
        return parse_json(body.decode("utf-8-sig"))
    except (UnicodeDecodeError, Problem):
        raise NotPlain from None


def plain_text(*, shortest: int, longest: int | None, visible: bool) -> PlainLoader:
    """Return what takes a sound text of *shortest* to *longest* characters.

    *visible*: neither blank nor with blanks at its ends.
    """
    most = float("inf") if longest is None else longest

    def load(value: Any) -> str:
        if type(value) is not str or not shortest <= len(value) <= most:
            raise NotPlain
        # Most texts are printable to Python; it also calls characters unprintable that are
        # unassigned, or a blank of another width, which the field takes.
        if not value.isprintable() and (
            not is_sound_text(value) or unprintable(value, line=visible)
        ):
            raise NotPlain
        if visible and (not value or value != value.strip()):
            raise NotPlain
        return value

    return load


def with_checks(load: PlainLoader, validators: Sequence[Callable[[Any], Any]]) -> PlainLoader:
    """Return *load* followed by marshmallow's *validators* of the loaded value."""
    if not validators:
        return load
    if len(validators) == 1 and type(validators[0]) is ma.validate.OneOf:
        choices = validators[0].choices

        def load_choice(value: Any) -> Any:
            loaded = load(value)
            if loaded not in choices:
                raise NotPlain
            return loaded

        return load_choice

    def load_and_check(value: Any) -> Any:
        loaded = load(value)
        try:
            for check in validators:
                check(loaded)
        except Exception as error:
            raise NotPlain from error  # the ordinary way meets it again
        return loaded

    return load_and_check


def declares(cls: type, method: str, others: Sequence[str]) -> bool:
    """Whether *cls* has *method*, and no class below the one that has it changes the *others*."""
    for one in cls.__mro__:
        if method in vars(one):
            return True
        if any(name in vars(one) for name in others):
            return False
    return False


def has_methods(schema: ma.Schema) -> bool:
    """Whether the schema's classes have hooks, validators, or anything else that is called."""
    return any(
        callable(member) or isinstance(member, classmethod | staticmethod | property)
        for cls in type(schema).__mro__
        if not issubclass(ma.Schema, cls)
        for name, member in vars(cls).items()
        if not name.startswith("__") and name not in ("Meta", "opts")
    )
