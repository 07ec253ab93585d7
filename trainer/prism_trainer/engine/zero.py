"""DeepSpeed ZeRO-2 (gradients and optimizer states in parts) and ZeRO-3 (weights too)."""

import logging
import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

import deepspeed
import torch
from deepspeed.utils import (
    safe_get_full_fp32_param,
    safe_get_full_optimizer_state,
    safe_set_full_fp32_param,
    safe_set_full_optimizer_state,
)
from torch import Tensor, nn

from prism_api.optimization import Optimization
from prism_trainer.distributed import Ranks
from prism_trainer.engine.optimizer import learning_rate, not_finite
from prism_trainer.engine.sharding import Pass, check_names, trained
from prism_trainer.engine.sources import TensorSource, source_of

T = TypeVar("T")
_MOMENTS = ("exp_avg", "exp_avg_sq")
PERSISTENT_ELEMENTS = 10_000
"""ZeRO-3 leaves smaller parameters whole (norms, biases): gathering them costs more than it
saves."""

logging.getLogger("DeepSpeed").setLevel(logging.WARNING)


class Zero:
    """A network under DeepSpeed's engine, from the moment that an optimizer is attached.

    DeepSpeed averages gradients, so losses are multiplied by the number of processes.
    """

    in_step = True
    casts = True

    def __init__(self, model: nn.Module, stage: int, half_precision: bool, ranks: Ranks) -> None:
        self._model, self._stage, self._ranks = model, stage, ranks
        self._device = ranks.device
        self._half_precision = half_precision
        self._pass = Pass(model)
        self._engine: Any = None
        self.parameters = dict(model.named_parameters())
        self._frozen: dict[str, Tensor] = {}
        """Float32 masters of what is not trained, in host memory; DeepSpeed has none of these."""

    def run(self, function: Callable[[Any], T]) -> T:
        """See Sharding."""
        assert self._engine is not None, "passes come after an optimizer was attached"
        result: T = self._engine(function)
        return result

    def backward(self, loss: Tensor, is_last: bool) -> None:
        """See Sharding."""
        self._engine.backward(loss * self._ranks.world_size)

    def optimizer(self, settings: Optimization, total_steps: int, offload: bool) -> "ZeroOptimizer":
        """See Sharding; another one takes over DeepSpeed's engine with all moments zero."""
        assert not offload, "refused when the stage was read"
        if self._engine is None:
            self._start()
        chosen = {name: p for name, p in self.parameters.items() if p.requires_grad}
        return ZeroOptimizer(self._engine, chosen, settings, total_steps)

    def _start(self) -> None:
        chosen = trained(self._model).values()
        matrices, vectors = ([p for p in chosen if (p.dim() >= 2) == m] for m in (True, False))
        groups = [{"params": matrices, "decays": True}, {"params": vectors, "decays": False}]
        head = getattr(self._model, "lm_head", None)
        if self._stage == 3 and head is not None:  # its weight is used without calling it
            deepspeed.zero.register_external_parameter(self._pass, head.weight)
        masters: dict[str, Tensor] = {}
        if self._half_precision:
            masters = {name: p.detach() for name, p in self.parameters.items()}
        self._engine, *_ = deepspeed.initialize(
            model=self._pass,
            optimizer=torch.optim.AdamW([g for g in groups if g["params"]], fused=True),
            config=self._config(),
        )
        # DeepSpeed's own are made of weights that it has rounded.
        self._frozen = {n: t for n, t in masters.items() if not self.parameters[n].requires_grad}
        if masters:
            self.load_weights(masters)

    def _config(self) -> dict[str, Any]:
        half = self._half_precision
        return {
            "train_micro_batch_size_per_gpu": 1,
            # A step has as many passes as there are packs, which varies.
            "managed_gradient_accumulation": False,
            "zero_allow_untested_optimizer": True,
            "zero_optimization": {
                "stage": self._stage,
                "stage3_param_persistence_threshold": PERSISTENT_ELEMENTS,
            },
            "bf16": {"enabled": half, **({"check_grad_overflow": True} if half else {})},
            "data_types": {"grad_accum_dtype": "fp32"},
            "communication_data_type": "fp32",
        }

    def weights(self) -> dict[str, TensorSource]:
        """See Sharding."""
        return {name: self._source(name, p) for name, p in self.parameters.items()}

    def _source(self, name: str, parameter: nn.Parameter) -> TensorSource:
        if self._engine is None:
            return source_of(parameter)
        if name in self._frozen:
            master = self._frozen[name]
            return TensorSource(tuple(master.shape), master.dtype, partial(master.to, self._device))
        read = safe_get_full_fp32_param if parameter.requires_grad else _gathered
        return TensorSource(_shape(parameter), torch.float32, partial(read, parameter))

    def load_weights(self, weights: Mapping[str, Tensor]) -> None:
        """See Sharding."""
        check_names(self.parameters, weights)
        for name, tensor in weights.items():
            parameter = self.parameters[name]
            value = tensor.to(self._device)
            with torch.no_grad(), _whole(parameter, modified=True):
                parameter.copy_(value)
            if name in self._frozen:
                self._frozen[name].copy_(tensor)
            if parameter.requires_grad and self._engine is not None:
                safe_set_full_fp32_param(parameter, value)


