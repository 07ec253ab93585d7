"""A model's small files: who disagrees with whom is said with the file, before anything is
loaded."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoProcessor, AutoTokenizer, Qwen3VLConfig

from prism_api.errors import DataError
from prism_api.uris import file_uri
from prism_trainer.data.model_files import (
    MARKS,
    check_model_files,
    check_reads_the_same,
    read_model_files,
)


@pytest.fixture
def folder(digits_folder: Path, tmp_path: Path) -> Path:
    """A copy of the quickstart's model without its weights, to be damaged."""
    ignore = shutil.ignore_patterns("*.safetensors")
    return shutil.copytree(digits_folder / "model", tmp_path / "model", ignore=ignore)


def check(folder: Path) -> None:
    check_model_files(read_model_files(file_uri(folder)))


def change(file: str, *path: str, to: Any) -> Callable[[Path], None]:
    """Set a member of a JSON file."""

    def changed(folder: Path) -> None:
        document = json.loads((folder / file).read_text())
        place = document
        for part in path[:-1]:
            place = place[part]
        place[path[-1]] = to
        (folder / file).write_text(json.dumps(document))

    return changed


def write(file: str, text: str) -> Callable[[Path], None]:
    def written(folder: Path) -> None:
        (folder / file).write_text(text)

    return written


def remove(file: str) -> Callable[[Path], None]:
    return lambda folder: (folder / file).unlink()


def without_images(folder: Path) -> None:
    path = folder / "chat_template.jinja"
    path.write_text(path.read_text().replace("<|image_pad|>", ""))


def rename_a_token(folder: Path) -> None:
    path = folder / "tokenizer.json"
    path.write_text(path.read_text().replace("<|vision_end|>", "<|vision_stop|>"))


DAMAGES: dict[str, tuple[Callable[[Path], None], str, str]] = {
    "a vocabulary beyond the embeddings": (
        change("config.json", "text_config", "vocab_size", to=360),
        "tokenizer.json",
        "token '<|video_pad|>' has the id 363, but the model has 360 embeddings",
    ),
    "another image token": (
        change("config.json", "image_token_id", to=7),
        "config.json",
        "image_token_id is 7, but tokenizer.json has <|image_pad|> as 362",
    ),
    "another mark before images": (
        change("config.json", "vision_start_token_id", to=7),
        "config.json",
        "vision_start_token_id is 7, but",
    ),
    "no mark behind images": (
        rename_a_token,
        "tokenizer.json",
        "has no token <|vision_end|>; give the model its own tokenizer",
    ),
    "no end token": (
        change("tokenizer_config.json", "eos_token", to=None),
        "tokenizer_config.json",
        "has no eos_token",
    ),
    "an end token that the tokenizer lacks": (
        change("tokenizer_config.json", "eos_token", to="</s>"),
        "tokenizer.json",
        "has no token </s>, the eos_token",
    ),
    "an end token that ends no turn": (
        change("tokenizer_config.json", "eos_token", to="<|endoftext|>"),
        "chat_template.jinja",
        "does not end the assistant's turn with the tokenizer's eos_token <|endoftext|>",
    ),
    "no template": (remove("chat_template.jinja"), "chat_template.jinja", "is missing; copy"),
    "a template without images": (without_images, "chat_template.jinja", "ignores images"),
    "a template without system turns": (
        write("chat_template.json", json.dumps({"chat_template": "{{ messages[1].content }}"})),
        "chat_template.json",
        "ignores the system turn",
    ),
    "patches of another size": (
        change("processor_config.json", "image_processor", "patch_size", to=14),
        "processor_config.json",
        "patch_size is 14, but vision_config.patch_size of config.json is 16",
    ),
    "other merging": (
        change("config.json", "vision_config", "spatial_merge_size", to=1),
        "processor_config.json",
        "merge_size is 2, but vision_config.spatial_merge_size of config.json is 1",
    ),
    "no image processor": (
        remove("processor_config.json"),
        "preprocessor_config.json",
        "is missing; copy the model's image processor",
    ),
    "no tokenizer": (remove("tokenizer.json"), "tokenizer.json", "is missing; save the model's"),
    "a cut tokenizer": (write("tokenizer.json", "{"), "tokenizer.json", "cannot be read ("),
    "no settings of the tokenizer": (
        remove("tokenizer_config.json"),
        "tokenizer_config.json",
        "cannot be read (",
    ),
    "a cut config": (write("config.json", "{"), "config.json", "cannot be read ("),
    "a config as list": (write("config.json", "[]"), "config.json", "holds a list, not an object"),
    "another kind of model": (
        change("config.json", "model_type", to="bert"),
        "config.json",
        "model_type is 'bert'; give a qwen3_vl or qwen3_vl_moe model",
    ),
    "no context length": (
        change("config.json", "text_config", "max_position_embeddings", to=None),
        "config.json",
        "text_config.max_position_embeddings is no number",
    ),
    "no vision tower": (change("config.json", "vision_config", to=None), "config.json", "lacks"),
}


