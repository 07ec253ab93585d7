"""Runs several stages one after the other in the processes of one torchrun, which starts slowly.

`torchrun ... stages_under_torchrun.py FOLDER...`: each folder holds a `stage.json` and is the
stage's work folder. Where it holds a file `stop-after` too, the stage is stopped after so many
iterations and resumed. The processes join once, for all stages: gloo cannot join twice.
"""

import sys
from pathlib import Path
from unittest.mock import patch

from prism_api.base import parse_json
from prism_api.resources import Workers
from prism_api.stage_config import StageConfig
from prism_trainer import distributed
from prism_trainer.stages import run as run_module
from stage_builders import stop_after

if __name__ == "__main__":
    ranks = distributed.join(Workers())
    with patch.multiple(distributed, join=lambda workers: ranks, leave=lambda: None):
        for folder in map(Path, sys.argv[1:]):
            path, stop = folder / "stage.json", folder / "stop-after"
            config = parse_json(StageConfig, path.read_bytes(), str(path))
            if stop.exists():
                asked = stop_after(int(stop.read_text()))
                with patch.object(run_module, "_stop", lambda _, asked=asked: asked):
                    assert not run_module.run_stage(config, folder)
            assert run_module.run_stage(config, folder)
    distributed.leave()
