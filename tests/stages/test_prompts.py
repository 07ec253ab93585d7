"""Which prompts a batch holds: shares of all processes, over-long ones left out and counted."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from prism_api.errors import DataError
from prism_api.resources import DataSource
from prism_trainer.data.encoder import Encoder
from prism_trainer.data.rows import Dataset
from prism_trainer.distributed import Ranks
from prism_trainer.rollouts import Completion, Request, SamplingParams
from prism_trainer.stages.program import StageContext
from prism_trainer.stages.prompts import PromptSource
from prism_trainer.stages.run import build_context
from prism_trainer.stages.sampling import sample
from ranks_in_threads import on_every_rank
from stage_builders import Row, rlvr_stage, stage_config, with_long_prompt, write_rows

SIZE = 16


@pytest.fixture(scope="module")
def uneven(rows: list[Row], tmp_path_factory: pytest.TempPathFactory) -> DataSource:
    """Every third prompt is too long."""
    mixed = [row if i % 3 else with_long_prompt(row) for i, row in enumerate(rows)]
    return write_rows(tmp_path_factory.mktemp("uneven") / "prompts.parquet", mixed)


def context_of(data: DataSource, talker: Path, folder: Path) -> StageContext:
    return build_context(stage_config(rlvr_stage(data), talker, folder), Ranks(), folder)


def batch_of(context: StageContext, data: DataSource, position: int = 0) -> tuple[list[int], float]:
    draws, dropped = PromptSource(context, Dataset([data], "truth")).batch("x", position, SIZE)
    return [draw.position for draw in draws], dropped


def test_prompts_beyond_the_limit_are_left_out_and_counted(
    talker: Path, uneven: DataSource, tmp_path: Path
) -> None:
    context = context_of(uneven, talker, tmp_path)
    draws, dropped = PromptSource(context, Dataset([uneven], "truth")).batch("x", 0, SIZE)
    assert sorted(draw.key for draw in draws) == [i for i in range(SIZE) if i % 3]
    assert dropped == 6
    assert max(len(draw.prompt.token_ids) for draw in draws) <= 64


def test_prompts_without_a_system_turn_begin_with_the_runs_message(
    talker: Path, rows: list[Row], tmp_path: Path
) -> None:
    own = {"role": "system", "content": "Own."}
    mixed = [
        row if i % 2 else {**row, "prompt": [own, *row["prompt"]]} for i, row in enumerate(rows)
    ]
    data = write_rows(tmp_path / "mixed.parquet", mixed)
    plain = context_of(data, talker, tmp_path)
    config = plain.config.model_copy(update={"system_message": "Default."})
    encoder = Encoder(plain.processor, plain.policy.model.config.image_token_id)
    told = replace(plain, config=config, encoder=encoder)
    source = PromptSource(told, Dataset([data], "truth"))

    plain_draws, _ = PromptSource(plain, source.data).batch("x", 0, SIZE)
    draws, _ = source.batch("x", 0, SIZE)

    for draw, without in zip(draws, plain_draws, strict=True):
        expected = "Default." if draw.key % 2 else "Own."
        assert draw.row.messages[0] == {"role": "system", "content": expected}
        assert plain.encoder.text(draw.prompt.token_ids).startswith(f"system\n{expected}")
        longer = len(draw.prompt.token_ids) > len(without.prompt.token_ids)
        assert longer == bool(draw.key % 2)


@pytest.mark.parametrize("size", [2, 5])
def test_the_shares_of_all_processes_are_the_batch_of_one(
    talker: Path, uneven: DataSource, tmp_path: Path, size: int
) -> None:
    context = context_of(uneven, talker, tmp_path)
    whole, dropped = batch_of(context, uneven, position=8)
    shares = on_every_rank(size, lambda r: batch_of(replace(context, ranks=r), uneven, 8))
    assert sorted(place for places, _ in shares for place in places) == whole
    assert [count for _, count in shares] == [dropped] * size


def test_a_batch_without_any_prompt_within_the_limit_is_refused_in_every_process(
    talker: Path, rows: list[Row], tmp_path: Path
) -> None:
    data = write_rows(tmp_path / "long.parquet", [with_long_prompt(rows[0])])
    context = context_of(data, talker, tmp_path)

    def refusal(ranks: Ranks) -> str:
        source = PromptSource(replace(context, ranks=ranks), Dataset([data], "truth"))
        with pytest.raises(DataError) as caught:
            source.batch("x", 0, 1)
        return str(caught.value)

    # One prompt for two processes: the second has no share that it could name a row of.
    first, second = on_every_rank(2, refusal)
    assert first == second
    assert "long.parquet row 0" in first
    assert "exceed maxPromptTokens 64" in first


class Recorder:
    """A rollout client that notes what it is asked."""

    def __init__(self) -> None:
        self.requests: list[Request] = []

    def generate(
        self, requests: Sequence[Request], params: SamplingParams
    ) -> list[list[Completion]]:
        """No responses."""
        self.requests = list(requests)
        return [[] for _ in requests]

    def update_weights(self, version: int) -> None:
        """Nothing."""


def test_a_row_that_a_batch_holds_twice_is_sampled_with_seeds_of_its_own(
    talker: Path, rows: list[Row], tmp_path: Path
) -> None:
    """A batch over an epoch's border, or larger than the data."""
    data = write_rows(tmp_path / "three.parquet", rows[:3])
    client = Recorder()
    context = replace(context_of(data, talker, tmp_path), client=client)
    draws, _ = PromptSource(context, Dataset([data], "truth")).batch("x", 0, 8)
    sample(context, rlvr_stage(data), draws, 4, ("key",))
    assert len({draw.row.origin for draw in draws}) == 3
    assert [request.row for request in client.requests] == [draw.row for draw in draws]
    seeds = [seed for request in client.requests for seed in request.seeds]
    assert len(set(seeds)) == len(seeds) == 8 * 4
