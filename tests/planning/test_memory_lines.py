"""What `prism plan` says of parameters and memory, and where it has the models' sizes from."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from prism_api.model_shape import PUBLISHED_SHAPES
from prism_operator.documents import read_run
from prism_operator.model_files import known_shapes
from prism_operator.planning.plan import plan
from prism_operator.rendering import render_plan
from run_builders import Changes, a_plan, a_prism_run

HUB = "hf://Qwen/Qwen3-VL-4B-Instruct"
SMALL = "hf://Qwen/Qwen3-VL-2B-Instruct"
ONE_GPU: Changes = {
    "spec.model.uri": HUB,
    "spec.rollout": {"backend": "vllm"},
    "spec.workers": {"gpusPerReplica": 1, "gpuMemoryGib": 139},
}


ALIGN = "spec.stages.align"


def lines_of(changes: Changes, start: str) -> list[str]:
    """What stands under that name, one text per stage that has it."""
    text = render_plan(a_prism_run(changes), a_plan(changes), PUBLISHED_SHAPES)
    return [line for line in unwrapped(text) if line.startswith(start)]


def unwrapped(text: str) -> list[str]:
    """The lines of the blocks, with what continues one put at its end."""
    return [line.strip() for line in text.replace("\n" + " " * 13, " ").splitlines()]


def test_parameters_are_those_of_the_published_models() -> None:
    changes = {**ONE_GPU, "spec.stages.align.discriminator.model": {"uri": SMALL}}
    sft, align, rlvr = lines_of(changes, "parameters")
    assert sft == "parameters policy 4,437,815,808 (4,022,468,096 trained)"
    assert align.endswith("(4,437,815,808 trained), discriminator 5,298,657,280")
    assert rlvr == "parameters policy 4,437,815,808 (4,437,815,808 trained)"


def test_without_its_own_model_the_discriminator_has_the_policys_size() -> None:
    assert "discriminator 12,506,979,328" in lines_of(ONE_GPU, "parameters")[1]


def test_alignment_on_one_gpu_says_what_goes_to_the_host() -> None:
    changes = {**ONE_GPU, "spec.stages.align.discriminator.model": {"uri": SMALL}}
    _, saving, _ = lines_of(changes, "savings")
    assert "optimizer states on the host (72.5 GiB per process)" in saving
    _, memory, _ = lines_of(changes, "memory")
    assert memory.endswith("GiB of 127.9 usable (139) per GPU")
    assert lines_of(changes, "loading")[1] == "loading    27.7 GiB of host memory per process"
    assert "policy update" in memory
    assert "discriminator optimizer step" in memory
    assert lines_of(changes, "warning") == []


EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.parametrize(
    ("example", "policy", "frozen", "host"),
    [
        ("qwen3-vl-4b", 4_437_815_808, 415_347_712, "18.1"),
        ("qwen3-vl-8b", 8_767_123_696, 576_388_336, "26.2"),
    ],
)
def test_the_examples_say_parameters_memory_and_savings(
    example: str, policy: int, frozen: int, host: str
) -> None:
    run = read_run(EXAMPLES / f"{example}.yaml")
    text = render_plan(run, plan(run, "00000000", "file:///store"), PUBLISHED_SHAPES)
    assert max(len(line) for line in text.splitlines()) <= 100
    lines = unwrapped(text)
    assert [line for line in lines if line.startswith("parameters")] == [
        f"parameters policy {policy:,} ({policy - frozen:,} trained)",
        f"parameters policy {policy:,} ({policy:,} trained), discriminator 5,298,657,280",
        f"parameters policy {policy:,} ({policy:,} trained)",
    ]
    assert sum(line.endswith("GiB of 73.6 usable (80) per GPU") for line in lines) == 3
    savings = [line for line in lines if line.startswith("savings")]
    assert f"optimizer states on the host ({host} GiB per process)" in savings[1]
    assert not any(line.startswith("warning") for line in lines)


def test_sequences_at_once_are_said_where_the_trainer_samples() -> None:
    changes: Changes = {**ONE_GPU, "spec.rollout": {"backend": "inprocess"}}
    assert len(lines_of(changes, "at once")) == 2
    assert lines_of(ONE_GPU, "at once") == []


def test_what_does_not_fit_is_said() -> None:
    changes = {**ONE_GPU, "spec.workers": {"gpusPerReplica": 1, "gpuMemoryGib": 40}}
    assert len(lines_of(changes, "warning")) == 3
    assert "use more GPUs" in lines_of(changes, "warning")[0]


def gib(line: str) -> list[float]:
    """The figures of a memory line or a warning, in GiB."""
    return [float(figure) for figure in re.findall(r" (\d+\.\d)", line.partition(" GiB of")[0])]


def test_each_saving_says_the_peak_without_it() -> None:
    """As the peak is when the document forbids this saving and asks for the others."""
    changes: Changes = {**ONE_GPU, f"{ALIGN}.discriminator.model": {"uri": SMALL}}
    changes = {**changes, "spec.workers": {"gpusPerReplica": 1, "gpuMemoryGib": 110}}
    fields = {
        "the policy's layers are recomputed": "gradientCheckpointing",
        "the discriminator's layers are recomputed": "discriminator.gradientCheckpointing",
        "optimizer states on the host": "offloadOptimizer",
    }
    _, savings, _ = lines_of(changes, "savings")
    figures = re.findall(r"without this (\S+) GiB", savings)
    made = {words: field for words, field in fields.items() if words in savings}
    assert len(figures) == len(made) >= 2

    for figure, field in zip(figures, made.values(), strict=True):
        modes = {f"{ALIGN}.{other}": "always" for other in made.values()}
        forced = {**changes, **modes, f"{ALIGN}.{field}": "never"}
        forced |= {f"{ALIGN}.{f}": "never" for f in fields.values() if f not in made.values()}
        _, memory, _ = lines_of(forced, "memory")
        assert max(gib(memory)) == float(figure)


def test_where_nothing_is_saved_it_is_said() -> None:
    changes: Changes = {**ONE_GPU, "spec.workers": {"gpusPerReplica": 1, "gpuMemoryGib": 999}}
    assert lines_of(changes, "savings") == ["savings    none"] * 3


@pytest.mark.parametrize(
    "field", ["offloadOptimizer", "gradientCheckpointing", "discriminator.gradientCheckpointing"]
)
def test_a_forbidden_saving_that_would_do_is_named(field: str) -> None:
    tight = {**ONE_GPU, "spec.workers": {"gpusPerReplica": 1, "gpuMemoryGib": 110}}
    changes: Changes = {**tight, f"{ALIGN}.discriminator.model": {"uri": SMALL}}
    assert lines_of(changes, "warning") == []
    warnings = lines_of({**changes, f"{ALIGN}.{field}": "never"}, "warning")
    assert warnings == [f"warning    does not fit: {ALIGN}.{field}: never; give auto"]


def test_a_forbidden_saving_that_would_not_do_is_not_named() -> None:
    tight = {**ONE_GPU, "spec.workers": {"gpusPerReplica": 1, "gpuMemoryGib": 40}}
    warnings = lines_of({**tight, f"{ALIGN}.offloadOptimizer": "never"}, "warning")
    remedy = "use more GPUs, a smaller maxTokensPerPack, or lora"
    assert warnings == [f"warning    does not fit: {remedy}"] * 3


def test_a_cpu_has_parameters_but_no_memory_lines() -> None:
    changes: Changes = {"spec.model.uri": HUB}
    assert len(lines_of(changes, "parameters")) == 3
    assert lines_of(changes, "memory") == []


def test_a_model_that_is_elsewhere_is_unknown() -> None:
    unknown = "parameters unknown: the config.json of s3://models/mine is not on this machine"
    assert lines_of({"spec.model.uri": "s3://models/mine"}, "parameters") == [unknown] * 3


@pytest.fixture
def config() -> dict[str, Any]:
    """A config.json with an unusual number of layers."""
    return {
        "tie_word_embeddings": True,
        "text_config": {
            "num_hidden_layers": 7,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "vocab_size": 512,
        },
        "vision_config": {
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 64,
            "out_hidden_size": 64,
            "patch_size": 16,
            "temporal_patch_size": 2,
            "num_position_embeddings": 64,
            "spatial_merge_size": 2,
            "deepstack_visual_indexes": [0],
        },
    }


def test_sizes_are_read_beside_the_runs_file(tmp_path: Path, config: dict[str, Any]) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    (shape,) = known_shapes(["file://model"], tmp_path).values()
    assert (shape.layers, shape.head_dim) == (7, 16)


def test_sizes_are_read_from_the_hubs_cache_first(
    tmp_path: Path, config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    assert known_shapes([HUB], tmp_path) == {HUB: PUBLISHED_SHAPES[HUB]}
    snapshot = tmp_path / "hub" / "models--Qwen--Qwen3-VL-4B-Instruct" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text(json.dumps(config))
    assert known_shapes([HUB], tmp_path)[HUB].layers == 7


@pytest.mark.parametrize("text", ["{", "[]", '{"text_config": {}}', '{"model_type": "bert"}'])
def test_a_config_that_says_nothing_is_passed_over(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    assert known_shapes([f"file://{tmp_path}", "s3://a/b", "hf://a/b"], tmp_path) == {}
