"""The preflight: everything wrong with a run's settings and data is said before anything starts."""

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from commands import Done
from prism_api.errors import SpecError
from prism_api.exit_codes import ExitCode
from prism_api.stage_config import StageConfig
from prism_api.uris import file_uri
from prism_trainer import preflight
from prism_trainer.preflight import check_supported, data_of, find_errors
from row_builders import (
    BLOCKS,
    Row,
    a_demonstration,
    a_png,
    a_prompt_row,
    a_teacher_row,
    write_jsonl,
)
from run_builders import REMOVED, Changes, a_plan

QUESTION = [{"role": "user", "content": "Which digit?"}]


def configs(changes: Changes | None = None) -> list[StageConfig]:
    return [step.config(1, None) for step in a_plan(changes).train_steps]


def written(folder: Path, configs: Sequence[StageConfig]) -> list[Path]:
    paths = [folder / f"{config.kind}.json" for config in configs]
    for path, config in zip(paths, configs, strict=True):
        path.write_text(config.to_json())
    return paths


def checked(*paths: Path) -> Done:
    command = [sys.executable, "-m", "prism_trainer.preflight", *map(str, paths)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def data(tmp_path: Path, digits_folder: Path) -> Changes:
    """Good rows for all three stages and the evaluation, a good model, limits that it can take, and
    the changes that name them."""
    rows = {
        "sft": a_demonstration(images=[], messages=[*QUESTION, a_demonstration()["messages"][-1]]),
        "align": a_teacher_row(images=[], prompt=QUESTION),
        "rlvr": a_prompt_row(images=[], prompt=QUESTION),
        "heldout": a_prompt_row(images=[], prompt=QUESTION),
    }
    uri = {
        name: {"uri": file_uri(write_jsonl(tmp_path / f"{name}.jsonl", [row, row]))}
        for name, row in rows.items()
    }
    lengths = {f"spec.stages.{kind}.maxResponseTokens": 96 for kind in ("sft", "align", "rlvr")}
    return lengths | {
        "spec.model.uri": file_uri(digits_folder / "model"),
        "spec.evaluation.maxResponseTokens": 96,
        "spec.stages.sft.data": [uri["sft"]],
        "spec.stages.align.data": uri["align"],
        "spec.stages.rlvr.data": uri["rlvr"],
        "spec.evaluation.data": uri["heldout"],
    }


def spoil(path: Path) -> None:
    """Replace the second row by one that suits no stage."""
    path.write_text(path.read_text().splitlines()[0] + "\n{}\n")


def test_a_run_without_fault_passes(tmp_path: Path, data: Changes) -> None:
    done = checked(*written(tmp_path, configs(data)))

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("name", ["sft", "align", "rlvr", "heldout"])
def test_a_bad_row_of_any_data_set_ends_with_65_and_is_named(
    tmp_path: Path, data: Changes, name: str
) -> None:
    spoil(tmp_path / f"{name}.jsonl")

    done = checked(*written(tmp_path, configs(data)))

    assert done.returncode == ExitCode.BAD_DATA
    assert done.stderr.startswith(f"{tmp_path / name}.jsonl row 1: ")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("name", "row", "problem"),
    [
        ("rlvr", a_prompt_row(images=[{"path": "cut.png"}]), "cut.png cannot be decoded ("),
        ("rlvr", a_prompt_row(images=[{"path": "thin.png"}]), "thin.png is 300 x 1 px, and the"),
        ("rlvr", a_prompt_row(images=[{"path": "gone.png"}]), "gone.png does not exist; copy it"),
        ("heldout", a_prompt_row(reward_model={}), "reward_model.ground_truth is missing, empty"),
        ("sft", a_demonstration(f"<caption>a</caption>{BLOCKS}"), "holds <caption> 2 times"),
        ("align", a_prompt_row(), "column 'teacher_caption' is missing (has "),
    ],
    ids=lambda value: value[:20] if isinstance(value, str) else "",
)
def test_what_is_wrong_inside_a_row_is_found_before_anything_starts(
    tmp_path: Path, data: Changes, name: str, row: Row, problem: str
) -> None:
    (tmp_path / "cut.png").write_bytes(a_png()[:60])
    (tmp_path / "thin.png").write_bytes(a_png(300, 1))
    path = tmp_path / f"{name}.jsonl"
    row = {**row, "images": [image for image in row["images"] if image.get("path")]}
    if not row["images"]:
        turns = "messages" if "messages" in row else "prompt"
        row[turns] = [*QUESTION, *row[turns][1:]]
    path.write_text(path.read_text().splitlines()[0] + "\n" + json.dumps(row) + "\n")

    (error,) = find_errors(written(tmp_path, configs(data)))

    assert error.exit_code == ExitCode.BAD_DATA
    assert str(error).startswith(f"{path} row 1: ")
    assert problem in str(error)


