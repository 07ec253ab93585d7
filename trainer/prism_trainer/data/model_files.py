"""The small files of a model in Hugging Face layout: do config, tokenizer, chat template and image
processor agree? Without torch, so that it is known before anything is loaded."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from tokenizers import Tokenizer

from prism_api.errors import DataError
from prism_api.uris import local_path, scheme
from prism_trainer.data.chat_template import template_problems
from prism_trainer.model_tensors import MODEL_TYPES

_SMALL_FILES = ["*.json", "*.jinja"]

MARKS = {
    "image_token_id": ("<|image_pad|>", 151655),
    "video_token_id": ("<|video_pad|>", 151656),
    "vision_start_token_id": ("<|vision_start|>", 151652),
    "vision_end_token_id": ("<|vision_end|>", 151653),
}
"""Members of `config.json`, the tokens that Qwen's processor means by them, and what transformers
takes where a config does not say."""

_SIZES = {
    "patch_size": "patch_size",
    "merge_size": "spatial_merge_size",
    "temporal_patch_size": "temporal_patch_size",
}
"""Members of an image processor, and those of `vision_config` that have to be equal."""


@dataclass(frozen=True)
class ModelFiles:
    """A model's folder, as far as prompts and texts depend on it."""

    folder: Path
    config: Mapping[str, Any]
    """`config.json`."""
    settings: Mapping[str, Any]
    """`tokenizer_config.json`."""
    tokenizer: Tokenizer

    @property
    def text_config(self) -> Mapping[str, Any]:
        """Of the language model."""
        text: Mapping[str, Any] = self.config["text_config"]
        return text

    @property
    def max_positions(self) -> int:
        """Tokens of prompt and response together that the model is made for."""
        return int(self.text_config["max_position_embeddings"])

    @property
    def eos_token(self) -> str | None:
        """What ends a turn, as text."""
        token = self.settings.get("eos_token")
        content = token.get("content") if isinstance(token, dict) else token
        return content if isinstance(content, str) else None

    @cached_property
    def template(self) -> tuple[Path, str] | None:
        """The chat template and its file, as transformers and vLLM choose among several; none if
        there is none."""
        for name in ("processor_config.json", "chat_template.json", "chat_template.jinja"):
            path = self.folder / name
            if path.is_file():
                is_json = path.suffix == ".json"
                text = _json(path).get("chat_template") if is_json else path.read_text()
                if isinstance(text, str):
                    return path, text
        text = self.settings.get("chat_template")
        return (self.folder / "tokenizer_config.json", text) if isinstance(text, str) else None


def read_model_files(uri: str) -> ModelFiles:
    """Read what a model's uri names; of a model on the hub, only what is small is downloaded.

    Raises DataError for a file that is missing or cannot be read.
    """
    folder = _folder(uri)
    config = _config(folder)
    path = folder / "tokenizer.json"
    remedy = "save the model's tokenizer there (save_pretrained)"
    if not path.is_file():
        raise DataError(f"{path}: is missing; {remedy}")
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises nothing more special
        raise DataError(f"{path}: cannot be read ({error}); {remedy}") from None
    return ModelFiles(folder, config, _json(folder / "tokenizer_config.json"), tokenizer)


def check_model_files(files: ModelFiles) -> None:
    """Raise DataError naming every file that disagrees with another."""
    problems = [
        *_vocabulary_problems(files),
        *_template_problems(files),
        *_image_processor_problems(files),
    ]
    if problems:
        raise DataError("\n".join(f"{files.folder}/{problem}" for problem in problems))


def check_reads_the_same(files: ModelFiles, uri: str) -> None:
    """Raise DataError if the model at `uri`, which gets the first one's tokens and pixels, is
    missing or would read them otherwise."""
    folder = _folder(uri)
    config = _config(folder)
    rows, largest = config["text_config"]["vocab_size"], _largest_id(files)
    problems = []
    if largest >= rows:
        problems.append(f"text_config.vocab_size is {rows}, but tokens go up to {largest}")
    for member, (_, published) in MARKS.items():
        ours, theirs = (c.get(member, published) for c in (files.config, config))
        if ours != theirs:
            problems.append(f"{member} is {theirs}, but the policy's is {ours}")
    for member in _SIZES.values():
        ours, theirs = (c["vision_config"].get(member) for c in (files.config, config))
        if ours != theirs:
            problems.append(f"vision_config.{member} is {theirs}, but the policy's is {ours}")
    if problems:
        remedy = "give a model of the policy's family"
        raise DataError("\n".join(f"{folder}/config.json: {p}; {remedy}" for p in problems))


