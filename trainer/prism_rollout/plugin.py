"""vLLM general plugin, loaded in each process of a server (API, engine core, workers)."""

import multiprocessing
from typing import Any

from prism_api.process import die_with_parent


def register() -> None:
    """Tie the process to its parent, and repair what a CPU server gets wrong; may be repeated."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return  # the API server: whoever started it ties it to itself, and it computes nothing
    # vLLM's engine core lives on, with all its memory, when its API server is killed.
    die_with_parent(parent.pid)
    from vllm.platforms import current_platform

    if current_platform.is_cpu():
        _rebuild_experts_on_reload()
        _let_seeded_prompts_be_divided()


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


def _let_seeded_prompts_be_divided() -> None:
    """A prompt with a seed may take more than one step to read.

    vLLM 0.26 to 0.32 then takes the draw of the unfinished step back, which only generators of GPUs
    can do, and the engine ends. Without that the draw is lost: the sample is another one of the
    same distribution.
    """
    from vllm.v1.worker.cpu_model_runner import CPUModelRunner

    original = CPUModelRunner._bookkeeping_sync
    if getattr(original, "keeps_draws", False):
        return

    def bookkeeping(self: Any, *args: Any, **kwargs: Any) -> Any:
        batch = self.input_batch
        generators, batch.generators = batch.generators, {}
        try:
            return original(self, *args, **kwargs)
        finally:
            batch.generators = generators

    bookkeeping.keeps_draws = True  # type: ignore[attr-defined]
    CPUModelRunner._bookkeeping_sync = bookkeeping