LONG = f"<caption>{'a digit ' * 2000}</caption><think>t</think><answer>7</answer>"


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
    "also",
    [{}, {"teacher_response": "<caption>a</caption><think>b</think><answer>7</answer>"}],
    ids=["parts", "both"],
)
def test_a_teachers_text_beyond_the_context_is_named_with_its_length(
    tmp_path: Path, data: Changes, digits_folder: Path, also: dict[str, str]
) -> None:
    """Beside a prompt of the allowed length; counted as the model's own tokenizer counts."""
    caption, reasoning = LONG.split("<think>")
    parts = {"teacher_caption": caption, "teacher_cot": "<think>" + reasoning}
    row = a_teacher_row(images=[], prompt=QUESTION, **parts, **also)
    write_jsonl(tmp_path / "align.jsonl", [a_teacher_row(images=[], prompt=QUESTION), row])
    tokenizer: Any = AutoTokenizer.from_pretrained(digits_folder / "model")
    count = len(tokenizer(f"{caption}\n<think>{reasoning}")["input_ids"]) + 1

    (error,) = find_errors(written(tmp_path, configs(data)))

    assert count > 4096
    assert str(error) == (
        f"{tmp_path / 'align.jsonl'} row 1: the teacher's text has {count} tokens, but only 2048 "
        "fit (4096 positions of the model less maxPromptTokens); shorten it or remove the row"
    )


def test_a_demonstration_beyond_the_context_is_left_out_by_its_own_limit(
    tmp_path: Path, data: Changes
) -> None:
    turns = [*QUESTION, {"role": "assistant", "content": LONG}]
    write_jsonl(tmp_path / "sft.jsonl", [a_demonstration(images=[], messages=turns)])

    assert find_errors(written(tmp_path, configs(data))) == []


def test_length_limits_beyond_the_models_context_are_named(tmp_path: Path, data: Changes) -> None:
    changes = {
        **data,
        "spec.stages.sft.maxResponseTokens": 2048,
        "spec.stages.rlvr.maxResponseTokens": 2049,
        "spec.stages.align.maxPromptTokens": 4096,
        "spec.evaluation.maxResponseTokens": 2049,
    }
    planned = configs(changes)

    said = {e.exit_code: str(e) for e in find_errors(written(tmp_path, [planned[0], planned[2]]))}

    assert list(said) == [ExitCode.BAD_CONFIG]
    assert (
        "stages.rlvr.maxResponseTokens: 2049 and stages.rlvr.maxPromptTokens 2048 exceed the "
        "model's 4096 positions ("
    ) in said[ExitCode.BAD_CONFIG]
    assert "evaluation.maxResponseTokens: 2049" in said[ExitCode.BAD_CONFIG]
    assert "give at most 2048" in said[ExitCode.BAD_CONFIG]
    assert "stages.sft" not in said[ExitCode.BAD_CONFIG].replace("stages.sft.maxPrompt", "")
    (align, *_) = find_errors(written(tmp_path, [planned[1]]))
    assert "lower maxPromptTokens" in str(align)


def test_a_model_whose_files_disagree_is_named_once_for_all_stages(
    tmp_path: Path, data: Changes, digits_folder: Path
) -> None:
    folder = shutil.copytree(digits_folder / "model", tmp_path / "model")
    (folder / "chat_template.jinja").unlink()

    (error,) = find_errors(written(tmp_path, configs({**data, "spec.model.uri": file_uri(folder)})))

    assert error.exit_code == ExitCode.BAD_DATA
    assert str(error).startswith(f"{folder}/chat_template.jinja: is missing")


def test_a_model_that_lacks_tensors_is_found_by_its_headers(
    tmp_path: Path, data: Changes, digits_folder: Path
) -> None:
    """That of the policy, and that which the discriminator starts from."""
    changes = dict(data)
    for field in ("spec.model.uri", "spec.stages.align.discriminator.model"):
        folder = shutil.copytree(digits_folder / "model", tmp_path / field)
        weights = load_file(folder / "model.safetensors")
        del weights["lm_head.weight"]
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        uri = file_uri(folder)
        changes[field] = uri if field.endswith("uri") else {"uri": uri}

    errors = find_errors(written(tmp_path, configs(changes)))

    assert [error.exit_code for error in errors] == [ExitCode.BAD_DATA] * 2
    assert all("model.safetensors: lm_head.weight is missing" in str(e) for e in errors)


def test_a_missing_discriminator_is_named(tmp_path: Path, data: Changes) -> None:
    changes = {"spec.stages.align.discriminator.model": {"uri": "file:///no/such/model"}}

    (error,) = find_errors(written(tmp_path, configs({**data, **changes})))

    assert str(error).startswith("/no/such/model: no model here")