def _largest_id(files: ModelFiles) -> int:
    return max(files.tokenizer.get_vocab(with_added_tokens=True).values(), default=0)


def _vocabulary_problems(files: ModelFiles) -> Iterator[str]:
    vocabulary = files.tokenizer.get_vocab(with_added_tokens=True)
    rows, largest = files.text_config["vocab_size"], _largest_id(files)
    remedy = "give the model its own tokenizer"
    if largest >= rows:
        token = files.tokenizer.id_to_token(largest)
        what = f"token {token!r} has the id {largest}, but the model has {rows} embeddings"
        yield f"tokenizer.json: {what} (text_config.vocab_size); {remedy}"
    for member, (mark, published) in MARKS.items():
        ours, theirs = vocabulary.get(mark), files.config.get(member, published)
        if ours is None:
            yield f"tokenizer.json: has no token {mark}; {remedy}"
        elif ours != theirs:
            what = f"{member} is {theirs}, but tokenizer.json has {mark} as {ours}"
            yield f"config.json: {what}; {remedy}"
    if files.eos_token is None:
        yield "tokenizer_config.json: has no eos_token, the token that ends a turn; name it"
    elif files.eos_token not in vocabulary:
        yield f"tokenizer.json: has no token {files.eos_token}, the eos_token; {remedy}"


def _template_problems(files: ModelFiles) -> Iterator[str]:
    if files.template is None:
        yield "chat_template.jinja: is missing; copy the model's chat template there"
        return
    path, template = files.template
    image_token = MARKS["image_token_id"][0]
    for problem in template_problems(template, image_token, files.eos_token or ""):
        yield f"{path.name}: the chat template {problem}; give one that does what Qwen3-VL's does"


def _image_processor_problems(files: ModelFiles) -> Iterator[str]:
    for name in ("processor_config.json", "preprocessor_config.json"):
        path = files.folder / name
        document = _json(path) if path.is_file() else {}
        settings = document.get("image_processor") if name == "processor_config.json" else document
        if settings:
            for ours, theirs in _SIZES.items():
                has, wants = settings.get(ours), files.config["vision_config"].get(theirs)
                if None not in (has, wants) and has != wants:
                    yield (
                        f"{name}: {ours} is {has}, but vision_config.{theirs} of config.json is "
                        f"{wants}; give the model its own image processor"
                    )
            return
    yield "preprocessor_config.json: is missing; copy the model's image processor there"


def _folder(uri: str) -> Path:
    if scheme(uri) != "hf":
        folder = local_path(uri)
        if not (folder / "config.json").is_file():
            problem = "no model here (config.json is missing)"
            raise DataError(f"{folder}: {problem}; check the model's uri")
        return folder
    try:
        return Path(snapshot_download(uri.removeprefix("hf://"), allow_patterns=_SMALL_FILES))
    except (OSError, ValueError) as error:
        problem = f"{uri}: cannot be had from the hub ({error})"
        raise DataError(f"{problem}; check name and network, or give a file:// uri") from None


def _config(folder: Path) -> dict[str, Any]:
    """A `config.json` with what is read of it."""
    path = folder / "config.json"
    config = _json(path)
    text, vision, kind = (config.get(m) for m in ("text_config", "vision_config", "model_type"))
    if kind not in MODEL_TYPES:
        known = " or ".join(MODEL_TYPES)
        raise DataError(f"{path}: model_type is {kind!r}; give a {known} model")
    if not isinstance(text, dict) or not isinstance(vision, dict):
        raise DataError(f"{path}: lacks text_config or vision_config; copy it again")
    for member in ("vocab_size", "max_position_embeddings"):
        if not isinstance(text.get(member), int):
            raise DataError(f"{path}: text_config.{member} is no number; mend it")
    return config


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: cannot be read ({error}); copy it again") from None
    if not isinstance(value, dict):
        raise DataError(f"{path}: holds a {type(value).__name__}, not an object; copy it again")
    return value
