"""The writes that pass the proxy: what a crash sweep stops the operator before and after."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal


@dataclass
class Write:
    """A request that is no GET."""

    index: int
    """The first is 0."""
    method: str
    path: str
    """With its query."""
    body: bytes
    status: int | None = None
    """What the API server answered, once it has."""


class Killed(Exception):
    """Raised by a hook: from this moment the client is cut off, as if it were dead."""


Moment = Literal["before", "after"]
"""Before a write reaches the API server; after it was made, before its answer goes back."""
Hook = Callable[[Moment, Write], None]
"""Called in the proxy's thread; may raise Killed."""
