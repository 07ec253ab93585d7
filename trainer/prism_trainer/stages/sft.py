"""Stage 1: supervised fine-tuning.

Cross-entropy of the demonstration's tokens, averaged over all response tokens of the global batch.
"""

from collections.abc import Sequence

from torch import Tensor

from prism_api.errors import DataError
from prism_api.stages import SftStage
from prism_trainer.data.rows import Dataset, Row
from prism_trainer.data.sampler import rows_at
from prism_trainer.engine.packing import Group, Pack, Prompt
from prism_trainer.engine.policy import StepReport
from prism_trainer.stages.program import Metrics, Phase, StageContext, Stateless


class SftProgram(Stateless):
    """Demonstrations in, one optimizer step per iteration."""

    def __init__(self, context: StageContext, settings: SftStage) -> None:
        self._context, self._settings = context, settings
        self._data = Dataset(settings.data, "response")
        steps = settings.steps or _steps_of_epochs(len(self._data), settings)
        self.phases = (Phase("train", steps),)
        context.policy.start_training(settings, steps)

    def iterate(self, phase: str, step: int) -> Metrics:
        """One optimizer step."""
        candidates = self._batch(step)
        groups = [group for group in candidates if group is not None]
        report, loss = supervised_update(self._context, groups, step)
        (dropped,) = self._context.ranks.sum_floats(float(len(candidates) - len(groups)))
        return {
            "loss": loss,
            "grad_norm": report.grad_norm,
            "learning_rate": report.learning_rate,
            "tokens": report.num_tokens,
            "dropped_samples": dropped,
        }

    def _batch(self, step: int) -> list[Group | None]:
        """This process's share of the batch; None for samples beyond the length limits."""
        size, ranks = self._settings.batch_size, self._context.ranks
        seed = self._context.config.seed
        rows = rows_at(len(self._data), seed, "sft", step * size, size)
        chosen = [self._data[i] for i in rows[ranks.rank :: ranks.world_size]]
        prompts = self._context.encoder.prompts(chosen)
        return [self._group(row, prompt) for row, prompt in zip(chosen, prompts, strict=True)]

    def _group(self, row: Row, prompt: Prompt) -> Group | None:
        assert row.response is not None, "the data set was checked for demonstrations"
        response = self._context.encoder.response(row.response)
        too_long = len(prompt.token_ids) > self._settings.max_prompt_tokens
        if too_long or len(response) > self._settings.max_response_tokens:
            return None
        return Group(prompt, (response,))


def supervised_update(
    context: StageContext, groups: Sequence[Group], step: int
) -> tuple[StepReport, float]:
    """One step of cross-entropy on the groups' continuations; returns report and mean token loss.

    Raises DataError if no process has anything within the length limits.
    """
    policy = context.policy
    packs = policy.packs(groups)
    (count,) = context.ranks.sum_floats(float(sum(len(pack.targets) for pack in packs)))
    if count == 0:
        raise DataError(
            f"step {step}: every sample of the batch is longer than maxPromptTokens or "
            "maxResponseTokens; raise them or shorten the data"
        )

    def loss_of(_: int, pack: Pack) -> Tensor:
        return -policy.logprobs(pack)[0].sum() / count

    report = policy.update(packs, loss_of, step)
    return report, report.loss


def _steps_of_epochs(size: int, settings: SftStage) -> int:
    return max(1, size * (settings.epochs or 1) // settings.batch_size)
