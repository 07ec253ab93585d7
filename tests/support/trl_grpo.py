"""TRL's own code on given numbers: `GRPOTrainer`'s methods, bound to what little they read.

Nothing here computes: log-probabilities, rewards and responses are handed in where the trainer
would ask a model, and the formulas that run are TRL's.
"""

from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from trl.trainer.grpo_trainer import GRPOTrainer

from padded_batches import LIMIT, PaddedBatch, with_gradient


def trl_loss(batch: PaddedBatch, loss_type: str, **settings: Any) -> tuple[Tensor, Tensor]:
    """Value and gradient [R, W] of `GRPOTrainer._compute_loss` on one micro-batch.

    Settings are those of GRPOConfig (TRL's own defaults otherwise, without vLLM); `weights` [R, W]
    or [R, 1] are the importance sampling ratios of vLLM's samples; `num_items` and `accumulation`
    are the tokens of the whole batch and how many micro-batches it has.
    """
    trainer = _trainer({"loss_type": loss_type, **settings})
    trainer._get_per_token_logps_and_entropies = lambda *_, **__: (
        batch.logprobs,
        torch.zeros_like(batch.logprobs),
        None,
    )
    inputs = {
        "prompt_ids": torch.zeros(len(batch.mask), 1, dtype=torch.long),
        "prompt_mask": torch.ones(len(batch.mask), 1, dtype=torch.long),
        "completion_ids": torch.zeros_like(batch.mask),
        "completion_mask": batch.mask,
        "advantages": batch.advantages,
        "old_per_token_logps": batch.old,
        "ref_per_token_logps": batch.reference,
        "num_items_in_batch": torch.tensor(settings.get("num_items", int(batch.mask.sum()))),
        "importance_sampling_ratio": settings.get("weights"),
    }
    return with_gradient(GRPOTrainer._compute_loss(trainer, None, inputs), batch)


def trl_scores(
    rewards: Tensor, batch: PaddedBatch | None = None, **settings: Any
) -> dict[str, Tensor]:
    """What `GRPOTrainer._generate_and_score_completions` makes of rewards [groups, responses] and,
    with a batch, of the server's and the trainer's log-probabilities: advantages and, with a batch,
    importance sampling ratios."""
    trainer = _trainer({"use_vllm": batch is not None, **settings})
    lengths = [1] * rewards.numel() if batch is None else batch.lengths.tolist()
    width = max(lengths)
    old = torch.zeros(len(lengths), width) if batch is None else batch.old[:, :width]
    rollout = None
    if batch is not None:
        rollout = [row[:n].tolist() for row, n in zip(batch.rollout, lengths, strict=True)]
    nothing = [None] * len(lengths)
    prompts, responses = [[0]] * len(lengths), [[1] * n for n in lengths]
    trainer.num_generations = rewards.shape[1]
    trainer._generate = lambda _: (prompts, responses, None, nothing, rollout, {}, None, None)
    trainer._calculate_rewards = lambda *_: rewards.reshape(-1, 1)
    trainer._get_per_token_logps_and_entropies = lambda *_, **__: (old, None, None)
    rows = [{"prompt": "a prompt"} for _ in lengths]
    default = torch.get_default_dtype()
    # It makes tensors of the server's numbers in the default precision.
    torch.set_default_dtype(torch.float64)
    try:
        scores: dict[str, Tensor] = GRPOTrainer._generate_and_score_completions(trainer, rows)
    finally:
        torch.set_default_dtype(default)
    return scores


def _trainer(settings: dict[str, Any]) -> Any:
    """What the two methods read of a trainer: alone, without tools, images or entropy bonus."""
    arguments = {
        "use_bias_correction_kl": settings.get("use_bias_correction_kl", False),
        "delta": settings.get("delta"),
        "steps_per_generation": settings.get("accumulation", 1),
        "gradient_accumulation_steps": settings.get("accumulation", 1),
        "gradient_checkpointing_kwargs": None,
        "per_device_train_batch_size": 1,
        "per_device_eval_batch_size": 1,
    }
    uses_vllm = settings.get("use_vllm", settings.get("weights") is not None)
    parts: dict[str, Any] = {
        "args": SimpleNamespace(**arguments),
        "model": SimpleNamespace(training=True, is_gradient_checkpointing=False),
        "ref_model": None,
        "accelerator": SimpleNamespace(
            device=torch.device("cpu"),
            num_processes=1,
            process_index=0,
            gather=lambda value: value,
            reduce=lambda value, reduction: value,
        ),
        "loss_type": settings.get("loss_type", "dapo"),
        "importance_sampling_level": settings.get("importance_sampling_level", "token"),
        "epsilon_low": settings.get("epsilon", 0.2),
        "epsilon_high": settings.get("epsilon_high", settings.get("epsilon", 0.2)),
        "beta": settings.get("beta", 0.0),
        "max_completion_length": LIMIT,
        "current_gradient_accumulation_steps": settings.get("accumulation", 1),
        "num_iterations": 1,
        "use_vllm": uses_vllm,
        "vllm_importance_sampling_correction": uses_vllm,
        "vllm_importance_sampling_mode": settings.get("mode", "sequence_mask"),
        "vllm_importance_sampling_clip_min": settings.get("clip_min"),
        "vllm_importance_sampling_clip_max": settings.get("clip_max", 3.0),
        "scale_rewards": settings.get("scale_rewards", "group"),
        "multi_objective_aggregation": "sum_then_normalize",
        "reward_weights": torch.ones(1, dtype=torch.float64),
        "reward_funcs": [None],
        "reward_func_names": ["reward"],
        "_metrics": {"train": defaultdict(list)},
        "_logs": defaultdict(list, rewards=defaultdict(list), extra=defaultdict(list)),
        "_pending_extra_logs": {},
        "_pending_metrics": {},
        "_tokenizer": SimpleNamespace(pad_token_id=0),
        "top_entropy_quantile": 1.0,
        "aux_loss_enabled": False,
        "off_policy_mask_threshold": None,
        "_entropy_bonus_enabled": False,
        "environment_factories": None,
        "environments": None,
        "tools": None,
        "pad_to_multiple_of": None,
        "mask_truncated_completions": False,
        "log_multimodal": False,
    }
    return SimpleNamespace(**parts)
