"""The evaluation as several processes share it, and how they end it together."""

from pathlib import Path

import pytest

from prism_api.resources import DataSource, Evaluation
from prism_trainer.distributed import Ranks
from prism_trainer.evaluation import evaluate
from prism_trainer.stages.program import StageContext
from prism_trainer.stages.run import build_context
from ranks_in_threads import on_every_rank
from stage_builders import rlvr_stage, stage_config


@pytest.fixture
def context(talker: Path, prompts: DataSource, tmp_path: Path) -> StageContext:
    return build_context(stage_config(rlvr_stage(prompts), talker, tmp_path), Ranks(), tmp_path)


def settings_of(data: DataSource, questions: int, batch_size: int) -> Evaluation:
    return Evaluation(
        data=data, batch_size=batch_size, max_response_tokens=40, max_samples=questions
    )


@pytest.mark.parametrize("questions", [1, 5, 8])
def test_processes_with_fewer_batches_or_none_arrive_at_the_same_result(
    context: StageContext, prompts: DataSource, questions: int
) -> None:
    settings = settings_of(prompts, questions, batch_size=2)

    def answers(ranks: Ranks) -> object:
        return evaluate(settings, 64, context.encoder, context.client, ranks, lambda: False)

    alone = answers(Ranks())
    assert alone is not None
    assert on_every_rank(3, answers) == [alone] * 3


@pytest.mark.parametrize("asked", [0, 2])
def test_all_processes_end_before_the_batch_at_which_one_is_asked_to(
    context: StageContext, prompts: DataSource, asked: int
) -> None:
    """Also the process that has no question left to answer."""
    settings = settings_of(prompts, 5, batch_size=1)

    def batches_done(ranks: Ranks) -> int:
        asks = iter(range(9))

        def stop() -> bool:
            return next(asks) == 1 and ranks.rank == asked

        assert evaluate(settings, 64, context.encoder, context.client, ranks, stop) is None
        return next(asks)

    assert on_every_rank(3, batches_done) == [2] * 3