def _shape(parameter: nn.Parameter) -> tuple[int, ...]:
    """Of the whole parameter."""
    return tuple(getattr(parameter, "ds_shape", parameter.shape))


def _whole(parameter: nn.Parameter, modified: bool = False) -> Any:
    """Have a parameter whole for a while, if it lies in parts."""
    return deepspeed.zero.GatheredParameters([parameter], modifier_rank=0 if modified else None)


def _gathered(parameter: nn.Parameter) -> Tensor:
    with _whole(parameter):
        return parameter.detach().float().clone()


class ZeroOptimizer:
    """The same interface as Optimizer, over AdamW in DeepSpeed's hands."""

    def __init__(
        self,
        engine: Any,
        parameters: Mapping[str, nn.Parameter],
        settings: Optimization,
        total_steps: int,
    ) -> None:
        self._engine, self._zero = engine, engine.optimizer
        self._parameters, self._settings, self._total_steps = parameters, settings, total_steps
        self._zero.clip_grad = settings.grad_clip
        self._has_stepped = False
        self._reset()

    def _reset(self) -> None:
        """All moments zero, and there to be read and set before the first step."""
        zero = self._zero
        flat = getattr(zero, "single_partition_of_fp32_groups", None)  # ZeRO-2
        for part in flat or zero.fp32_partitioned_groups_flat:
            zero.optimizer.state[part] = {
                "step": torch.zeros((), device=part.device),
                **{key: torch.zeros_like(part) for key in _MOMENTS},
            }
        if flat is not None:
            zero._hp_optimizer_states_linked = False
            zero._lazy_init_hp_params_optimizer_state()

    def zero_grad(self) -> None:
        """Nothing: DeepSpeed forgets gradients after each step."""

    def step(self, step: int, loss: float) -> tuple[float, float]:
        """See Optimizer."""
        if not math.isfinite(loss):
            raise not_finite(step, loss, math.nan)
        rate = learning_rate(self._settings, step, self._total_steps)
        for group in self._zero.param_groups:
            group["lr"] = rate
            group["weight_decay"] = self._settings.weight_decay * group["decays"]
        self._engine.step()
        norm = float(self._engine.get_global_grad_norm())
        if not math.isfinite(norm):  # DeepSpeed has then left the step out
            raise not_finite(step, loss, norm)
        self._has_stepped = True
        return norm, rate

    def state(self) -> dict[str, TensorSource]:
        """See Optimizer."""
        if not self._has_stepped:
            return {}
        steps = next(iter(self._zero.optimizer.state.values()))["step"]
        sources: dict[str, TensorSource] = {}
        for name, parameter in self._parameters.items():
            sources[f"{name}.step"] = source_of(steps)
            for key in _MOMENTS:
                read = partial(safe_get_full_optimizer_state, parameter, key)
                sources[f"{name}.{key}"] = TensorSource(_shape(parameter), torch.float32, read)
        return sources

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """See Optimizer."""
        if not state:
            return
        for part in self._zero.optimizer.state.values():
            part["step"].copy_(state[f"{next(iter(self._parameters))}.step"])
        for name, parameter in self._parameters.items():
            for key in _MOMENTS:
                value = state[f"{name}.{key}"].to(self._engine.device)
                safe_set_full_optimizer_state(parameter, value, key)
        self._has_stepped = True
