"""Chat templates: whether the one of a model serves our prompts. Without torch or transformers.

Prompts themselves are rendered by the model's own processor (`encoder.py`) and by vLLM.
"""

import json
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from jinja2 import TemplateError
from jinja2.ext import Extension, loopcontrols
from jinja2.nodes import Node
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

_SYSTEM, _USER, _ASSISTANT = "(the system turn)", "(the question)", "(the answer)"
_IMAGES = 2
_FAILURES = (TemplateError, TypeError, ValueError, AttributeError, KeyError, RecursionError)
"""What rendering raises: jinja's own errors, and those of Python in a template's expressions."""


def render(template: str, turns: list[dict[str, Any]], *, open_answer: bool = False) -> str:
    """Turns as transformers' `apply_chat_template` renders them, without tools or documents.

    Contents are texts or lists of parts. `open_answer` ends with the header of the assistant's
    turn. Raises one of jinja's or Python's errors for what a template cannot do.
    """
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals |= {"raise_exception": _raise, "strftime_now": datetime.now().strftime}
    return environment.from_string(template).render(
        messages=turns, tools=None, documents=None, add_generation_prompt=open_answer
    )


def template_problems(template: str, image_token: str, eos_token: str) -> Iterator[str]:
    """What keeps a template from serving prompts of a system and a user's turn with images, and
    responses that end with `eos_token`; nothing if it serves them."""
    system = {"role": "system", "content": [_text(_SYSTEM)]}
    user = {"role": "user", "content": [*[{"type": "image"}] * _IMAGES, _text(_USER)]}
    answer = {"role": "assistant", "content": [_text(_ASSISTANT)]}
    try:
        closed = render(template, [system, user])
        prompt = render(template, [system, user], open_answer=True)
        whole = render(template, [system, user, answer])
    except _FAILURES as error:
        yield f"cannot render a system turn, an image and a question ({error})"
        return
    if _SYSTEM not in prompt:
        yield "ignores the system turn"
    if _USER not in prompt:
        yield "ignores the user's text"
    if prompt.count(image_token) != _IMAGES:
        count = prompt.count(image_token)
        yield f"ignores images: {_IMAGES} of them give {count} times {image_token}"
    if "'type'" in prompt:
        yield "prints the list of a turn's parts instead of its texts and images"
    if len(prompt) <= len(closed) or not prompt.startswith(closed):
        yield "does not open the assistant's turn (add_generation_prompt)"
    if not whole.partition(_ASSISTANT)[2].lstrip().startswith(eos_token):
        yield f"does not end the assistant's turn with the tokenizer's eos_token {eos_token}"


def _text(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


class _Generation(Extension):
    """`{% generation %}`, by which templates mark what a model has written."""

    tags = {"generation"}  # noqa: RUF012 (jinja's own class has it so)

    def parse(self, parser: Parser) -> list[Node]:
        """Only what is marked."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _raise(message: str) -> None:
    raise TemplateError(message)


def _to_json(value: Any, **options: Any) -> str:
    """Unlike jinja's own, does not escape HTML."""
    return json.dumps(value, **{"ensure_ascii": False, **options})
