"""The folders of a stage's attempts: `a<number>`."""

import re
from collections.abc import Iterable

_FOLDER = re.compile(r"a([1-9][0-9]*)")


def attempt_numbers(names: Iterable[str]) -> list[int]:
    """The attempts among the names of folders, ascending by number: a9 comes before a10."""
    found = (_FOLDER.fullmatch(name) for name in names)
    return sorted(int(match[1]) for match in found if match)
