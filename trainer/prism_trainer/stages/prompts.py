"""A stage's prompts in their shuffled order, batch by batch, without those that are too long."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from prism_api.errors import DataError
from prism_trainer.data.rows import Dataset, Row, with_system_turn
from prism_trainer.data.sampler import draw_at
from prism_trainer.distributed import Ranks
from prism_trainer.engine.packing import Prompt
from prism_trainer.record import Use
from prism_trainer.stages.program import StageContext


@dataclass(frozen=True, eq=False)
class Draw:
    """One use of a row."""

    position: int
    """Place in the endless shuffled sequence."""
    key: int
    """What randomness of this use is keyed by; no other use of any row has the same."""
    row: Row
    prompt: Prompt

    @property
    def use(self) -> Use:
        """What the record says of a draw that nothing is sampled for."""
        return Use(self.position, self.key)


class PromptSource:
    """The batches of a data set; prompts beyond maxPromptTokens are left out and counted."""

    def __init__(self, context: StageContext, data: Dataset) -> None:
        self._context, self.data = context, data

    def batch(self, purpose: str, position: int, count: int) -> tuple[list[Draw], float]:
        """This process's share of the `count` draws from a position on, and how many were left out
        in all processes.

        Raises DataError, in all of them, if none has a prompt of the length that is allowed.
        """
        ranks = self._context.ranks
        mine = range(position + ranks.rank, position + count, ranks.world_size)
        draws = self.draws(purpose, mine)
        lengths = [len(draw.prompt.token_ids) for draw in draws]
        limit = self._context.config.stage.max_prompt_tokens
        return keep_short(ranks, draws, lengths, "maxPromptTokens", limit)

    def draws(self, purpose: str, positions: Iterable[int]) -> list[Draw]:
        """The draws at these positions, however long."""
        size, config = len(self.data), self._context.config
        places = list(positions)
        keys = [draw_at(size, config.seed, purpose, position) for position in places]
        rows = [with_system_turn(self.data[key % size], config.system_message) for key in keys]
        prompts = self._context.encoder.prompts(rows)
        return [Draw(*parts) for parts in zip(places, keys, rows, prompts, strict=True)]


def keep_short(
    ranks: Ranks, draws: Sequence[Draw], lengths: Sequence[int], field: str, limit: int
) -> tuple[list[Draw], float]:
    """Draws of at most `limit` tokens, and how many in all processes have more.

    Raises DataError in every process if none has any left; `field` is the limit's name.
    """
    sized = list(zip(draws, lengths, strict=True))
    kept = [draw for draw, length in sized if length <= limit]
    left, dropped = ranks.sum_floats(float(len(kept)), float(len(draws) - len(kept)))
    if left == 0:
        examples = ranks.gather([(draw.row.origin, length) for draw, length in sized[:1]])
        origin, length = next(example for part in examples for example in part)
        raise DataError(
            f"{origin}: {length} tokens exceed {field} {limit}, and so does all that its batch "
            f"holds; raise {field} or shorten the data"
        )
    return kept, dropped
