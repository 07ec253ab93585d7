"""The control of alignment: what remains of it without the game."""

from prism_api.stages import AlignStage
from prism_trainer.data.rows import Dataset
from prism_trainer.engine.packing import Group
from prism_trainer.record import Usage
from prism_trainer.stages.program import Iteration, Phase, StageContext, Stateless
from prism_trainer.stages.prompts import PromptSource
from prism_trainer.stages.sft import supervised_update


class SupervisedAlignProgram(Stateless):
    """The control: cross-entropy on the same teacher texts, as many updates, no discriminator."""

    def __init__(self, context: StageContext, settings: AlignStage) -> None:
        self._context, self._settings = context, settings
        self._source = PromptSource(context, Dataset([settings.data], "teacher"))
        self.phases = (Phase("train", settings.steps),)
        context.policy.start_training(settings, settings.steps)

    def iterate(self, phase: str, step: int) -> Iteration:
        """One optimizer step on the teacher texts that the game would have used."""
        size = self._settings.batch_size
        draws, dropped = self._source.batch("align", step * size, size)
        encoder = self._context.encoder
        groups = [Group(d.prompt, (encoder.response(d.row.response or ""),)) for d in draws]
        report, loss = supervised_update(self._context, groups, step)
        metrics = {
            "loss": loss,
            "grad_norm": report.grad_norm,
            "learning_rate": report.learning_rate,
            "tokens": float(report.num_tokens),
            "dropped_samples": dropped,
        }
        uses = [draw.use for draw in draws]
        return Iteration(metrics, Usage(range(step * size, (step + 1) * size), uses, [uses]))
