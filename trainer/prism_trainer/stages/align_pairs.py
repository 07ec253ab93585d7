"""Warm-up of the discriminator on a file of teacher and student texts."""

from prism_api.resources import DataSource
from prism_trainer.data.encoder import Encoder
from prism_trainer.data.rows import Dataset
from prism_trainer.discriminator.comparison import Comparison, Segments
from prism_trainer.record import Use
from prism_trainer.seeds import derive_seed
from prism_trainer.stages.program import StageContext
from prism_trainer.stages.prompts import Draw, PromptSource, keep_short


class PairSource:
    """Batches of lines, each a prompt with one teacher and one student."""

    def __init__(self, context: StageContext, data: DataSource) -> None:
        self._context = context
        self._source = PromptSource(context, Dataset([data], "pair"))

    def __len__(self) -> int:
        return len(self._source.data)

    def batch(self, step: int, size: int) -> tuple[list[Use], list[Comparison], float]:
        """This process's share of a step's lines, and how many of all exceed a length limit.

        Captions and reasoning of a line are compared together, so that its image is encoded once.
        """
        context = self._context
        draws, dropped = self._source.batch("warmup", step * size, size)
        comparisons = {draw: self._comparison(draw, step) for draw in draws}
        lengths = [_longest(comparison) for comparison in comparisons.values()]
        limit = context.config.stage.max_response_tokens
        kept, too_long = keep_short(context.ranks, draws, lengths, "maxResponseTokens", limit)
        uses = [draw.use for draw in kept]
        return uses, [comparisons[draw] for draw in kept], dropped + too_long

    def _comparison(self, draw: Draw, step: int) -> Comparison:
        row, encoder = draw.row, self._context.encoder
        seed = derive_seed(self._context.config.seed, "dropout", "warmup", step, draw.key)
        teacher = segments(encoder, row.teacher_caption, row.teacher_reasoning)
        student = segments(encoder, row.student_caption, row.student_reasoning)
        return Comparison(draw.prompt, teacher, (student,), seed)


def segments(encoder: Encoder, caption: str | None, reasoning: str | None) -> Segments:
    """A text of a data file as it is scored: without the space around its segments."""
    assert caption is not None, "the data set was checked for captions"
    assert reasoning is not None, "the data set was checked for reasoning"
    return encoder.response(caption.strip()), encoder.response(reasoning.strip())


def _longest(comparison: Comparison) -> int:
    """Tokens of the longer of the two texts."""
    sides = (comparison.teacher, *comparison.students)
    return max(sum(len(segment) for segment in side) for side in sides)
