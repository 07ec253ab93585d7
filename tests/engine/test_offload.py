"""How optimizer states lie in page-locked host memory, of which torch gives only powers of two."""

from hypothesis import given
from hypothesis import strategies as st

from prism_api.model_shape import PUBLISHED_SHAPES
from prism_trainer.engine.offload import in_blocks

GIB = 1 << 30


@given(st.lists(st.integers(1, 5000), max_size=60), st.sampled_from([64, 1024]))
def test_parts_lie_aligned_and_apart_in_blocks_of_powers_of_two(
    sizes: list[int], block: int
) -> None:
    blocks, places = in_blocks(sizes, block)
    assert all(size.bit_count() == 1 and size >= block for size in blocks)
    ends = [0] * len(blocks)
    for (where, start), size in sorted(zip(places, sizes, strict=True)):
        assert start % 64 == 0
        assert ends[where] <= start
        ends[where] = start + size
    assert all(0 < end <= size for end, size in zip(ends, blocks, strict=True))


def test_the_moments_of_published_models_take_little_more_than_they_are() -> None:
    """Rounded up one by one, those of the 4B policy would take half as much again."""
    for model in ("4B", "8B"):
        shape = PUBLISHED_SHAPES[f"hf://Qwen/Qwen3-VL-{model}-Instruct"]
        attention = [shape.hidden * width for width in (shape.queries, shape.keys)] * 2
        layer = [*attention, *[shape.hidden * shape.intermediate] * 3, shape.hidden]
        whole = shape.embedding_parameters
        sizes = 2 * [*layer * shape.layers, *[whole] * (1 if shape.tied else 2)]
        alone = sum(1 << (size - 1).bit_length() for size in sizes)
        together = sum(in_blocks(sizes, 1 << 28)[0])
        assert together * 4 <= sum(sizes) * 4 + 2 * GIB
        assert alone > 1.25 * together, model
