"""The preflight reads what the model can take: files, headers, lengths."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from preflight_builders import QUESTION, configs, spoil, written
from prism_api.exit_codes import ExitCode
from prism_api.uris import file_uri
from prism_trainer.preflight import find_errors
from row_builders import a_demonstration, a_teacher_row, write_jsonl
from run_builders import Changes

LONG = f"<caption>{'a digit ' * 2000}</caption><think>t</think><answer>7</answer>"


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
