"""vLLM general plugin, loaded in each process of a server (API, engine core, workers)."""

import multiprocessing
from typing import Any

from prism_api.process import die_with_parent


def register() -> None:
    """Tie the process to its parent, and repair what a CPU server gets wrong; may be repeated."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        # vLLM's engine core lives on, with all its memory, when its API server is killed.
        die_with_parent(parent.pid)
    from vllm.platforms import current_platform

    if current_platform.is_cpu():
        _rebuild_experts_on_reload()


def _rebuild_experts_on_reload() -> None:
    """MoE weights that are loaded again must be laid out for the CPU kernel again.

    vLLM 0.26 to 0.32 does so on the first load only, and answers with garbage after a reload.
    """
    from vllm.model_executor.layers.fused_moe.unquantized_fused_moe_method import (
        UnquantizedFusedMoEMethod,
    )

    original = UnquantizedFusedMoEMethod._setup_kernel
    if getattr(original, "rebuilds", False):
        return

    def setup(self: Any, layer: Any, w13: Any, w2: Any) -> None:
        self.moe_kernel = None
        original(self, layer=layer, w13=w13, w2=w2)

    setup.rebuilds = True  # type: ignore[attr-defined]
    UnquantizedFusedMoEMethod._setup_kernel = setup
