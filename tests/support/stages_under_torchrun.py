"""Runs several stages one after the other in the processes of one torchrun, which starts slowly.

`torchrun ... stages_under_torchrun.py FOLDER...`: each folder holds a `stage.json` and is the
stage's work folder. The processes join once, for all stages: gloo cannot join twice.
"""

import sys
from pathlib import Path
from unittest.mock import patch

from prism_api.base import parse_json
from prism_api.stage_config import StageConfig
from prism_trainer import distributed
from prism_trainer.stages.run import run_stage

if __name__ == "__main__":
    ranks = distributed.join(threads=1)
    with patch.multiple(distributed, join=lambda threads: ranks, leave=lambda: None):
        for folder in map(Path, sys.argv[1:]):
            path = folder / "stage.json"
            assert run_stage(parse_json(StageConfig, path.read_bytes(), str(path)), folder)
    distributed.leave()
