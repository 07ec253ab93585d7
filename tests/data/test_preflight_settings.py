"""The preflight refuses settings that this trainer, or the model's config, cannot serve."""

import json
from pathlib import Path
from typing import Any

import pytest

from preflight_builders import configs
from prism_api.errors import SpecError
from prism_api.uris import file_uri
from prism_trainer import preflight
from prism_trainer.preflight import check_supported
from run_builders import Changes


@pytest.mark.parametrize(
    ("model_type", "lora", "fields"),
    [
        ("qwen3_vl", {}, []),
        ("qwen3_vl_moe", {"targetModules": ["q_proj", "o_proj"]}, []),
        ("qwen3_vl_moe", {"targetModules": ["q_proj", "up_proj"]}, ["targetModules"]),
        ("qwen3_vl_moe", {}, ["targetModules"]),
    ],
)
def test_adapters_of_layers_that_a_mixture_lacks_are_found_by_its_config(
    tmp_path: Path, model_type: str, lora: dict[str, Any], fields: list[str]
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    _, _, rlvr = configs({"spec.model.uri": file_uri(tmp_path), "spec.stages.rlvr.lora": lora})
    found: list[str] = []
    try:
        check_supported(rlvr)
    except SpecError as error:
        found = [problem.path for problem in error.problems]

    assert found == [f"stages.rlvr.lora.{field}" for field in fields]


@pytest.mark.parametrize(
    ("changes", "problems"),
    [
        ({}, {}),
        ({"spec.workers": {"engine": "fsdp2", "replicas": 2}}, {}),
        ({"spec.rollout": {"backend": "vllm"}}, {}),
        ({"spec.rollout": {"backend": "vllm", "weightUpdate": "reload"}}, {}),
        ({"spec.workers": {"engine": "replicated", "replicas": 2}}, {}),
        (
            {"spec.workers": {"engine": "deepspeed-zero3", "replicas": 2}},
            {kind: [f"stages.{kind}.workers.engine"] for kind in ("sft", "align", "rlvr")},
        ),
        (
            {
                "spec.workers": {"engine": "fsdp2", "replicas": 2},
                "spec.stages.align.workers": {"engine": "deepspeed-zero2"},
                "spec.stages.align.offloadOptimizer": "always",
            },
            {"align": ["stages.align.workers.engine", "stages.align.offloadOptimizer"]},
        ),
        (
            {"spec.rollout": {"backend": "vllm", "weightUpdate": "nccl"}},
            {kind: [f"stages.{kind}.rollout.weightUpdate"] for kind in ("align", "rlvr")},
        ),
        ({"spec.stages.align.discriminator.warmup.data": {"uri": "file:///w.parquet"}}, {}),
    ],
)
def test_settings_that_this_trainer_cannot_serve_are_named_by_stage(
    changes: Changes, problems: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without DeepSpeed, whether it is installed here or not."""
    monkeypatch.setattr(preflight, "find_spec", lambda _: None)
    found = {}
    for config in configs(changes):
        try:
            check_supported(config)
        except SpecError as error:
            found[config.kind] = [problem.path for problem in error.problems]

    assert found == problems


MIXTURE = {"num_experts": 8, "num_experts_per_tok": 2, "vocab_size": 64}


@pytest.mark.parametrize(
    ("model_type", "text", "fields"),
    [
        ("qwen3_vl", {}, []),
        ("qwen3_vl_moe", {**MIXTURE, "num_experts": 4}, []),
        ("qwen3_vl_moe", MIXTURE, ["numExperts"]),
        ("qwen3_vl_moe", {**MIXTURE, "num_experts_per_tok": 1}, ["numExperts", "expertsPerToken"]),
        ("qwen3_vl_moe", {**MIXTURE, "num_experts": 4, "mlp_only_layers": [0]}, ["model"]),
        ("qwen2_vl", {}, ["model"]),
    ],
)
def test_a_discriminator_that_does_not_suit_is_found_by_its_config(
    tmp_path: Path, model_type: str, text: dict[str, Any], fields: list[str]
) -> None:
    kinds = {"policy": ("qwen3_vl", {"vocab_size": 64}), "start": (model_type, text)}
    for name, (kind, values) in kinds.items():
        (tmp_path / name).mkdir()
        content = {"model_type": kind, "text_config": values}
        (tmp_path / name / "config.json").write_text(json.dumps(content))
    changes: Changes = {
        "spec.model.uri": file_uri(tmp_path / "policy"),
        "spec.stages.align.discriminator.model": {"uri": file_uri(tmp_path / "start")},
    }
    _, align, _ = configs(changes)
    found = []
    try:
        check_supported(align)
    except SpecError as error:
        found = [problem.path for problem in error.problems]
    assert found == [f"stages.align.discriminator.{field}" for field in fields]
