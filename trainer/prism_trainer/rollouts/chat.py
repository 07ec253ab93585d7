"""Requests and answers of vLLM's chat route, which 0.26 to 0.32 have in common.

Its turns go out as text and images, and its answer has the prompt's token ids as the server made
them: they must be ours. (The route that takes token ids takes raw images only from 0.30 on.)
"""

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import ExifTags, Image

from prism_api.errors import FieldProblem, SpecError
from prism_api.rollout import SERVED_MODEL, Weights
from prism_trainer.data.images import ImageRef
from prism_trainer.data.pictures import content_of, load_image
from prism_trainer.data.rows import Row
from prism_trainer.engine.packing import Tokens
from prism_trainer.rollouts import Completion, Request, SamplingParams
from prism_trainer.rollouts.faults import Fault, Kind

OPERATION = "generate"


def chat_request(request: Request, params: SamplingParams, eos_id: int) -> dict[str, Any]:
    """The JSON body; sample i is drawn from the first seed + i and ends with the token `eos_id`.

    Every parameter is explicit, so that no default of server or model plays a part.
    """
    assert request.row is not None, "whoever samples from a server gives the prompt's row"
    greedy = params.temperature == 0
    return {
        "model": SERVED_MODEL,
        "messages": _messages(request.row),
        "n": 1 if greedy else len(request.seeds),
        "seed": request.seeds[0],
        "max_completion_tokens": params.max_tokens,
        "temperature": params.temperature,
        "top_p": 1.0,
        "top_k": 0,
        "min_p": 0.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "repetition_penalty": 1.0,
        "logprobs": True,
        "top_logprobs": 0,
        "return_token_ids": True,
        "skip_special_tokens": False,
        # Published chat models name more end tokens in generation_config.json, and vLLM would end
        # a response at any of them, whatever --generation-config says.
        "ignore_eos": True,
        "stop_token_ids": [eos_id],
    }


def completions_of(
    answer: dict[str, Any], request: Request, server: str, weights: Weights
) -> list[Completion]:
    """One completion per seed, sampled from `weights`; a greedy one serves all seeds.

    Raises SpecError if the server tokenised the prompt otherwise, Fault if it was interrupted.
    """
    _check_prompt(answer["prompt_token_ids"], request, server)
    choices = sorted(answer["choices"], key=lambda choice: int(choice["index"]))
    completions = [_completion(choice, request.seeds[0], server, weights) for choice in choices]
    if len(completions) not in (1, len(request.seeds)):
        detail = f"{len(completions)} answers to {len(request.seeds)} seeds"
        raise Fault(Kind.FAILED, server, OPERATION, detail)
    return completions * (len(request.seeds) // len(completions))


def _completion(
    choice: dict[str, Any], first_seed: int, server: str, weights: Weights
) -> Completion:
    reason, tokens = choice["finish_reason"], np.array(choice["token_ids"], dtype=np.int64)
    if reason not in ("stop", "length"):
        raise Fault(Kind.ABORTED, server, OPERATION, f"the answer was cut off ({reason})")
    # A null, which stands for NaN in JSON, becomes NaN.
    scores = np.array([entry["logprob"] for entry in choice["logprobs"]["content"]], np.float32)
    assert len(scores) == len(tokens), "one log-probability per token"
    if not np.isfinite(scores).all():
        detail = "the answer has log-probabilities that are no numbers"
        raise Fault(Kind.FAILED, server, OPERATION, detail)
    return Completion(
        tokens,
        scores,
        reason == "stop",
        weights.version,
        first_seed + int(choice["index"]),
        weights.checkpoint.digest,
    )


def _check_prompt(theirs: Sequence[int], request: Request, server: str) -> None:
    ours: Tokens = request.prompt.token_ids
    if len(theirs) == len(ours) and bool((ours == np.array(theirs)).all()):
        return
    length = min(len(theirs), len(ours))
    same = np.append(ours[:length] == np.array(theirs[:length]), False)
    place = int(same.argmin())
    here, there = (
        str(ids[place]) if place < len(ids) else "its end" for ids in (ours.tolist(), theirs)
    )
    assert request.row is not None, "the request was made from it"
    raise SpecError(
        [
            FieldProblem(
                request.row.origin,
                f"{server} makes {len(theirs)} tokens of the prompt and the trainer {len(ours)}: "
                f"at {place} the server has {there}, the trainer {here}",
                "serve the stage's model: tokenizer, chat template and image processor count",
            )
        ]
    )


def _messages(row: Row) -> list[dict[str, Any]]:
    images = iter(row.images)
    return [
        {"role": turn["role"], "content": _parts(turn["content"], images, row)}
        for turn in row.messages
    ]


def _parts(content: str, images: Any, row: Row) -> list[dict[str, Any]]:
    """Text and images in their order, as the encoder has them."""
    parts: list[dict[str, Any]] = []
    for i, piece in enumerate(content.split("<image>")):
        if i:
            url = image_url(next(images), row.origin)
            parts.append({"type": "image_url", "image_url": {"url": url}})
        if piece:
            parts.append({"type": "text", "text": piece})
    return parts or [{"type": "text", "text": ""}]


def image_url(image: ImageRef, origin: str) -> str:
    """A data URL of which the server makes the very pixels that the trainer sees.

    Files that vLLM reads otherwise than we do (it turns them by their EXIF orientation and puts
    transparent ones on white) are sent as what we read.
    """
    content = content_of(image)
    if not _is_plain(content):
        buffer = io.BytesIO()
        # From the bare pixels: what the file says of transparency and orientation stays behind.
        Image.fromarray(np.asarray(load_image(image, origin))).save(buffer, "PNG")
        content = buffer.getvalue()
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"


def _is_plain(content: bytes) -> bool:
    with Image.open(io.BytesIO(content)) as image:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
        return image.mode == "RGB" and "transparency" not in image.info and orientation == 1
