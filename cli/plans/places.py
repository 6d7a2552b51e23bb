"""The door: where in a JSON file a value stands, so that whoever wrote it is sent to the line.

Invariant: the text was parsed as JSON before; what is not there has the line of what it would stand in.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Final

Step = str | int  # into an object by key, into a list by number

_BLANKS: Final = re.compile(r"[ \t\r\n]*")
_DECODER: Final = json.JSONDecoder()


def steps_of(path: str) -> list[Step]:
    """Of `graduated.tiers[0].up_to`, as errors name a field."""
    return [
        int(word) if word.isdigit() else word.strip('"') for word in re.findall(r"[^.\[\]]+", path)
    ]


def path_of(steps: Sequence[Step]) -> str:
    """The other way round."""
    text = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps)
    return text.removeprefix(".")


def line_of(text: str, steps: Sequence[Step]) -> int:
    """The line, from 1, on which the value begins."""
    place = _after_blanks(text, 0)
    for step in steps:
        found = _value_in(text, place, step)
        if found is None:
            break
        place = found
    return text.count("\n", 0, place) + 1


def _value_in(text: str, place: int, step: Step) -> int | None:
    """Where the value of a key, the last one, or the item of a list begins, in the object or list at `place`."""
    if text[place] not in "{[":
        return None
    is_object = text[place] == "{"
    index, found = 0, None
    place = _after_blanks(text, place + 1)
    while text[place] not in "}]":
        here: Step = index
        if is_object:
            here, place = _DECODER.raw_decode(text, place)
            place = _after_blanks(text, _after_blanks(text, place) + 1)  # the colon
        if here == step:
            found = place
        place = _after_blanks(text, _DECODER.raw_decode(text, place)[1])
        if text[place] == ",":
            place = _after_blanks(text, place + 1)
        index += 1
    return found


def _after_blanks(text: str, place: int) -> int:
    found = _BLANKS.match(text, place)
    return found.end() if found else place
