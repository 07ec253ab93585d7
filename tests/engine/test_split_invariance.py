"""Dividing a batch into 1, 2, 4 or 8 packs changes no gradient, for every loss of the trainer.

Over two processes: `test_engines`.
"""

from functools import cache

import pytest

from losses_by_split import LOSSES, Gradients
from model_builders import relative_difference
from prism_trainer.distributed import Ranks

TOLERANCE = 2e-6
"""Float32 rounding of sums in another order."""
ROUTED_TOLERANCE = 2e-5
"""The same after routers whose weights are thirty times their usual size."""


@cache
def in_one_pack(loss: str) -> Gradients:
    return LOSSES[loss]("replicated", Ranks(), 1)


@pytest.mark.parametrize("packs", [2, 4, 8], ids=["two", "four", "more than groups"])
@pytest.mark.parametrize("loss", LOSSES)
def test_gradients_do_not_depend_on_the_packs(loss: str, packs: int) -> None:
    tolerance = ROUTED_TOLERANCE if loss.startswith("discriminator") else TOLERANCE
    ours, whole = LOSSES[loss]("replicated", Ranks(), packs), in_one_pack(loss)
    # A parameter whose gradient is rounding noise in itself (a key's bias) is held to the others'.
    scale = max(float(g.norm()) for g in whole.values())
    assert scale > 1e-3
    for name, difference in relative_difference(ours, whole).items():
        size = float(whole[name].norm())
        assert difference * size < tolerance * max(size, 0.01 * scale), name
