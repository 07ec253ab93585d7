"""kopf's part: it watches PrismRuns and tells the controller; nothing is decided here."""

import math
from collections.abc import Callable
from typing import Any

import kopf

from prism_api.names import GROUP, PLURAL, VERSION
from prism_operator.cluster.controller import Controller


def build_registry(
    controller: Controller, connect: Callable[[], kopf.ConnectionInfo]
) -> kopf.OperatorRegistry:
    """Handlers that pass every event of a PrismRun on."""
    registry = kopf.OperatorRegistry()

    @kopf.on.login(registry=registry)
    def credentials(**_: Any) -> kopf.ConnectionInfo:
        return connect()

    @kopf.on.event(GROUP, VERSION, PLURAL, registry=registry)
    async def changed(type: str | None, body: kopf.Body, **_: Any) -> None:  # noqa: A002
        document = dict(body)
        if type == "DELETED":
            controller.run_deleted(document)
        else:
            controller.run_changed(document)

    return registry


class _NoDiffs(kopf.DiffBaseStorage):
    """kopf copies every object to find out what has changed of it; nobody here asks."""

    def build(self, **_: Any) -> kopf.BodyEssence:
        return kopf.BodyEssence()

    def fetch(self, **_: Any) -> None:
        return None

    def store(self, **_: Any) -> None:
        raise NotImplementedError("nothing is stored in objects")


def build_settings(*, resync_seconds: float) -> kopf.OperatorSettings:
    """kopf as a pure watcher: it writes nothing, and asks for no right that is not needed."""
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    settings.persistence.diffbase_storage = _NoDiffs()
    settings.scanning.disabled = True
    settings.watching.server_timeout = math.ceil(resync_seconds)  # an integer, or the API refuses
    settings.watching.connect_timeout = 10.0
    settings.networking.request_timeout = 30.0
    settings.queueing.exit_timeout = 0.1  # nothing is lost: it only reads
    return settings
