"""Every stage with a mixture of experts as its policy: trained, exported, resumed bitwise."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import Qwen3VLMoeForConditionalGeneration

from prism_api.resources import DataSource
from prism_api.run import AnyStage
from served_models import build_served_model, save_served_model
from stage_builders import (
    align_stage,
    rlvr_stage,
    run_attempt,
    run_to_end,
    sft_stage,
    stage_config,
    stop_after,
)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def mixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As published; the discriminator starts from it too."""
    return save_served_model(build_served_model("moe", 1), tmp_path_factory.mktemp("mixture"))


@pytest.fixture
def stages(
    demos: DataSource, teachers: DataSource, prompts: DataSource
) -> dict[str, Callable[[], AnyStage]]:
    """Nothing that it writes is in the format: RLVR moves it by entropy, alignment by weight
    decay."""
    return {
        "sft": lambda: sft_stage(demos, steps=3),
        "align": lambda: align_stage(teachers, steps=2),
        "grpo": lambda: rlvr_stage(prompts, steps=3, entropy_coef=0.01),
    }


@pytest.mark.parametrize("name", ["sft", "align", "grpo"])
def test_a_mixture_is_trained_and_resumed_bitwise(
    name: str, stages: dict[str, Callable[[], AnyStage]], mixture: Path, tmp_path: Path
) -> None:
    folders = tmp_path / "whole", tmp_path / "resumed"
    configs = [stage_config(stages[name](), mixture, folder) for folder in folders]
    whole = run_to_end(configs[0], folders[0])
    assert not run_attempt(configs[1], folders[1], stop_after(2))
    resumed = run_to_end(configs[1].model_copy(update={"attempt": 2}), folders[1])

    assert resumed.history() == whole.history()
    assert resumed.tensors() == whole.tensors()
    model = Qwen3VLMoeForConditionalGeneration.from_pretrained(whole.model, dtype=torch.float32)
    before = build_served_model("moe", 1).state_dict()
    changed = [n for n, t in model.state_dict().items() if not torch.equal(t, before[n])]
    assert any("experts" in name for name in changed)
