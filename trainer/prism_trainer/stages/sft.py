"""Stage 1: supervised fine-tuning.

Cross-entropy of the demonstration's tokens, averaged over all response tokens of the global batch.
"""

from collections.abc import Sequence

from torch import Tensor

from prism_api.stages import SftStage
from prism_trainer.data.rows import Dataset, Row
from prism_trainer.engine.packing import Group, Pack, Tokens
from prism_trainer.engine.policy import StepReport
from prism_trainer.record import Usage, Use
from prism_trainer.stages.program import Iteration, Phase, StageContext, Stateless
from prism_trainer.stages.prompts import PromptSource, keep_short


class SftProgram(Stateless):
    """Demonstrations in, one optimizer step per iteration."""

    def __init__(self, context: StageContext, settings: SftStage) -> None:
        self._context, self._settings = context, settings
        self._source = PromptSource(context, Dataset(settings.data, "response"))
        steps = settings.steps or _steps_of_epochs(len(self._source.data), settings)
        self.phases = (Phase("train", steps),)
        context.policy.start_training(settings, steps)

    def iterate(self, phase: str, step: int) -> Iteration:
        """One optimizer step."""
        size = self._settings.batch_size
        uses, groups, dropped = self._batch(step * size, size)
        report, loss = supervised_update(self._context, groups, step)
        metrics = {
            "loss": loss,
            "grad_norm": report.grad_norm,
            "learning_rate": report.learning_rate,
            "tokens": report.num_tokens,
            "dropped_samples": dropped,
        }
        return Iteration(metrics, Usage(range(step * size, (step + 1) * size), uses, [uses]))

    def _batch(self, position: int, size: int) -> tuple[list[Use], list[Group], float]:
        """This process's share of the batch, and how many samples of all exceed a length limit."""
        ranks = self._context.ranks
        draws, dropped = self._source.batch("sft", position, size)
        responses = {draw: self._response(draw.row) for draw in draws}
        lengths = [len(tokens) for tokens in responses.values()]
        limit = self._settings.max_response_tokens
        kept, too_long = keep_short(ranks, draws, lengths, "maxResponseTokens", limit)
        groups = [Group(draw.prompt, (responses[draw],)) for draw in kept]
        return [draw.use for draw in kept], groups, dropped + too_long

    def _response(self, row: Row) -> Tokens:
        assert row.response is not None, "the data set was checked for demonstrations"
        return self._context.encoder.response(row.response)


def supervised_update(
    context: StageContext, groups: Sequence[Group], step: int
) -> tuple[StepReport, float]:
    """One step of cross-entropy on the groups' continuations; returns report and mean token loss.

    A process may have no groups, but not all of them.
    """
    policy = context.policy
    packs = policy.packs(groups)
    (count,) = context.ranks.sum_floats(float(sum(len(pack.targets) for pack in packs)))

    def loss_of(_: int, pack: Pack) -> Tensor:
        return -policy.logprobs(pack)[0].sum() / count

    report = policy.update(packs, loss_of, step)
    return report, report.loss


def _steps_of_epochs(size: int, settings: SftStage) -> int:
    return max(1, size * (settings.epochs or 1) // settings.batch_size)
