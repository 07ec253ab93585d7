"""The evaluation as several processes share it, and how they end it together."""

from pathlib import Path
from typing import Any

import pytest

from prism_api.errors import DataError
from prism_api.resources import DataSource, Evaluation
from prism_trainer.distributed import Ranks
from prism_trainer.evaluation import evaluate
from prism_trainer.rollouts import Request, SamplingParams
from prism_trainer.stages.program import StageContext
from prism_trainer.stages.run import build_context
from ranks_in_threads import on_every_rank
from stage_builders import (
    Row,
    rlvr_stage,
    run_attempt,
    stage_config,
    with_long_prompt,
    write_rows,
)


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


def test_held_out_prompts_begin_with_the_runs_system_message_too(
    context: StageContext, prompts: DataSource
) -> None:
    asked: list[Request] = []

    class Listening:
        def generate(self, requests: list[Request], params: SamplingParams) -> object:
            asked.extend(requests)
            return context.client.generate(requests, params)

    client: Any = Listening()
    settings = settings_of(prompts, 3, batch_size=2)

    evaluate(settings, 64, context.encoder, client, Ranks(), lambda: False, "Be brief.")

    assert len(asked) == 3
    for request in asked:
        assert request.row is not None
        assert request.row.messages[0] == {"role": "system", "content": "Be brief."}
        text = context.encoder.text(request.prompt.token_ids)
        assert text.startswith("system\nBe brief.")


def test_questions_that_are_too_long_are_left_out_and_counted(
    context: StageContext, rows: list[Row], tmp_path: Path
) -> None:
    short = write_rows(tmp_path / "short.parquet", rows[:4])
    mixed = write_rows(tmp_path / "mixed.parquet", [*rows[:4], *map(with_long_prompt, rows[4:7])])

    def answers(data: DataSource, ranks: Ranks) -> Any:
        settings = settings_of(data, 7, batch_size=2)
        return evaluate(settings, 64, context.encoder, context.client, ranks, lambda: False)

    expected, expected_samples = answers(short, Ranks())
    for result, samples in on_every_rank(2, lambda ranks: answers(mixed, ranks)):
        assert result == expected.model_copy(update={"too_long": 3})
        assert samples == expected_samples


def test_questions_that_are_all_too_long_are_refused_before_the_training(
    talker: Path, rows: list[Row], prompts: DataSource, tmp_path: Path
) -> None:
    heldout = write_rows(tmp_path / "long.parquet", list(map(with_long_prompt, rows[:3])))
    evaluation = Evaluation(data=heldout, max_response_tokens=40)
    config = stage_config(rlvr_stage(prompts), talker, tmp_path, evaluation=evaluation)
    with pytest.raises(DataError, match=r"long\.parquet: every held-out prompt exceeds maxPrompt"):
        run_attempt(config, tmp_path, lambda: pytest.fail("it has begun"))


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
