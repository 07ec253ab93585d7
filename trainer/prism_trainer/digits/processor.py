"""The processor: ChatML template, tokenizer, and image processing that keeps the pictures' size."""

from transformers import (
    PreTrainedTokenizerFast,
    Qwen2VLImageProcessor,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

PATCH_PX = 16
MERGE = 2
TEMPORAL_PATCH = 2
_VISUAL_TOKEN_PX = (PATCH_PX * MERGE) ** 2
MIN_PIXELS = _VISUAL_TOKEN_PX
MAX_PIXELS = 64 * _VISUAL_TOKEN_PX

CHAT_TEMPLATE = """\
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' }}
    {%- if message.content is string %}
        {{- message.content }}
    {%- else %}
        {%- for part in message.content %}
            {%- if part.type == 'image' or 'image' in part or 'image_url' in part %}
                {{- '<|vision_start|><|image_pad|><|vision_end|>' }}
            {%- elif part.type == 'video' or 'video' in part %}
                {{- '<|vision_start|><|video_pad|><|vision_end|>' }}
            {%- elif 'text' in part %}
                {{- part.text }}
            {%- endif %}
        {%- endfor %}
    {%- endif %}
    {{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""


def build_processor(tokenizer: PreTrainedTokenizerFast) -> Qwen3VLProcessor:
    """Qwen3-VL's processor with one visual token per 32x32 px and no default system message."""
    # Both bounds are areas in px, whatever their names say.
    shape = {
        "patch_size": PATCH_PX,
        "temporal_patch_size": TEMPORAL_PATCH,
        "merge_size": MERGE,
        "size": {"shortest_edge": MIN_PIXELS, "longest_edge": MAX_PIXELS},
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    }
    return Qwen3VLProcessor(
        image_processor=Qwen2VLImageProcessor(**shape),
        tokenizer=tokenizer,
        # Never used, but the class cannot be built without one.
        video_processor=Qwen3VLVideoProcessor(**shape),
        chat_template=CHAT_TEMPLATE,
    )
