"""Every case of `engine_cases` in the processes of one torchrun, which starts slowly.

`torchrun ... engines_under_torchrun.py ENGINE OUT`: the first process writes OUT/<case>.pt.
"""

import sys
from pathlib import Path
from typing import cast, get_args
from unittest.mock import patch

import torch

from engine_cases import CASES
from prism_api.resources import Engine, Workers
from prism_trainer import distributed
from prism_trainer.process import end_process


def shard_everything() -> None:
    """DeepSpeed would leave parameters as small as these whole, and compile for minutes."""
    from prism_trainer.engine import zero

    zero.PERSISTENT_ELEMENTS = 0


if __name__ == "__main__":
    assert sys.argv[1] in get_args(Engine)
    engine, out = cast(Engine, sys.argv[1]), Path(sys.argv[2])
    ranks = distributed.join(Workers())
    if engine.startswith("deepspeed"):
        patch("deepspeed.comm.torch.build_shm_op", lambda: None).start()
        shard_everything()
    for name, case in CASES.items():
        outcome = case(engine, ranks)
        if ranks.is_first:
            torch.save(outcome, out / f"{name}.pt")
    distributed.leave()
    end_process(0)
