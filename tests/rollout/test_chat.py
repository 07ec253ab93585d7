"""What is asked of a server, and what is made of its answer."""

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from prism_api.checkpoint import CheckpointRef
from prism_api.errors import SpecError
from prism_api.rollout import Weights
from prism_trainer.data.encoder import Encoder
from prism_trainer.data.images import ImageRef
from prism_trainer.data.pictures import load_image
from prism_trainer.digits.processor import build_processor
from prism_trainer.digits.tokenizer import build_tokenizer
from prism_trainer.rollouts import Request, SamplingParams
from prism_trainer.rollouts.chat import chat_request, completions_of, image_url
from prism_trainer.rollouts.faults import Fault, Kind
from rollout_servers import build_requests
from served_models import mixed_rows, picture_bytes

EOS = 2
SERVER = "http://one:8000"
WEIGHTS = Weights(version=12, checkpoint=CheckpointRef(uri="file:///w/v12", digest="4" * 64))


@pytest.fixture(scope="module")
def requests() -> list[Request]:
    processor = build_processor(build_tokenizer())
    image_id = processor.tokenizer.convert_tokens_to_ids(processor.image_token)
    return build_requests(Encoder(processor, image_id), mixed_rows(), samples=2, seed=41)


def pixels_at_the_server(url: str) -> Any:
    """As vLLM reads an image: turned by its EXIF orientation, transparency on white."""
    content = base64.b64decode(url.partition("base64,")[2])
    with Image.open(io.BytesIO(content)) as image:
        assert "transparency" not in image.info
        assert image.getexif().get(0x0112, 1) == 1
        assert image.mode == "RGB", "or vLLM's conversion would be another than ours"
        return np.array(image)


def palette_with_transparency() -> bytes:
    buffer = io.BytesIO()
    image = Image.open(io.BytesIO(picture_bytes(6, 9, 7))).quantize(8)
    image.save(buffer, "PNG", transparency=0)
    return buffer.getvalue()


def grey() -> bytes:
    buffer = io.BytesIO()
    Image.open(io.BytesIO(picture_bytes(8, 9, 5))).convert("L").save(buffer, "JPEG")
    return buffer.getvalue()


def turned_by_exif() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return picture_bytes(7, 16, 8, format="JPEG", exif=exif)


ODD = {
    "transparent": picture_bytes(5, 20, 12, "RGBA"),
    "palette": palette_with_transparency(),
    "turned": turned_by_exif(),
    "grey": grey(),
}


@pytest.mark.parametrize("content", ODD.values(), ids=ODD)
def test_a_server_sees_the_pixels_that_the_trainer_sees(content: bytes) -> None:
    image = ImageRef(content, None)
    ours = np.array(load_image(image, "row"))
    assert (pixels_at_the_server(image_url(image, "row")) == ours).all()


@pytest.mark.parametrize("options", [{}, {"format": "JPEG"}, {"format": "WEBP"}], ids=str)
def test_a_plain_image_is_sent_as_it_is(options: dict[str, str]) -> None:
    content = picture_bytes(1, 40, 30, **options)
    url = image_url(ImageRef(content, None), "row")
    assert base64.b64decode(url.partition("base64,")[2]) == content


def test_an_image_may_lie_in_a_file(tmp_path: Path) -> None:
    content = picture_bytes(1, 8, 8)
    (tmp_path / "a.png").write_bytes(content)
    url = image_url(ImageRef(None, tmp_path / "a.png"), "row")
    assert base64.b64decode(url.partition("base64,")[2]) == content


def test_turns_keep_their_order_of_texts_and_images(requests: list[Request]) -> None:
    messages = chat_request(requests[2], SamplingParams(8), EOS)["messages"]
    kinds = [part.get("text", part["type"]) for part in messages[0]["content"]]
    assert kinds == ["First ", "image_url", " then ", "image_url", ": which is larger?"]
    turns = chat_request(requests[3], SamplingParams(8), EOS)["messages"]
    assert [turn["role"] for turn in turns] == ["system", "user", "assistant", "user"]


def test_no_sampling_parameter_is_left_to_a_default(requests: list[Request]) -> None:
    body = chat_request(requests[0], SamplingParams(9, temperature=0.7), EOS)
    assert {name: body[name] for name in ("temperature", "max_completion_tokens", "n", "seed")} == {
        "temperature": 0.7,
        "max_completion_tokens": 9,
        "n": 2,
        "seed": 41,
    }
    neutral = {
        "top_p": 1,
        "top_k": 0,
        "min_p": 0,
        "presence_penalty": 0,
        "frequency_penalty": 0,
        "repetition_penalty": 1,
    }
    assert {name: body[name] for name in neutral} == neutral


