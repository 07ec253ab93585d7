"""The control of alignment: what remains of it without the game."""

from prism_api.stages import AlignStage
from prism_trainer.data.lengths import check_teacher
from prism_trainer.data.rows import Dataset, Row
from prism_trainer.engine.packing import Group, Tokens
from prism_trainer.stages.program import Metrics, Phase, StageContext, Stateless
from prism_trainer.stages.prompts import PromptSource
from prism_trainer.stages.sft import supervised_update


class SupervisedAlignProgram(Stateless):
    """The control: cross-entropy on the same teacher texts, as many updates, no discriminator."""

    def __init__(self, context: StageContext, settings: AlignStage) -> None:
        self._context, self._settings = context, settings
        self._source = PromptSource(context, Dataset([settings.data], "teacher"))
        self.phases = (Phase("train", settings.steps),)
        context.policy.start_training(settings, settings.steps)

    def iterate(self, phase: str, step: int) -> Metrics:
        """One optimizer step on the teacher texts that the game would have used."""
        size = self._settings.batch_size
        draws, dropped = self._source.batch("align", step * size, size)
        groups = [Group(draw.prompt, (self._teacher(draw.row),)) for draw in draws]
        report, loss = supervised_update(self._context, groups, step)
        return {
            "loss": loss,
            "grad_norm": report.grad_norm,
            "learning_rate": report.learning_rate,
            "tokens": float(report.num_tokens),
            "dropped_samples": dropped,
        }

    def _teacher(self, row: Row) -> Tokens:
        assert row.response is not None, "the data set was checked for teachers"
        tokens = self._context.encoder.response(row.response)
        check_teacher(row.origin, len(tokens), self._settings.max_response_tokens)
        return tokens