def test_the_quickstarts_files_agree(folder: Path) -> None:
    check(folder)


@pytest.mark.parametrize("name", DAMAGES)
def test_a_file_that_disagrees_is_named(folder: Path, name: str) -> None:
    damage, file, problem = DAMAGES[name]
    damage(folder)

    with pytest.raises(DataError) as caught:
        check(folder)

    assert caught.value.exit_code == 65
    (line,) = [line for line in str(caught.value).splitlines() if problem in line]
    assert line.startswith(f"{folder / file}: ")


def test_everything_that_disagrees_is_said_at_once(folder: Path) -> None:
    for name in ("another image token", "no template", "patches of another size"):
        DAMAGES[name][0](folder)

    with pytest.raises(DataError) as caught:
        check(folder)

    assert len(str(caught.value).splitlines()) == 3


TEMPLATE_FILES: dict[str, Callable[[Path], None]] = {
    "chat_template.jinja": write("chat_template.jinja", "jinja"),
    "chat_template.json": write("chat_template.json", '{"chat_template": "json"}'),
    "processor_config.json": change("processor_config.json", "chat_template", to="processor"),
    "tokenizer_config.json": change("tokenizer_config.json", "chat_template", to="tokenizer"),
}


@pytest.mark.parametrize("number", range(16))
def test_the_template_is_the_one_that_transformers_takes(folder: Path, number: int) -> None:
    """Of any of the files in which published models have one."""
    remove("chat_template.jinja")(folder)
    for i, put in enumerate(TEMPLATE_FILES.values()):
        if number >> i & 1:
            put(folder)
    processor: Any = AutoProcessor.from_pretrained(folder)

    found = read_model_files(file_uri(folder)).template

    theirs = processor.chat_template or processor.tokenizer.chat_template
    assert (found and found[1]) == theirs
    assert found is None or found[1] in found[0].read_text()


def test_what_a_config_does_not_say_is_as_in_transformers() -> None:
    config: Any = Qwen3VLConfig()

    assert {name: getattr(config, name) for name in MARKS} == {
        name: published for name, (_, published) in MARKS.items()
    }


def test_the_end_token_is_the_one_that_transformers_reads(folder: Path) -> None:
    spelled = {"__type": "AddedToken", "content": "<|im_end|>", "special": True}
    for token in ("<|im_end|>", spelled):
        change("tokenizer_config.json", "eos_token", to=token)(folder)
        tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        assert read_model_files(file_uri(folder)).eos_token == tokenizer.eos_token


def test_a_discriminator_reads_what_the_policy_reads(folder: Path, digits_folder: Path) -> None:
    policy = read_model_files(file_uri(digits_folder / "model"))
    change("config.json", "text_config", "hidden_size", to=32)(folder)
    check_reads_the_same(policy, file_uri(folder))

    change("config.json", "text_config", "vocab_size", to=300)(folder)
    change("config.json", "video_token_id", to=5)(folder)
    change("config.json", "vision_config", "patch_size", to=14)(folder)
    with pytest.raises(DataError) as caught:
        check_reads_the_same(policy, file_uri(folder))

    remedy = "give a model of the policy's family"
    assert str(caught.value).splitlines() == [
        f"{folder}/config.json: text_config.vocab_size is 300, but tokens go up to 363; {remedy}",
        f"{folder}/config.json: video_token_id is 5, but the policy's is 363; {remedy}",
        f"{folder}/config.json: vision_config.patch_size is 14, but the policy's is 16; {remedy}",
    ]


def test_a_folder_without_a_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no model here \(config\.json is missing\)"):
        check(tmp_path)


def test_of_a_model_on_the_hub_the_cache_is_enough(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "hub"
    snapshot = cache / "models--org--name/snapshots/0123"
    shutil.copytree(folder, snapshot)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs/main").write_text("0123")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))

    check_model_files(read_model_files("hf://org/name"))

    with pytest.raises(DataError, match="hf://org/other: cannot be had from the hub"):
        read_model_files("hf://org/other")
