"""What the API server can answer beside what was asked for.

ClusterError
|-- NotFound         404
|-- Conflict         409: somebody else wrote first, or another precondition does not hold
|   `-- AlreadyExists
|-- Forbidden        403
|-- Invalid          422
|-- Gone             410
|-- Throttled        429
`-- Unavailable      5xx, no connection, no answer
"""

from prism_api.errors import PrismError


class ClusterError(PrismError):
    """A request that the API server did not fulfil; names the request, and says why."""


class NotFound(ClusterError):
    """There is no such object."""


class Conflict(ClusterError):
    """The object is not what the request takes it for."""


class AlreadyExists(Conflict):
    """There is an object of this name."""


class Forbidden(ClusterError):
    """The operator's role lacks a permission, or a quota or policy forbids it."""


class Invalid(ClusterError):
    """The API server refuses the document."""


class Gone(ClusterError):
    """The resource version is too old to go on from."""


class Throttled(ClusterError):
    """Too many requests; to be tried again after `retry_after` seconds."""

    def __init__(self, message: str, retry_after: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Unavailable(ClusterError):
    """No answer that means anything; the request may have been fulfilled."""
