"""Runs of the RLVR stage, and a look at what they hand to the policy's update."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from prism_api.resources import DataSource
from prism_api.stages import RlvrStage
from prism_trainer.distributed import Ranks
from prism_trainer.stages.policy_update import OldLogprobs, PolicyUpdate, UpdateReport
from prism_trainer.stages.rlvr import RlvrProgram
from prism_trainer.stages.run import build_context, build_program
from prism_trainer.stages.sampling import SampledGroup
from stage_builders import Finished, rlvr_stage, run_to_end, stage_config


def run(stage: RlvrStage, talker: Path, folder: Path) -> Finished:
    """The stage to its end."""
    folder.mkdir(parents=True, exist_ok=True)
    return run_to_end(stage_config(stage, talker, folder), folder)


def dapo_stage(data: DataSource, **changes: Any) -> RlvrStage:
    """Two prompts in a batch, eight in a round."""
    settings = {"algorithm": "dapo", "batch_size": 2, "generation_batch_size": 8, **changes}
    return rlvr_stage(data, **settings)


def program_of(stage: RlvrStage, talker: Path, folder: Path) -> RlvrProgram:
    """The stage's program, to be stepped by hand."""
    config = stage_config(stage, talker, folder)
    program = build_program(build_context(config, Ranks(), folder))
    assert isinstance(program, RlvrProgram)
    return program


@dataclass(frozen=True, eq=False)
class Update:
    """What one policy update was given."""

    step: int
    groups: Sequence[SampledGroup]
    advantages: Sequence[Tensor]
    old_logprobs: Sequence[OldLogprobs] | None
    report: UpdateReport | None


def watch_updates(monkeypatch: pytest.MonkeyPatch) -> list[Update]:
    """Every policy update from now on, which goes on as usual."""
    seen: list[Update] = []
    inner = PolicyUpdate.run

    def watching(
        self: PolicyUpdate, groups: Any, advantages: Any, step: int, old: Any = None
    ) -> Any:
        report = inner(self, groups, advantages, step, old)
        seen.append(Update(step, groups, advantages, old, report))
        return report

    monkeypatch.setattr(PolicyUpdate, "run", watching)
    return seen
