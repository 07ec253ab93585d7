"""Answers of the API server, and those that the proxy makes itself or has kept."""

from collections import OrderedDict, deque
from collections.abc import Mapping
from dataclasses import dataclass

import orjson
from aiohttp import web

from fault_proxy.faults import Fault

Identity = tuple[str, ...]
"""What makes two requests the same."""

_KEPT_URLS = 64
_KEPT_ANSWERS = 3
_REASONS = {
    Fault.CONFLICT: (409, "Conflict", "the object has been modified; apply your changes anew"),
    Fault.TOO_MANY_REQUESTS: (429, "TooManyRequests", "please try again later"),
    Fault.ERROR_BEFORE: (500, "InternalError", "etcdserver: request timed out"),
    Fault.ERROR_AFTER: (500, "InternalError", "etcdserver: request timed out"),
}


@dataclass(frozen=True)
class Answer:
    """A whole answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def is_list(self) -> bool:
        """Whether it is a list of objects; the API server writes the kind first."""
        return self.status == 200 and b'List"' in self.body[:80]

    def response(self) -> web.Response:
        """As it goes to the client."""
        return web.Response(status=self.status, headers=self.headers, body=self.body)


def failure(fault: Fault, retry_after_s: int) -> Answer:
    """What an API server says when it meets with such a fault."""
    code, reason, message = _REASONS[fault]
    status = {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": message,
        "reason": reason,
        "code": code,
    }
    headers = {"Content-Type": "application/json"}
    if code == 429:
        headers["Retry-After"] = str(retry_after_s)
    return Answer(code, headers, orjson.dumps(status))


class OldLists:
    """Earlier answers to lists, by what was asked."""

    def __init__(self) -> None:
        self._kept: OrderedDict[Identity, deque[Answer]] = OrderedDict()

    def has(self, request: Identity) -> bool:
        """Whether there is any."""
        return request in self._kept

    def keep(self, request: Identity, answer: Answer) -> None:
        """Remember it; forgets the oldest, of the request and of all."""
        self._kept.setdefault(request, deque(maxlen=_KEPT_ANSWERS)).append(answer)
        self._kept.move_to_end(request)
        if len(self._kept) > _KEPT_URLS:
            self._kept.popitem(last=False)

    def older_than(self, request: Identity, answer: Answer) -> Answer | None:
        """The oldest that is known and says something else."""
        return next((old for old in self._kept.get(request, ()) if old.body != answer.body), None)
