"""The policy: a Qwen3-VL with its optimizer; packed log-probabilities and steps."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from prism_api.resources import Precision
from prism_trainer.distributed import Ranks
from prism_trainer.engine.attention import KeyValueSink
from prism_trainer.engine.head import token_logprobs
from prism_trainer.engine.optimizer import Optimizer
from prism_trainer.engine.packing import Group, Pack, build_pack, split_into_packs


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

    def __init__(self, model: Any, ranks: Ranks, precision: Precision, max_tokens: int) -> None:
        self.model: Any = model
        self.ranks, self.max_tokens = ranks, max_tokens
        self.half_precision = precision == "bf16"
        self.optimizer: Optimizer | None = None
        self.names: dict[Tensor, str] = {
            parameter: name for name, parameter in model.named_parameters()
        }

    @property
    def trained(self) -> list[nn.Parameter]:
        """Parameters that are not frozen."""
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]

    def packs(self, groups: Sequence[Group]) -> list[Pack]:
        """Packs of at most `max_tokens` tokens, in order."""
        parts = split_into_packs(groups, self.max_tokens)
        return [self.pack(part) for part in parts]

    def pack(self, groups: Sequence[Group]) -> Pack:
        """One pack for this network's device and precision."""
        return build_pack(groups, self.ranks.device, varlen=self.half_precision)

    def autocast(self) -> torch.autocast:
        """Compute in bfloat16 where that was asked for."""
        return torch.autocast(self.ranks.device.type, torch.bfloat16, enabled=self.half_precision)

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
            with self.autocast():
                loss = loss_of(i, pack)
            loss.backward()
            total += loss.detach().double().cpu()
        loss_sum, tokens = self.ranks.sum_floats(float(total), sum(p.num_tokens for p in packs))
        norm, rate = self.optimizer.step(step, loss_sum)
        return StepReport(loss_sum, norm, rate, int(tokens))


class Policy(Network):
    """The model that is being trained to answer."""

    def logprobs(self, pack: Pack, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
        """Log-probability and entropy of every target of a pack, [targets] each."""
        hidden = hidden_states(self.model.model, pack)
        sources = hidden.index_select(0, pack.source_index)
        return token_logprobs(sources, self.model.lm_head.weight, pack.targets, temperature)

    def detached_logprobs(self, packs: Sequence[Pack], temperature: float = 1.0) -> list[Tensor]:
        """Log-probabilities of all packs without gradients."""
        with torch.no_grad(), self.autocast():
            return [self.logprobs(pack, temperature)[0] for pack in packs]
