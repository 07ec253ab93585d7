"""Chat templates: rendered as transformers renders them, tokenised as its processors do, and those
that cannot serve our prompts are told apart."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from transformers import AutoProcessor

from prism_trainer.data.chat_template import render, template_problems
from prism_trainer.data.encoder import Encoder
from prism_trainer.data.images import ImageRef
from prism_trainer.data.pictures import load_image
from prism_trainer.data.rows import Row, with_system_turn
from prism_trainer.digits.processor import CHAT_TEMPLATE
from row_builders import a_png

IMAGE, EOS = "<|image_pad|>", "<|im_end|>"

WITH_TOOLS = """\
{%- set image_count = namespace(value=0) %}
{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0].role == 'system' %}{{- messages[0].content }}{%- endif %}
    {%- for tool in tools %}{{- tool | tojson }}{%- endfor %}
    {{- '<|im_end|>\\n' }}
{%- elif messages[0].role == 'system' %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0].content is string %}
        {{- messages[0].content }}
    {%- else %}
        {%- for content in messages[0].content %}
            {%- if 'text' in content %}{{- content.text }}{%- endif %}
        {%- endfor %}
    {%- endif %}
    {{- '<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == 'system' %}{%- continue %}{%- endif %}
    {{- '<|im_start|>' + message.role + '\\n' }}
    {%- for content in message.content %}
        {%- if content.type == 'image' %}
            {%- set image_count.value = image_count.value + 1 %}
            {%- if add_vision_id %}Picture {{ image_count.value }}: {% endif -%}
            <|vision_start|><|image_pad|><|vision_end|>
        {%- else %}
            {%- generation %}{{- content.text }}{%- endgeneration %}
        {%- endif %}
    {%- endfor %}
    {{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}
"""
"""In the manner of Qwen3-VL's own: the system turn first, tools, numbered images, loop controls."""

SHOUTING = """\
{% for message in messages %}
[{{ message.role | upper }}]{% for part in message.content %}\
{{ IMAGE if part.type == 'image' else part.text | trim }}{% endfor %}<|im_end|>
{% endfor %}
{% if add_generation_prompt %}[ASSISTANT]{% endif %}
""".replace("IMAGE", f"'{IMAGE}'")
"""Headers of its own, no marks around images, trimmed texts, blocks on lines of their own."""

TEMPLATES = {"quickstart": CHAT_TEMPLATE, "with tools": WITH_TOOLS, "shouting": SHOUTING}
SYSTEM = {"role": "system", "content": "Be brief.\n"}
ROWS = {
    "text": Row("a", "a", ({"role": "user", "content": "What is 3 + 4?"},), ()),
    "system and image": Row(
        "b",
        "b",
        (SYSTEM, {"role": "user", "content": "<image>Which digit?"}),
        (ImageRef(a_png(64, 32), None),),
    ),
    "two images and several turns": Row(
        "c",
        "c",
        (
            SYSTEM,
            {"role": "user", "content": "Is <image> left\n of <image> ?"},
            {"role": "assistant", "content": "No."},
            {"role": "user", "content": "Sure?  "},
        ),
        (ImageRef(a_png(64, 64), None), ImageRef(a_png(96, 32), None)),
    ),
}


def turns_for_transformers(row: Row) -> list[dict[str, Any]]:
    """Written as its documentation has them, pictures included."""
    images = iter(row.images)
    turns = []
    for turn in row.messages:
        head, *rest = turn["content"].split("<image>")
        parts: list[dict[str, Any]] = [{"type": "text", "text": head}] if head else []
        for text in rest:
            picture: Image.Image = load_image(next(images), row.origin)
            parts += [{"type": "image", "image": picture}, {"type": "text", "text": text}]
        turns.append({"role": turn["role"], "content": [p for p in parts if p.get("text") != ""]})
    return turns


@pytest.fixture(scope="module", params=TEMPLATES)
def processor(request: pytest.FixtureRequest, digits_folder: Path) -> Any:
    """The quickstart's with that template."""
    loaded: Any = AutoProcessor.from_pretrained(digits_folder / "model")
    loaded.chat_template = TEMPLATES[request.param]
    return loaded


@pytest.mark.parametrize("name", ROWS)
def test_tokens_and_pixels_equal_those_of_transformers(processor: Any, name: str) -> None:
    row = ROWS[name]
    theirs = processor.apply_chat_template(
        turns_for_transformers(row),
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="np",
    )

    (ours,) = Encoder(processor, processor.image_token_id).prompts([row])

    assert ours.token_ids.tolist() == theirs["input_ids"][0].tolist()
    if row.images:
        assert ours.pixel_values is not None
        np.testing.assert_array_equal(ours.pixel_values.numpy(), theirs["pixel_values"])
        assert np.array_equal(ours.grids, theirs["image_grid_thw"])


@pytest.mark.parametrize("open_answer", [False, True])
@pytest.mark.parametrize("name", ROWS)
def test_our_rendering_is_that_of_transformers(
    processor: Any, name: str, open_answer: bool
) -> None:
    turns = turns_for_transformers(ROWS[name])
    theirs = processor.apply_chat_template(turns, add_generation_prompt=open_answer)

    assert render(processor.chat_template, turns, open_answer=open_answer) == theirs


@pytest.mark.parametrize("name", TEMPLATES)
def test_templates_that_serve_our_prompts_are_accepted(name: str) -> None:
    assert list(template_problems(TEMPLATES[name], IMAGE, EOS)) == []


ONE_TURN = "{{ message.role }}:{% for p in message.content %}PART{% endfor %}<|im_end|>"
LOOP = "{% for message in messages %}" + ONE_TURN + "{% endfor %}"
OPEN = "{% if add_generation_prompt %}assistant:{% endif %}"
PART = "{{ '<|image_pad|>' if p.type == 'image' else p.text }}"
GOOD = LOOP.replace("PART", PART) + OPEN


@pytest.mark.parametrize(
    ("template", "problem"),
    [
        (GOOD.replace("'<|image_pad|>'", "''"), "ignores images: 2 of them give 0 times"),
        (GOOD.replace("'<|image_pad|>'", "'<|image_pad|>' * 2"), "give 4 times <|image_pad|>"),
        (GOOD.replace("in messages", "in messages[1:]"), "ignores the system turn"),
        (GOOD.replace("p.text", "''"), "ignores the user's text"),
        (GOOD.replace(OPEN, ""), "does not open the assistant's turn"),
        (OPEN + GOOD.replace(OPEN, ""), "does not open the assistant's turn"),
        (GOOD.replace("<|im_end|>", "</s>"), "does not end the assistant's turn with"),
        (LOOP.replace("PART", "{{ p }}") + OPEN, "prints the list of a turn's parts"),
        ("{% for", "cannot render a system turn, an image and a question (unexpected"),
        ("{{ raise_exception('no system') }}", "cannot render a system turn, an image and a"),
        ("{{ messages[0].content + '' }}", "cannot render a system turn, an image and a question"),
        ("{{ messages.__class__.__mro__ }}", "cannot render a system turn, an image and"),
    ],
)
def test_a_template_that_does_not_is_told_why(template: str, problem: str) -> None:
    assert list(template_problems(GOOD, IMAGE, EOS)) == []

    assert problem in " | ".join(template_problems(template, IMAGE, EOS))


def test_a_default_system_message_is_a_turn_of_rows_without_one() -> None:
    default = {"role": "system", "content": "Think."}

    assert with_system_turn(ROWS["text"], "Think.").messages == (default, *ROWS["text"].messages)
    assert with_system_turn(ROWS["system and image"], "Think.") == ROWS["system and image"]
    assert with_system_turn(ROWS["text"], None) == ROWS["text"]
