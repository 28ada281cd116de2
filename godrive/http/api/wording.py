"""Say what is wrong with a value in terms of JSON; msgspec uses terms of Python."""

from __future__ import annotations

import re

_EXPECTED = re.compile(r"Expected `(?P<types>[^`]+)`(?P<more>.*)", re.DOTALL)
_GOT = re.compile(r", got `(?P<type>\w+)`")
_LENGTH = re.compile(r" of length (?P<sign>[<>]=) (?P<number>\d+)")
_BOUND = re.compile(r" (?P<sign>[<>]=) (?P<number>-?\d+)")

_TYPES = {
    "str": "a string",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "null": "null",
    "array": "an array",
    "object": "an object",
    "datetime": "a time",
}
_GIVEN = _TYPES | {"float": "a number with a fraction"}
_UNITS = {"str": "character", "array": "item", "object": "field"}
_SIGNS = {">=": "at least", "<=": "at most"}
_TIME = "Must be a time as in RFC 3339, with its offset: 2026-01-31T12:00:00Z"


def in_words(problem: str) -> str:
    """Convert an error of msgspec to a sentence without its period.  An unknown error is returned unchanged."""
    if "RFC3339" in problem or "timezone" in problem:
        return _TIME
    expected = _EXPECTED.fullmatch(problem)
    if expected is None or not _TYPES.keys() >= (types := set(expected["types"].split(" | "))):
        return problem
    more = expected["more"]
    if got := _GOT.fullmatch(more):
        wanted = " or ".join(text for name, text in _TYPES.items() if name in types)
        return f"Must be {wanted}, not {_GIVEN.get(got['type'], got['type'])}"
    if length := _LENGTH.fullmatch(more):
        units = _UNITS[expected["types"]] + ("" if length["number"] == "1" else "s")
        return f"Must have {_SIGNS[length['sign']]} {length['number']} {units}"
    if bound := _BOUND.fullmatch(more):
        return f"Must be {_SIGNS[bound['sign']]} {bound['number']}"
    return "Is malformed" if " matching regex " in more else problem
