"""Every case of `engine_cases` in the processes of one torchrun, which starts slowly.

`torchrun ... engines_under_torchrun.py ENGINE OUT`: the first process writes OUT/<case>.pt.
"""

import sys
from pathlib import Path

import torch

from engine_cases import CASES
from prism_trainer import distributed

if __name__ == "__main__":
    engine, out = sys.argv[1], Path(sys.argv[2])
    ranks = distributed.join(threads=1)
    for name, case in CASES.items():
        outcome = case(engine, ranks)  # type: ignore[arg-type]
        if ranks.is_first:
            torch.save(outcome, out / f"{name}.pt")
    distributed.leave()
