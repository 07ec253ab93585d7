"""What a stage is to the loop that runs it, and what every stage is built from."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from prism_api.memory import Savings
from prism_api.stage_config import StageConfig
from prism_trainer.data.encoder import Encoder
from prism_trainer.distributed import Ranks
from prism_trainer.engine.policy import Policy
from prism_trainer.engine.sources import TensorSource
from prism_trainer.record import Usage
from prism_trainer.rollouts import RolloutClient

Sources = dict[str, dict[str, TensorSource]]
"""File name to named tensors."""
Tensors = Mapping[str, Mapping[str, Tensor]]
"""The same, read again."""
Metrics = dict[str, float]


@dataclass(frozen=True)
class ModelFiles:
    """A model beside the policy, as a checkpoint has it in Hugging Face layout."""

    config: Any
    weights: dict[str, TensorSource]


@dataclass(frozen=True)
class StageContext:
    """The parts that all stages share."""

    config: StageConfig
    ranks: Ranks
    policy: Policy
    processor: Any
    encoder: Encoder
    client: RolloutClient
    initial_model: str
    """URI of the model that the stage started from."""
    work_folder: Path
    savings: Savings = field(default_factory=Savings)


@dataclass(frozen=True)
class Iteration:
    """What an iteration did."""

    metrics: Metrics
    """Of all processes."""
    usage: Usage
    """Of this one."""


@dataclass(frozen=True)
class Phase:
    """Iterations of one kind."""

    name: str
    steps: int
    """Iterations."""
    policy_steps: int = 1
    """Optimizer steps that the policy takes in each of them; none in a warm-up."""


class StageProgram(Protocol):
    """A stage as a sequence of iterations whose whole state can be saved between any two."""

    @property
    def phases(self) -> tuple[Phase, ...]:
        """In the order in which they happen."""

    def iterate(self, phase: str, step: int) -> Iteration:
        """Do the step (0-based within its phase) and say how it went."""

    def tensors(self) -> Sources:
        """Everything but models that a resume needs."""

    def models(self) -> dict[str, ModelFiles]:
        """The models beside the policy, by their folders in a checkpoint."""

    def load_tensors(self, tensors: Tensors) -> None:
        """Restore what `tensors` and `models` gave."""

    def facts(self) -> dict[str, Any]:
        """JSON values that a resume needs."""

    def load_facts(self, facts: dict[str, Any]) -> None:
        """Restore what `facts` gave."""


class Stateless:
    """For programs whose state is the policy and the step."""

    def tensors(self) -> Sources:
        """Nothing."""
        return {}

    def models(self) -> dict[str, ModelFiles]:
        """None."""
        return {}

    def load_tensors(self, tensors: Tensors) -> None:
        """Nothing."""

    def facts(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def load_facts(self, facts: dict[str, Any]) -> None:
        """Nothing."""
