"""The policy: a Qwen3-VL with its optimizer; packed log-probabilities and steps."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from prism_api.optimization import Optimization
from prism_api.resources import Engine, Precision
from prism_trainer.distributed import Ranks
from prism_trainer.engine.attention import KeyValueSink
from prism_trainer.engine.head import token_logprobs
from prism_trainer.engine.lora import Adapters
from prism_trainer.engine.optimizer import Stepper
from prism_trainer.engine.packing import Group, Pack, build_pack, image_filler, split_into_packs
from prism_trainer.engine.sharding import shard, trained
from prism_trainer.engine.sources import TensorSource

T = TypeVar("T")


@dataclass(frozen=True)
class StepReport:
    """What one optimizer step was like; sums over all processes."""

    loss: float
    grad_norm: float
    learning_rate: float
    num_tokens: int


def hidden_states(model: Any, pack: Pack, kv_sink: KeyValueSink | None = None) -> Tensor:
    """Final hidden states [tokens, width] of a pack; `model` is the tower without its head.

    Image features go where the prompts have them. (transformers' own forward puts them wherever the
    placeholder token stands, and fails when a policy writes that token in a response.)
    """
    embeddings = model.get_input_embeddings()(pack.input_ids)
    deepstack = None
    if pack.image_mask is not None:
        features = model.get_image_features(
            pack.pixel_values,
            pack.grid_thw,
            return_dict=True,
            text_layout=pack.text_layout,
            vision_layout=pack.vision_layout,
        )
        image = _whole(features.pooler_output).to(embeddings.dtype)
        embeddings = embeddings.masked_scatter(pack.image_mask[..., None], image)
        deepstack = [_whole(level) for level in features.deepstack_features]
    output = model.language_model(
        inputs_embeds=embeddings,
        position_ids=pack.position_ids,
        visual_pos_masks=pack.image_mask,
        deepstack_visual_embeds=deepstack,
        use_cache=False,
        text_layout=pack.text_layout,
        kv_sink=kv_sink,
    )
    hidden: Tensor = output.last_hidden_state[0]
    return hidden


def _whole(features: Tensor | Sequence[Tensor]) -> Tensor:
    """Features of all images; transformers 5.17 leaves some whole that 5.19 splits by image."""
    return features if isinstance(features, Tensor) else torch.cat(list(features))


class Network:
    """A trained model: packs in, gradient steps out. Holds no algorithm."""

    def __init__(
        self,
        model: Any,
        ranks: Ranks,
        precision: Precision,
        max_tokens: int,
        engine: Engine = "replicated",
    ) -> None:
        self.model: Any = model
        self.ranks, self.max_tokens = ranks, max_tokens
        self.half_precision = precision == "bf16"
        self.adapters = Adapters(model)
        self._trained = list(trained(model))
        self.sharding = shard(model, engine, self.half_precision, ranks)
        self.optimizer: Stepper | None = None
        self.offload_optimizer = False
        """Whether optimizer states lie in host memory between steps."""

    def weights(self) -> dict[str, TensorSource]:
        """Parameters by their names in a checkpoint; adapters are merged."""
        return self.adapters.merged(self.sharding.weights())

    def trained_weights(self) -> dict[str, TensorSource]:
        """Parameters that are not frozen; adapters are not merged."""
        weights = self.sharding.weights()
        return {name: weights[name] for name in self._trained}

    def load_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Set what `weights` gave, or with adapters what `trained_weights` gave."""
        self.sharding.load_weights(weights)

    def start_training(self, settings: Optimization, total_steps: int) -> None:
        """Attach a fresh optimizer."""
        self.optimizer = self.sharding.optimizer(settings, total_steps, self.offload_optimizer)

    def packs(self, groups: Sequence[Group]) -> list[Pack]:
        """Packs of at most `max_tokens` tokens, in order; see `in_step`.

        Where passes are in step there is at least one: not every engine can take an optimizer step
        without a backward pass (all advantages of a batch may be zero).
        """
        parts = self.in_step(split_into_packs(groups, self.max_tokens), [])
        nothing: list[list[Group]] = [[]] if self.sharding.in_step else []
        return [self.pack(part) for part in parts or nothing]

    def in_step(self, passes: list[T], nothing: T) -> list[T]:
        """The same passes, and as many more over nothing as another process has more of them.

        All processes must call this together.
        """
        if not self.sharding.in_step:
            return passes
        return passes + [nothing] * (self.ranks.most(len(passes)) - len(passes))

    def pack(self, groups: Sequence[Group]) -> Pack:
        """One pack for this network's device and precision."""
        filler = image_filler(self._config) if self.sharding.in_step else None
        device = self.ranks.device
        # The kernel for variable lengths is a GPU's, in half precision.
        varlen = self.half_precision and device.type == "cuda"
        return build_pack(groups, device, varlen, filler)

    @property
    def _config(self) -> Any:
        return self.model.config

    def autocast(self) -> torch.autocast:
        """Compute in bfloat16 where that was asked for and the weights do not ensure it."""
        enabled = self.half_precision and not self.sharding.casts
        return torch.autocast(self.ranks.device.type, torch.bfloat16, enabled=enabled)

    def update(
        self, packs: Sequence[Pack], loss_of: Callable[[int, Pack], Tensor], step: int
    ) -> StepReport:
        """One optimizer step on the sum of `loss_of(i, pack)` over all packs of all processes.

        Losses must already be divided by counts over all processes and packs, so that splitting a
        batch differently changes nothing.
        """
        assert self.optimizer is not None, "an optimizer was attached"
        self.optimizer.zero_grad()
        total = torch.zeros((), dtype=torch.float64)
        for i, pack in enumerate(packs):
            with self.adapters.dropout(step, self.ranks.rank, i):
                with self.autocast():
                    loss = loss_of(i, pack)
                self.sharding.backward(loss, is_last=i + 1 == len(packs))
            total += loss.detach().double().cpu()
        loss_sum, tokens = self.ranks.sum_floats(float(total), sum(p.num_tokens for p in packs))
        norm, rate = self.optimizer.step(step, loss_sum)
        return StepReport(loss_sum, norm, rate, int(tokens))


class Policy(Network):
    """The model that is being trained to answer."""

    def logprobs(self, pack: Pack, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
        """Log-probability and entropy of every target of a pack, [targets] each."""

        def run(model: Any) -> tuple[Tensor, Tensor]:
            sources = hidden_states(model.model, pack).index_select(0, pack.source_index)
            return token_logprobs(sources, model.lm_head.weight, pack.targets, temperature)

        return self.sharding.run(run)

    def initial_logprobs(self, pack: Pack, temperature: float = 1.0) -> Tensor:
        """Those of the policy without its adapters, without gradient."""
        with torch.no_grad(), self.autocast(), self.adapters.off():
            return self.logprobs(pack, temperature)[0]

    def detached_logprobs(self, packs: Sequence[Pack], temperature: float = 1.0) -> list[Tensor]:
        """Log-probabilities of all packs without gradients."""
        with torch.no_grad(), self.autocast():
            return [self.logprobs(pack, temperature)[0] for pack in packs]
