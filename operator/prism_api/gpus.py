"""How many GPUs this process may use, without torch."""

import ctypes
from collections.abc import Mapping
from contextlib import suppress

from prism_api.rollout import GPUS_VARIABLE, shown_gpus


def count_gpus(environment: Mapping[str, str]) -> int:
    """GPUs that processes with this environment see: those it names, or all that the driver has."""
    shown = environment.get(GPUS_VARIABLE)
    if shown is not None:
        return len(shown_gpus(shown))
    count = ctypes.c_uint()
    with suppress(OSError, AttributeError):  # no driver, no GPUs
        driver = ctypes.CDLL("libnvidia-ml.so.1")
        if driver.nvmlInit_v2() == 0:
            driver.nvmlDeviceGetCount_v2(ctypes.byref(count))
    return count.value
