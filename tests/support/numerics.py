"""How tests with tensors run: one thread, and examples that are the same every time.

Tensors are small here; a second thread only waits for the first, ten times as long on a busy
machine.
"""

import torch
from hypothesis import HealthCheck, settings


def set_up() -> None:
    """Called by the conftest of every folder that computes with torch."""
    torch.set_num_threads(1)
    settings.register_profile(
        "numerics",
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=[HealthCheck.too_slow],  # of a busy machine, not of the test
    )
    settings.load_profile("numerics")
