"""What a discriminator can start from, judged by configs and headers; imports no torch."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from prism_api.errors import FieldProblem
from prism_api.stages import Discriminator
from prism_trainer.model_headers import check_model, read_config
from prism_trainer.model_tensors import DENSE, LANGUAGE_HEAD, MIXTURE

HEAD = "v_head.weight"
"""The score head, with the prefix that the reference code gives it."""

_FIELD = "stages.align.discriminator"


def check_start(folder: Path) -> None:
    """Raise DataError unless the folder holds a whole model to start from: a dense one, or a
    mixture with or without its heads."""
    is_mixture = read_config(folder)["model_type"] == MIXTURE
    check_model(folder, optional=(HEAD, LANGUAGE_HEAD) if is_mixture else ())


def start_problems(start: Mapping[str, Any], settings: Discriminator) -> list[FieldProblem]:
    """What keeps a model, as its `config.json` has it, from being the start under these settings.

    Whether it reads the policy's tokens and pixels alike is `data.model_files`' to say.
    """
    kind = start.get("model_type")
    if kind not in (DENSE, MIXTURE):
        problem = f"has model_type {kind!r}"
        return [FieldProblem(f"{_FIELD}.model", problem, f"give a {DENSE} or a {MIXTURE}")]
    if kind == DENSE:
        return []
    return list(_mixture_problems(start.get("text_config", {}), settings))


def _mixture_problems(text: Mapping[str, Any], settings: Discriminator) -> Iterator[FieldProblem]:
    # Published files say num_experts, transformers 5 writes num_local_experts.
    experts = text.get("num_experts", text.get("num_local_experts"))
    asked = {
        "numExperts": (experts, settings.num_experts),
        "expertsPerToken": (text.get("num_experts_per_tok"), settings.experts_per_token),
    }
    for name, (there, wanted) in asked.items():
        if there != wanted:
            problem = f"is {wanted}, but the model has {there}"
            yield FieldProblem(f"{_FIELD}.{name}", problem, f"set {name}: {there}")
    if text.get("decoder_sparse_step", 1) != 1 or text.get("mlp_only_layers"):
        problem = "has layers without experts"
        remedy = "give a model with experts in every layer, or a dense one"
        yield FieldProblem(f"{_FIELD}.model", problem, remedy)
