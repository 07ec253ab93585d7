"""An operator whose reconciles never come back, while everything else of its process goes on; what
is a minute and a half elsewhere is a second here."""

import asyncio

from prism_operator import __main__, operate
from prism_operator.cluster import controller
from prism_operator.cluster.reconciler import Reconciler


async def _never(self: Reconciler, uid: str) -> float | None:
    await asyncio.Event().wait()
    return None


if __name__ == "__main__":
    Reconciler.reconcile = _never  # type: ignore[method-assign]
    operate._PATIENCE_SECONDS = 1.0
    controller.BEAT_SECONDS = operate.BEAT_SECONDS = 0.2  # type: ignore[attr-defined]
    __main__.main()