def test_a_missing_model_does_not_hide_bad_data(tmp_path: Path, data: Changes) -> None:
    spoil(tmp_path / "align.jsonl")

    errors = find_errors(
        written(tmp_path, configs({**data, "spec.model.uri": "file:///no/such/model"}))
    )

    assert [str(error).partition(": ")[0] for error in errors] == [
        "/no/such/model",
        f"{tmp_path / 'align.jsonl'} row 1",
    ]


def test_everything_that_is_wrong_is_said_at_once(tmp_path: Path, data: Changes) -> None:
    spoil(tmp_path / "sft.jsonl")
    (tmp_path / "rlvr.jsonl").unlink()
    broken = tmp_path / "broken.json"
    broken.write_text("{")
    planned = configs(
        {**data, "spec.stages.align.rollout": {"backend": "vllm", "weightUpdate": "nccl"}}
    )

    done = checked(*written(tmp_path, planned), broken)

    assert done.returncode == ExitCode.BAD_CONFIG
    assert f"{broken} is not valid" in done.stderr
    assert "stages.align.rollout.weightUpdate: nccl is not available" in done.stderr
    assert f"{tmp_path / 'sft.jsonl'} row 1: " in done.stderr
    assert f"{tmp_path / 'rlvr.jsonl'}: no such data file" in done.stderr


def test_every_data_set_is_read_for_what_its_stage_needs_and_only_once(
    tmp_path: Path, data: Changes, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[tuple[list[str], str]] = []
    monkeypatch.setattr(
        preflight,
        "check_dataset",
        lambda sources, need, *_: read.append(([Path(s.uri).name for s in sources], need)),
    )

    assert find_errors(written(tmp_path, configs(data))) == []

    assert sorted(read) == [
        (["align.jsonl"], "teacher"),
        (["heldout.jsonl"], "truth"),
        (["rlvr.jsonl"], "truth"),
        (["sft.jsonl"], "response"),
    ]


def test_warm_up_pairs_are_read_with_the_rest(tmp_path: Path, data: Changes) -> None:
    pairs = write_jsonl(tmp_path / "pairs.jsonl", [a_teacher_row(images=[], prompt=QUESTION)])
    field = "spec.stages.align.discriminator.warmup.data"

    done = checked(*written(tmp_path, configs({**data, field: {"uri": file_uri(pairs)}})))

    assert done.returncode == ExitCode.BAD_DATA
    assert done.stderr.startswith(f"{pairs} row 0: column 'student_caption' is missing")
    assert len(done.stderr.splitlines()) == 1


def test_gating_needs_a_gold_answer_in_every_row(tmp_path: Path, data: Changes) -> None:
    row = a_teacher_row(images=[], prompt=QUESTION)
    path = write_jsonl(tmp_path / "align.jsonl", [row, {**row, "reward_model": None}])
    gating = {"spec.stages.align.gating": {"mode": "sign_align"}}

    without, done = (
        checked(*written(tmp_path, configs({**data, **changes}))) for changes in ({}, gating)
    )

    assert without.returncode == 0
    assert done.returncode == ExitCode.BAD_DATA
    assert done.stderr.startswith(f"{path} row 1: reward_model.ground_truth is missing")
    assert "or remove stages.align.gating" in done.stderr


def test_several_files_of_a_stage_are_one_data_set() -> None:
    sources = [{"uri": "file://a.parquet"}, {"uri": "file://b.parquet"}]
    sft, *_ = configs({"spec.stages.sft.data": sources, "spec.evaluation": REMOVED})

    (use,) = data_of(sft)

    assert [source.uri for source in use.sources] == ["file://a.parquet", "file://b.parquet"]


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


def test_a_mistake_is_found_without_loading_torch() -> None:
    code = "import sys, prism_trainer.preflight; print({'torch', 'transformers'} & {*sys.modules})"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout == "set()\n"


def test_a_row_with_more_images_than_a_rollout_server_takes_is_named(
    data: Changes, tmp_path: Path
) -> None:
    """In-process any number is fine; the held-out rows are the servers' too."""
    (tmp_path / "a.png").write_bytes(a_png())
    rows = [
        a_prompt_row(
            images=[{"path": "a.png"}] * count,
            prompt=[{"role": "user", "content": "<image>" * count}],
        )
        for count in (16, 17)
    ]
    many = {"uri": file_uri(write_jsonl(tmp_path / "many.jsonl", rows))}
    changes = {**data, "spec.evaluation.data": many}
    paths = written(tmp_path, configs(changes))
    assert find_errors(paths) == []
    for stage in ("align", "rlvr"):
        served = {f"spec.stages.{stage}.rollout": {"backend": "vllm", "gpusPerReplica": 0}}
        (error,) = find_errors(written(tmp_path, configs({**changes, **served})))
        assert str(error).startswith(f"{tmp_path}/many.jsonl row 1: has 17 images, a rollout serv")
        assert error.exit_code == ExitCode.BAD_DATA
