"""Which memory savings this stage makes on this machine."""

from typing import Any

import torch
from transformers import AutoConfig

from prism_api.memory import Savings, plan_memory
from prism_api.model_shape import shape_of
from prism_api.stage_config import StageConfig
from prism_api.stages import AlignStage
from prism_trainer.models import model_folder


def choose_savings(config: StageConfig, policy: Any, device: torch.device) -> Savings:
    """What the stage asks for, or what this GPU needs; `policy` is the model's config."""
    discriminator = None
    if isinstance(config.stage, AlignStage) and config.stage.objective == "adversarial":
        source = config.stage.discriminator.model
        dense = AutoConfig.from_pretrained(model_folder(source.uri)) if source else policy
        discriminator = shape_of(dense.to_dict())
    shape = shape_of(policy.to_dict())
    memory = _memory(device)
    plan = plan_memory(config.stage, config.workers, config.rollout, shape, discriminator, memory)
    return plan.savings


def _memory(device: torch.device) -> int:
    """Bytes; on a CPU nothing is saved that was not asked for."""
    if device.type != "cuda":
        return int(1e18)
    return torch.cuda.get_device_properties(device).total_memory