def test_the_trainers_end_token_is_the_only_one_that_ends_a_response(
    requests: list[Request],
) -> None:
    body = chat_request(requests[0], SamplingParams(9), 7)
    assert (body["stop_token_ids"], body["ignore_eos"]) == ([7], True)


def an_answer(request: Request, *choices: dict[str, Any]) -> dict[str, Any]:
    return {"prompt_token_ids": request.prompt.token_ids.tolist(), "choices": list(choices)}


def a_choice(index: int, tokens: list[int], reason: str = "stop") -> dict[str, Any]:
    scores = [{"logprob": -0.5 * token} for token in tokens]
    return {
        "index": index,
        "token_ids": tokens,
        "finish_reason": reason,
        "logprobs": {"content": scores},
    }


def test_samples_are_sorted_and_keep_tokens_scores_end_and_version(
    requests: list[Request],
) -> None:
    choices = a_choice(1, [5, 6, 2]), a_choice(0, [3, 4], "length")
    first, second = completions_of(an_answer(requests[1], *choices), requests[1], SERVER, WEIGHTS)
    assert (first.tokens.tolist(), first.finished, first.weight_version) == ([3, 4], False, 12)
    assert (second.tokens.tolist(), second.finished) == ([5, 6, 2], True)
    assert second.logprobs.tolist() == [-2.5, -3.0, -1.0]
    assert second.seed == first.seed + 1 == requests[1].seeds[0] + 1
    assert {first.weights, second.weights} == {"4" * 64}


def test_a_greedy_answer_is_asked_for_once_and_serves_all_seeds(requests: list[Request]) -> None:
    assert chat_request(requests[0], SamplingParams(4, temperature=0.0), EOS)["n"] == 1
    answer = an_answer(requests[0], a_choice(0, [7]))
    both = completions_of(answer, requests[0], SERVER, WEIGHTS)
    assert [c.tokens.tolist() for c in both] == [[7], [7]]


@pytest.mark.parametrize("reason", ["abort", "error", None])
def test_an_answer_that_was_cut_off_is_a_fault(requests: list[Request], reason: Any) -> None:
    answer = an_answer(requests[0], a_choice(0, [7], reason), a_choice(1, [7]))
    with pytest.raises(Fault) as raised:
        completions_of(answer, requests[0], SERVER, WEIGHTS)
    assert raised.value.kind is Kind.ABORTED


@pytest.mark.parametrize("score", [None, float("nan"), float("-inf")])
def test_a_log_probability_that_is_no_number_is_a_fault(
    requests: list[Request], score: float | None
) -> None:
    """It would be a weight of its token's loss."""
    choice = a_choice(0, [7, 8])
    choice["logprobs"]["content"][1]["logprob"] = score
    with pytest.raises(Fault, match="no numbers"):
        completions_of(
            an_answer(requests[0], choice, a_choice(1, [7])), requests[0], SERVER, WEIGHTS
        )


def test_too_few_answers_are_a_fault(requests: list[Request]) -> None:
    three = Request(requests[0].prompt, (1, 2, 3), requests[0].row)
    answer = an_answer(three, a_choice(0, [7]), a_choice(1, [7]))
    with pytest.raises(Fault, match="2 answers to 3 seeds"):
        completions_of(answer, three, SERVER, WEIGHTS)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda ids: [*ids[:3], 999, *ids[4:]], "at 3 the server has 999, the trainer"),
        (lambda ids: ids[:-1], "the server has its end, the trainer"),
        (lambda ids: [*ids, 8], "the server has 8, the trainer its end"),
        (lambda ids: [], "at 0 the server has its end"),
    ],
    ids=["another token", "shorter", "longer", "none"],
)
def test_another_tokenisation_names_row_server_and_place(
    requests: list[Request], change: Any, complaint: str
) -> None:
    answer = an_answer(requests[1], a_choice(0, [7]), a_choice(1, [7]))
    answer["prompt_token_ids"] = change(answer["prompt_token_ids"])
    with pytest.raises(SpecError, match=f"^image: {SERVER} makes .*{complaint}"):
        completions_of(answer, requests[1], SERVER, WEIGHTS)
