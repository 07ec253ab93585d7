"""Runs several stages one after the other in the processes of one torchrun, which starts slowly.

`torchrun ... stages_under_torchrun.py FOLDER...`: each folder holds a `stage.json` and is the
stage's work folder. If it holds a file `stop-after` with a number, the stage is stopped after so
many iterations and then run on by a second attempt. The processes join once, for all stages: gloo
cannot join twice.
"""

import sys
from pathlib import Path
from unittest.mock import patch

from prism_api.base import parse_json
from prism_api.resources import Workers
from prism_api.stage_config import StageConfig
from prism_trainer import distributed
from prism_trainer.process import end_process
from prism_trainer.stages import run as run_module
from prism_trainer.stages.run import run_stage
from stage_builders import stop_after


def run(folder: Path) -> None:
    path = folder / "stage.json"
    config = parse_json(StageConfig, path.read_bytes(), str(path))
    if (folder / "stop-after").exists():
        stop = stop_after(int((folder / "stop-after").read_text()))
        with patch.object(run_module, "_stop", lambda _: stop):
            assert not run_stage(config, folder)
        config = config.model_copy(update={"attempt": 2})
    assert run_stage(config, folder)


def prepare(folders: list[Path]) -> None:
    """DeepSpeed would compile for minutes what it does not use here."""
    if any("deepspeed" in (folder / "stage.json").read_text() for folder in folders):
        patch("deepspeed.comm.torch.build_shm_op", lambda: None).start()


if __name__ == "__main__":
    folders = [Path(argument) for argument in sys.argv[1:]]
    prepare(folders)
    ranks = distributed.join(Workers())
    with patch.multiple(distributed, join=lambda *_: ranks, leave=lambda: None):
        for folder in folders:
            run(folder)
    distributed.leave()
    end_process(0)
