"""One Lease as the API server keeps it: every write has its version, old versions are refused."""

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from prism_operator.cluster.errors import AlreadyExists, Conflict, NotFound


@dataclass
class LeaseStore:
    """Keeps one Lease; the order of its calls is the order of the API."""

    lease: dict[str, Any] | None = None
    versions: Iterator[int] = field(default_factory=lambda: count(1))

    def read(self) -> dict[str, Any]:
        """The Lease; raises NotFound."""
        if self.lease is None:
            raise NotFound("GET", 404, "not found")
        return copy.deepcopy(self.lease)

    def create(self, manifest: Mapping[str, Any]) -> dict[str, Any]:
        """The Lease as created; raises AlreadyExists."""
        if self.lease is not None:
            raise AlreadyExists("POST", 409, "exists")
        return self._keep(manifest)

    def replace(self, document: Mapping[str, Any]) -> dict[str, Any]:
        """The Lease as written; raises Conflict, NotFound."""
        if self.read()["metadata"]["resourceVersion"] != document["metadata"]["resourceVersion"]:
            raise Conflict("PUT", 409, "somebody else wrote first")
        return self._keep(document)

    def _keep(self, document: Mapping[str, Any]) -> dict[str, Any]:
        metadata = {**document["metadata"], "resourceVersion": str(next(self.versions))}
        self.lease = {**copy.deepcopy(dict(document)), "metadata": metadata}
        return self.read()
