"""Paths and addresses as their parts: namespace, selector, file."""

from __future__ import annotations

import re
from typing import NamedTuple

from .errors import InvalidError

_STEP = re.compile(r"(?:step[-_]?|checkpoint[-_]|iter[-_]|global_step)?(\d{1,20})")


class Place(NamedTuple):
    """A path, taken apart. Without a selector it is a namespace, or what is above some."""

    namespace: str
    selector: str | None
    file: str

    @property
    def address(self) -> str:
        return f"{self.namespace}@{self.selector}"


def place_of(path: str) -> Place:
    """Takes a path without protocol apart."""
    parts = [part for part in path.split("/") if part]
    for at, part in enumerate(parts):
        rest = "/".join(parts[at + 1 :])
        name, is_marked, selector = part.partition("@")
        if is_marked:
            return Place("/".join([*parts[:at], *([name] if name else [])]), selector, rest)
        if at and (step := _STEP.fullmatch(part)):
            return Place("/".join(parts[:at]), str(int(step[1])), rest)
    return Place("/".join(parts), None, "")


def address_of(text: str) -> str:
    """``NAMESPACE@SELECTOR`` of an address, or of a path such as ``cairn://run/step-7``."""
    place = place_of(text.removeprefix("cairn://"))
    if place.selector is None:
        raise InvalidError(
            f"{text!r} names no checkpoint", "give NAMESPACE@STEP or cairn://NAMESPACE/step-N"
        )
    return place.address
