"""Greedy evaluation on held-out rows: accuracy, caption accuracy, format, length."""

import base64
import io
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from prism_api.errors import DataError
from prism_api.resources import Evaluation
from prism_api.stage_config import EvaluationResult
from prism_trainer.data.encoder import Encoder
from prism_trainer.data.pictures import load_image
from prism_trainer.data.rows import Dataset, Row, with_system_turn
from prism_trainer.distributed import Ranks
from prism_trainer.rewards.response import matching_caption_items, parse_response
from prism_trainer.rewards.verifier import Verdict, verify_any
from prism_trainer.rollouts import Request, RolloutClient, SamplingParams

_NUM_SAMPLES = 12
"""Responses shown in the report."""


@dataclass(frozen=True)
class _Judged:
    correct: bool
    has_format: bool
    caption_items: tuple[int, int]
    tokens: int


@dataclass(frozen=True)
class Sample:
    """One held-out question with the policy's answer, for the report."""

    id: str
    prompt: str
    image_png_base64: str | None
    response: str
    ground_truth: str
    correct: bool
    reference_caption: str | None


def check_questions(
    settings: Evaluation,
    max_prompt_tokens: int,
    encoder: Encoder,
    system_message: str | None = None,
) -> None:
    """Refuse, before any training, questions of which none can be asked; raises DataError."""
    dataset = Dataset([settings.data], "truth")
    indices = range(_count(dataset, settings))
    rows = (with_system_turn(dataset[i], system_message) for i in indices)
    lengths = (len(encoder.prompts([row])[0].token_ids) for row in rows)
    if all(length > max_prompt_tokens for length in lengths):
        raise DataError(
            f"{settings.data.uri}: every held-out prompt exceeds maxPromptTokens "
            f"{max_prompt_tokens}; raise it or shorten the data"
        )


def evaluate(
    settings: Evaluation,
    max_prompt_tokens: int,
    encoder: Encoder,
    client: RolloutClient,
    ranks: Ranks,
    stop_requested: Callable[[], bool],
    system_message: str | None = None,
) -> tuple[EvaluationResult, list[dict[str, object]]] | None:
    """Answer held-out questions greedily, shared among processes; returns result and samples.

    Questions beyond `max_prompt_tokens` are left out and counted; one at least must be shorter.
    Nothing, in all processes, if one of them is asked to stop before a batch.
    """
    dataset = Dataset([settings.data], "truth")
    count = _count(dataset, settings)
    judged: list[_Judged] = []
    samples: list[dict[str, object]] = []
    too_long = 0
    mine = range(ranks.rank, count, ranks.world_size)
    most = len(range(0, count, ranks.world_size))
    params = SamplingParams(settings.max_response_tokens, temperature=0.0)
    # A process that has run out of questions still takes part in generation.
    for start in range(0, most, settings.batch_size):
        if ranks.any(stop_requested()):
            return None
        indices = mine[start : start + settings.batch_size]
        rows = [with_system_turn(dataset[i], system_message) for i in indices]
        prompts = encoder.prompts(rows)
        asked = [
            question
            for question in zip(indices, rows, prompts, strict=True)
            if len(question[2].token_ids) <= max_prompt_tokens
        ]
        too_long += len(rows) - len(asked)
        requests = [Request(prompt, (0,), row) for _, row, prompt in asked]
        answers = client.generate(requests, params)
        for (index, row, _), (completion,) in zip(asked, answers, strict=True):
            text = encoder.text(completion.tokens)
            judged.append(_judge(row, text, len(completion.tokens)))
            if index < _NUM_SAMPLES:
                samples.append(asdict(_sample(row, text, judged[-1].correct)))
    everyone = [j for part in ranks.gather(judged) for j in part]
    shown = [s for part in ranks.gather(samples) for s in part]
    left_out = sum(ranks.gather(too_long))
    return _summary(everyone, left_out), sorted(shown, key=lambda s: str(s["id"]))


def _count(dataset: Dataset, settings: Evaluation) -> int:
    return min(len(dataset), settings.max_samples or len(dataset))


def _judge(row: Row, text: str, tokens: int) -> _Judged:
    response = parse_response(text)
    items = (0, 0)
    if row.teacher_caption is not None:
        stated = response.caption if response else ""
        items = matching_caption_items(stated, row.teacher_caption)
    correct = response is not None and verify_any(response.answer, row.truths) is Verdict.RIGHT
    return _Judged(correct, response is not None, items, tokens)


def _sample(row: Row, text: str, correct: bool) -> Sample:
    question = "\n".join(turn["content"] for turn in row.messages if turn["role"] == "user")
    image = None
    if row.images:
        buffer = io.BytesIO()
        load_image(row.images[0], row.origin).save(buffer, "PNG")
        image = base64.b64encode(buffer.getvalue()).decode()
    return Sample(row.id, question, image, text, row.truths[0], correct, row.teacher_caption)


def _summary(judged: Sequence[_Judged], too_long: int) -> EvaluationResult:
    count = len(judged)
    correct = sum(j.correct for j in judged)
    stated = sum(j.caption_items[0] for j in judged)
    wanted = sum(j.caption_items[1] for j in judged)
    return EvaluationResult(
        samples=count,
        correct=correct,
        accuracy=correct / count,
        caption_accuracy=stated / wanted if wanted else None,
        format_rate=sum(j.has_format for j in judged) / count,
        mean_response_tokens=sum(j.tokens for j in judged) / count,
        too_long=too_long,
    )
