"""The policy's responses to drawn prompts, in groups: what alignment and RLVR learn from."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from prism_api.stages import AlignStage, RlvrStage
from prism_trainer.engine.packing import Group
from prism_trainer.record import Use
from prism_trainer.rollouts import Completion, Request, SamplingParams
from prism_trainer.seeds import derive_seed
from prism_trainer.stages.program import Metrics, StageContext
from prism_trainer.stages.prompts import Draw


@dataclass(frozen=True, eq=False)
class SampledGroup:
    """One drawn prompt and the policy's responses to it."""

    draw: Draw
    completions: tuple[Completion, ...]
    texts: tuple[str, ...]

    @property
    def use(self) -> Use:
        """What the record says of it."""
        return Use(self.draw.position, self.draw.key, self.completions)

    def packed(self) -> Group:
        """Prompt and responses as the engine lays them out."""
        return Group(self.draw.prompt, tuple(c.tokens for c in self.completions))


def sample(
    context: StageContext,
    settings: AlignStage | RlvrStage,
    draws: Sequence[Draw],
    count: int,
    key: tuple[int | str, ...],
) -> list[SampledGroup]:
    """`count` responses to each drawn prompt, keyed by (run seed, key, draw, response)."""
    seed = context.config.seed
    requests = [
        Request(d.prompt, tuple(derive_seed(seed, *key, d.key, n) for n in range(count)), d.row)
        for d in draws
    ]
    params = SamplingParams(settings.max_response_tokens, settings.temperature)
    answers = context.client.generate(requests, params)
    return [_group(context, d, a) for d, a in zip(draws, answers, strict=True)]


def _group(context: StageContext, draw: Draw, completions: Sequence[Completion]) -> SampledGroup:
    texts = tuple(context.encoder.text(c.tokens) for c in completions)
    return SampledGroup(draw, tuple(completions), texts)


def response_metrics(context: StageContext, groups: Sequence[SampledGroup]) -> Metrics:
    """Length and completeness of the responses of all processes, of which one must have some."""
    completions = [c for g in groups for c in g.completions]
    count, tokens, finished = context.ranks.sum_floats(
        float(len(completions)),
        float(np.sum([len(c.tokens) for c in completions])),
        float(np.sum([c.finished for c in completions])),
    )
    return {"response_tokens": tokens / count, "finished_rate": finished / count}


def to_document(group: SampledGroup) -> dict[str, Any]:
    """A group as JSON values, for a checkpoint."""
    completions = [
        {
            "tokens": completion.tokens.tolist(),
            "logprobs": completion.logprobs.tolist(),
            "finished": completion.finished,
            "weight_version": completion.weight_version,
            "seed": completion.seed,
            "weights": completion.weights,
        }
        for completion in group.completions
    ]
    return {"position": group.draw.position, "completions": completions}


def from_document(context: StageContext, draw: Draw, document: dict[str, Any]) -> SampledGroup:
    """What `to_document` was given; `draw` is the one at the document's position."""
    completions = [
        Completion(
            np.array(values["tokens"], dtype=np.int64),
            np.array(values["logprobs"], dtype=np.float32),
            values["finished"],
            values["weight_version"],
            values["seed"],
            values["weights"],
        )
        for values in document["completions"]
    ]
    return _group(context, draw, completions)
