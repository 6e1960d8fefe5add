# SPDX-License-Identifier: Apache-2.0
"""Fields that refuse at the door what either database would refuse later.

Each says twice how it loads a value: to marshmallow, which words the errors, and as a plain
loader for :mod:`edgepaas.apikit.compiled_parser`, which takes no more than that and returns
the same. ``plain_loader()`` covers the field's validators, too. ``plain_dumper()`` says in
the same way for :mod:`edgepaas.apikit.compiled_encoder` how a stored value is written.
"""

import math
from typing import Any

import marshmallow as ma

from edgepaas.apikit.json_body import DEEPEST, is_sound_text
from edgepaas.apikit.plain_dumpers import (
    dump_boolean,
    dump_document,
    dump_integer,
    dump_number,
    dump_text,
)
from edgepaas.apikit.plain_json import NotPlain, PlainDumper, PlainLoader, plain_text, with_checks
from edgepaas.apikit.problems import Detail, printable
from edgepaas.apikit.smorest_adapter import from_address
from edgepaas.logs.printable import unprintable

#: What a signed 64-bit column holds, on both databases.
INT64 = (-(2**63), 2**63 - 1)
_MOST_DIGITS = 19


class TextField(ma.fields.String):
    """A string that can be printed and stored, *shortest* to *longest* characters long.

    Control characters and direction marks are refused. With *visible*, it is a name: a blank
    text, one with blanks at its ends, and one with line ends or tabs are refused as well.
    """

    def __init__(
        self, *, longest: int, shortest: int = 0, visible: bool = False, **kwargs: Any
    ) -> None:
        given = kwargs.pop("validate", None)
        checks = [ma.validate.Length(min=shortest or None, max=longest)]
        more = [] if given is None else given if isinstance(given, list) else [given]
        super().__init__(validate=[*checks, *more], **kwargs)
        self._shortest, self._longest, self._visible = shortest, longest, visible

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:
        text = super()._deserialize(value, attr, data, **kwargs)
        if text is not None and not is_sound_text(text):
            raise ma.ValidationError("NUL and lone surrogates cannot be stored.")
        if text is not None and (unfit := unprintable(text, line=self._visible)):
            raise ma.ValidationError(f"{unfit} cannot be printed.")
        if self._visible and isinstance(text, str) and (not text.strip() or text != text.strip()):
            raise ma.ValidationError("Not blank, and no blanks at its ends.")
        return text

    def plain_loader(self) -> PlainLoader:
        """Return what takes such a text."""
        load = plain_text(shortest=self._shortest, longest=self._longest, visible=self._visible)
        return with_checks(load, self.validators[1:])

    def plain_dumper(self) -> PlainDumper:
        """Return what writes a text."""
        return dump_text


class NumberField(ma.fields.Float):
    """A finite JSON number; a string or a boolean is refused, so that nothing is guessed."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.make_error("invalid", input=value)
        try:
            number = float(value)
        except OverflowError:
            raise self.make_error("too_large", input=value) from None
        if not math.isfinite(number):
            raise self.make_error("special")
        return number

    def plain_loader(self) -> PlainLoader:
        """Return what takes such a number."""
        return with_checks(_load_number, self.validators)

    def plain_dumper(self) -> PlainDumper:
        """Return what writes a number."""
        return dump_number


class IntegerField(ma.fields.Integer):
    """A whole number between *least* and *most*, within 64 bits; nothing is guessed."""

    def __init__(self, *, least: int = INT64[0], most: int = INT64[1], **kwargs: Any) -> None:
        super().__init__(validate=ma.validate.Range(min=least, max=most), **kwargs)
        self._least, self._most = least, most

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:
        if isinstance(value, bool):
            raise self.make_error("invalid", input=value)
        if isinstance(value, float) and not value.is_integer():
            raise self.make_error("invalid", input=value)
        if isinstance(value, str):  # int() also takes '1_000', ' 7 ' and other scripts' digits
            if not from_address(data):
                raise self.make_error("invalid", input=value)
            digits = value.removeprefix("-")
            if not (digits.isascii() and digits.isdigit()) or len(digits) > _MOST_DIGITS:
                raise self.make_error("invalid", input=value)
        return super()._deserialize(value, attr, data, **kwargs)

    def plain_loader(self) -> PlainLoader:
        """Return what takes such a number where it is written as a whole one."""
        least, most = self._least, self._most

        def load(value: Any) -> int:
            if type(value) is not int or not least <= value <= most:
                raise NotPlain
            return value

        return with_checks(load, self.validators[1:])

    def address_loader(self) -> PlainLoader:
        """Return what takes such a number's digits in an address."""
        least, most = self._least, self._most

        def load(value: Any) -> int:
            digits = value.removeprefix("-")
            if not (digits.isascii() and digits.isdigit()) or len(digits) > _MOST_DIGITS:
                raise NotPlain
            number = int(value)
            if not least <= number <= most:
                raise NotPlain
            return number

        return with_checks(load, self.validators[1:])

    def plain_dumper(self) -> PlainDumper:
        """Return what writes a whole number."""
        return dump_integer


