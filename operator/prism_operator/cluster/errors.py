"""Errors of the Kubernetes API, by what follows from them.

ClusterError
|-- NotFound       404: the object, or its kind, is not there
|-- Conflict       409: somebody else was faster, or it is another object by now
|   `-- AlreadyExists  of a create
|-- Forbidden      401, 403: not allowed, or over a quota
|-- Invalid        400, 422: the API server refuses the document
|-- Gone           410: the place in the history to go on from is no longer known
|-- Throttled      429: to be sent again after a while
`-- Unavailable    5xx, no connection, no answer in time: it may have been done or not
"""

from typing import Any

from prism_api.errors import PrismError


class ClusterError(PrismError):
    """A request that the API server did not carry out, or may not have."""

    def __init__(self, request: str, code: int, message: str) -> None:
        self.request, self.code, self.reason = request, code, message
        super().__init__(f"{request}: {message}" + (f" ({code})" if code else ""))


class NotFound(ClusterError):
    """404."""


class Conflict(ClusterError):
    """409; also what the API server says of a patch for another object of the same name."""


class AlreadyExists(Conflict):
    """409 to a create."""


class Forbidden(ClusterError):
    """401 and 403."""


class Invalid(ClusterError):
    """400 and 422."""


class Gone(ClusterError):
    """410."""


class Throttled(ClusterError):
    """429."""

    def __init__(self, request: str, code: int, message: str, retry_after_seconds: float) -> None:
        super().__init__(request, code, message)
        self.retry_after_seconds = retry_after_seconds


class Unavailable(ClusterError):
    """5xx, or the connection failed."""


_BY_CODE: dict[int, type[ClusterError]] = {
    400: Invalid,
    401: Forbidden,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    410: Gone,
    422: Invalid,
}


def error_of(request: str, code: int, status: dict[str, Any], retry_after: str) -> ClusterError:
    """The error that an answer of the API server stands for."""
    message = str(status.get("message") or status.get("reason") or "no message")[:1000]
    if code == 429:
        seconds = float(retry_after) if retry_after.isdigit() else 1.0
        return Throttled(request, code, message, seconds)
    if code == 409 and status.get("reason") == "AlreadyExists":
        return AlreadyExists(request, code, message)
    if code == 422 and "metadata.uid" in message:
        return Conflict(request, code, message)
    default = Unavailable if code >= 500 else ClusterError
    return _BY_CODE.get(code, default)(request, code, message)