class BooleanField(ma.fields.Boolean):
    """true or false; in JSON nothing else is."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:
        if isinstance(value, bool):
            return value
        if from_address(data) and value in ("true", "false"):
            return bool(value == "true")
        raise self.make_error("invalid", input=value)

    def plain_loader(self) -> PlainLoader:
        """Return what takes true and false."""
        return with_checks(_load_boolean, self.validators)

    def address_loader(self) -> PlainLoader:
        """Return what takes the words true and false in an address."""
        return with_checks(_load_word, self.validators)

    def plain_dumper(self) -> PlainDumper:
        """Return what writes true or false."""
        return dump_boolean


class LabelsField(ma.fields.Field[dict[str, str]]):
    """A small object of strings, e.g. ``{"room": "boiler"}``."""

    default_error_messages: dict[str, str | list[Any] | dict[Any, Any]] = {  # noqa: RUF012
        "invalid": "Not an object of strings.",
        "count": "More than {most} labels.",
        "length": "A label's name has 1 to {name} characters, its value at most {value}.",
        "text": "NUL and lone surrogates cannot be stored.",
        "printable": "{unfit} cannot be printed.",
    }

    def __init__(self, *, most: int = 64, name: int = 100, value: int = 500, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.most, self.longest_name, self.longest_value = most, name, value

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:
        if not isinstance(value, dict) or not all(
            isinstance(name, str) and isinstance(item, str) for name, item in value.items()
        ):
            raise self.make_error("invalid")
        if len(value) > self.most:
            raise self.make_error("count", most=self.most)
        for name, item in value.items():
            if not 1 <= len(name) <= self.longest_name or len(item) > self.longest_value:
                raise self.make_error("length", name=self.longest_name, value=self.longest_value)
            if not is_sound_text(name) or not is_sound_text(item):
                raise self.make_error("text")
            if unfit := unprintable(name, line=True) or unprintable(item, line=True):
                raise self.make_error("printable", unfit=unfit)
        return value

    def plain_loader(self) -> PlainLoader:
        """Return what takes such an object."""
        load_name = plain_text(shortest=1, longest=self.longest_name, visible=False)
        load_value = plain_text(shortest=0, longest=self.longest_value, visible=False)
        most = self.most

        def load(value: Any) -> dict[str, str]:
            if type(value) is not dict or len(value) > most:
                raise NotPlain
            for name, item in value.items():
                load_name(name)
                load_value(item)
            return value

        return with_checks(load, self.validators)

    def plain_dumper(self) -> PlainDumper:
        """Return what writes such an object."""
        return dump_document


def _load_number(value: Any) -> float:
    if type(value) is not float and type(value) is not int:
        raise NotPlain
    try:
        number = float(value)
    except OverflowError:
        raise NotPlain from None
    if not math.isfinite(number):
        raise NotPlain
    return number


def _load_boolean(value: Any) -> bool:
    if type(value) is not bool:
        raise NotPlain
    return value


def _load_word(value: Any) -> bool:
    if value not in ("true", "false"):
        raise NotPlain
    return bool(value == "true")


def flatten(messages: Any, path: str = "") -> list[Detail]:
    """Return marshmallow's nested *messages* as details with paths such as ``[3].value``."""
    found: list[Detail] = []
    _flatten(messages, path, found, 0)
    return found


def _flatten(messages: Any, path: str, found: list[Detail], depth: int) -> None:
    if isinstance(messages, dict) and depth < DEEPEST:
        for key, below in messages.items():
            if key == "_schema":
                step = path
            elif isinstance(key, int):
                step = f"{path}[{key}]"
            else:
                name = printable(str(key))
                step = f"{path}.{name}" if path else name
            _flatten(below, step, found, depth + 1)
    elif isinstance(messages, list) and not all(isinstance(item, str) for item in messages):
        for item in messages:
            _flatten(item, path, found, depth + 1)
    else:
        text = " ".join(messages) if isinstance(messages, list) else str(messages)
        found.append({"path": path, "message": text})
