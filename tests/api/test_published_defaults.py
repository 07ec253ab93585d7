"""The defaults are the published values (arXiv 2604.28123, hyper-parameter tables and launch
scripts), written here a second time by hand."""

from typing import Any, get_args

import pytest

from prism_api.algorithms import ALGORITHM_ROWS, resolve_rlvr
from prism_api.gating import Gating
from prism_api.reinforcement import Algorithm, RolloutCorrection
from prism_api.stages import AlignStage, RlvrStage, Stages
from run_builders import a_plan, a_prism_run

STAGES: Stages = a_prism_run().spec.stages


def value_at(path: str) -> Any:
    value: Any = STAGES
    for name in path.split("."):
        value = getattr(value, name)
    return value


@pytest.mark.parametrize(
    ("path", "published"),
    [
        ("sft.learning_rate", 1e-5),
        ("sft.schedule", "cosine"),
        ("sft.warmup_ratio", 0.1),
        ("sft.epochs", None),
        ("sft.steps", None),
        ("sft.batch_size", 16),
        ("sft.max_response_tokens", 8192),
        ("sft.train_vision_tower", False),
        ("align.learning_rate", 1e-6),
        ("align.schedule", "constant"),
        ("align.warmup_steps", None),
        ("align.warmup_ratio", None),
        ("align.weight_decay", 0.01),
        ("align.grad_clip", 1.0),
        ("align.steps", 500),
        ("align.batch_size", 4),
        ("align.rollouts_per_prompt", 16),
        ("align.temperature", 1.0),
        ("align.max_prompt_tokens", 2048),
        ("align.max_response_tokens", 6144),
        ("align.max_tokens_per_pack", 8192),
        ("align.kl_coef", 0.0),
        ("align.kl_estimator", "k3"),
        ("align.entropy_coef", 0.0),
        ("align.caption_weight", 0.5),
        ("align.reasoning_weight", 0.5),
        ("align.format_penalty", 1.5),
        ("align.advantage", "per_component"),
        ("align.gating", None),
        ("align.objective", "adversarial"),
        ("align.discriminator.learning_rate", 1e-6),
        ("align.discriminator.weight_decay", 0.01),
        ("align.discriminator.grad_clip", 1.0),
        ("align.discriminator.schedule", "constant"),
        ("align.discriminator.num_experts", 4),
        ("align.discriminator.experts_per_token", 2),
        ("align.discriminator.expert_noise_std", 0.01),
        ("align.discriminator.router_init_std", 0.02),
        ("align.discriminator.head_dropout", 0.1),
        ("align.discriminator.score_clip", 10.0),
        ("align.discriminator.score_reg_coef", 0.001),
        ("align.discriminator.fallback_coef", 0.01),
        ("align.discriminator.load_balance_coef", 0.01),
        ("align.discriminator.routing", "learned"),
        ("align.discriminator.warmup.data", None),
        ("align.discriminator.warmup.steps", None),
        ("align.discriminator.warmup.batch_size", 4 * 4 * 8 // 2),
        ("align.discriminator.warmup.learning_rate", 1e-5),
        ("align.discriminator.warmup.weight_decay", 0.01),
        ("align.discriminator.warmup.grad_clip", 1.0),
        ("align.discriminator.warmup.schedule", "cosine"),
        ("align.discriminator.warmup.warmup_ratio", 0.1),
        ("rlvr.algorithm", "grpo"),
        ("rlvr.learning_rate", 1e-6),
        ("rlvr.schedule", "constant"),
        ("rlvr.grad_clip", 1.0),
        ("rlvr.steps", 1500),
        ("rlvr.batch_size", 32),
        ("rlvr.mini_batches", 1),
        ("rlvr.rollouts_per_prompt", 16),
        ("rlvr.temperature", 1.0),
        ("rlvr.max_prompt_tokens", 2048),
        ("rlvr.max_response_tokens", 8192),
        ("rlvr.checkpoint_every_steps", 120),
        ("rlvr.kl_coef", 0.0),
        ("rlvr.kl_estimator", "k3"),
        ("rlvr.entropy_coef", 0.0),
        ("rlvr.accuracy_weight", 0.8),
        ("rlvr.format_weight", 0.2),
        ("rlvr.max_generation_rounds", 10),
    ],
)
def test_a_default_is_the_published_value(path: str, published: Any) -> None:
    assert value_at(path) == published


def test_the_coefficients_of_gating_are_the_reference_codes() -> None:
    settings = dict(Gating(mode="rlvr"))
    mode = settings.pop("mode")
    assert (mode, set(settings.values())) == ("rlvr", {1.0})


PUBLISHED_ALGORITHMS: dict[str, dict[str, Any]] = {
    "grpo": {
        "clip_low": 0.2,
        "clip_high": 0.2,
        "dual_clip": 3.0,
        "dynamic_sampling": False,
        "generation_batch_size": None,
        "overlong": None,
        "weight_decay": 0.01,
        "warmup_steps": None,
        "warmup_ratio": None,
        "max_tokens_per_pack": 10240,
    },
    "dapo": {
        "clip_low": 0.2,
        "clip_high": 0.28,
        "dual_clip": 10.0,
        "dynamic_sampling": True,
        "generation_batch_size": 96,
        "overlong": (4096, 1.0),
        "weight_decay": 0.1,
        "warmup_steps": 10,
        "warmup_ratio": None,
        "max_tokens_per_pack": 10240,
    },
    "gspo": {
        "clip_low": 3e-4,
        "clip_high": 4e-4,
        "dual_clip": 0.0,
        "dynamic_sampling": False,
        "generation_batch_size": None,
        "overlong": None,
        "weight_decay": 0.1,
        "warmup_steps": None,
        "warmup_ratio": 0.05,
        "max_tokens_per_pack": 20480,
    },
    "dr-grpo": {
        "clip_low": 0.2,
        "clip_high": 0.2,
        "dual_clip": 0.0,
        "dynamic_sampling": False,
        "generation_batch_size": None,
        "overlong": None,
        "weight_decay": 0.01,
        "warmup_steps": None,
        "warmup_ratio": None,
        "max_tokens_per_pack": 10240,
    },
    "cispo": {
        "clip_low": 1.0,
        "clip_high": 4.0,
        "dual_clip": 0.0,
        "dynamic_sampling": False,
        "generation_batch_size": None,
        "overlong": None,
        "weight_decay": 0.01,
        "warmup_steps": None,
        "warmup_ratio": None,
        "max_tokens_per_pack": 10240,
    },
}


def resolved(**fields: Any) -> RlvrStage:
    run = a_prism_run({f"spec.stages.rlvr.{name}": value for name, value in fields.items()})
    stage = run.spec.stages.rlvr
    assert stage is not None
    return resolve_rlvr(stage)


@pytest.mark.parametrize("algorithm", PUBLISHED_ALGORITHMS)
def test_an_algorithm_fills_what_is_left_out_with_its_published_values(algorithm: str) -> None:
    stage = resolved(algorithm=algorithm)

    found = {name: getattr(stage, name) for name in PUBLISHED_ALGORITHMS[algorithm]}
    if stage.overlong is not None:
        found["overlong"] = (stage.overlong.buffer_tokens, stage.overlong.penalty_factor)
    assert found == PUBLISHED_ALGORITHMS[algorithm]


@pytest.mark.parametrize(
    ("algorithm", "parts"),
    [
        ("grpo", ("z_score", "token", "ppo", "token")),
        ("dapo", ("z_score", "token", "ppo", "token")),
        ("gspo", ("z_score", "sequence", "ppo", "sequence")),
        ("dr-grpo", ("centred", "token", "ppo", "length_limit")),
        ("cispo", ("z_score", "token", "cispo", "token")),
    ],
)
def test_the_parts_of_each_loss(algorithm: Any, parts: tuple[str, ...]) -> None:
    row = ALGORITHM_ROWS[algorithm]

    assert (row.advantage, row.ratio, row.surrogate, row.average) == parts


def test_every_algorithm_of_the_contract_has_a_row_and_published_values() -> None:
    assert set(get_args(Algorithm)) == set(ALGORITHM_ROWS) == set(PUBLISHED_ALGORITHMS)


STAGE_KINDS = ["align", "rlvr"]


def correction_in(kind: str, backend: str, **changes: Any) -> RolloutCorrection | None:
    fields = {f"spec.stages.{kind}.{name}": value for name, value in changes.items()}
    steps = a_plan({"spec.rollout.backend": backend, **fields}).train_steps
    (stage,) = (step.stage for step in steps if step.kind == kind)
    assert isinstance(stage, AlignStage | RlvrStage)
    return stage.rollout_correction


@pytest.mark.parametrize("kind", STAGE_KINDS)
def test_what_servers_sample_is_corrected_by_default_and_in_process_nothing(kind: str) -> None:
    assert correction_in(kind, "vllm") == RolloutCorrection(
        level="token", mode="clamp", min_weight=0.0, max_weight=2.0
    )
    assert correction_in(kind, "inprocess") is None


@pytest.mark.parametrize("kind", STAGE_KINDS)
def test_a_stages_own_rollout_decides_about_its_correction(kind: str) -> None:
    assert correction_in(kind, "vllm", rollout={"backend": "inprocess"}) is None
    assert correction_in(kind, "inprocess", rollout={"backend": "vllm"}) is not None


@pytest.mark.parametrize("kind", STAGE_KINDS)
@pytest.mark.parametrize("backend", ["vllm", "inprocess"])
def test_what_the_user_says_about_the_correction_wins_and_null_turns_it_off(
    kind: str, backend: str
) -> None:
    chosen = {"level": "sequence", "mode": "mask", "maxWeight": 3}
    correction = correction_in(kind, backend, rolloutCorrection=chosen)
    assert correction == RolloutCorrection(level="sequence", mode="mask", max_weight=3)
    assert correction_in(kind, backend, rolloutCorrection=None) is None


def test_what_the_user_gives_wins_over_the_algorithm() -> None:
    stage = resolved(algorithm="dapo", clipHigh=0.3, weightDecay=0.01, warmupRatio=0.5)

    assert (stage.clip_low, stage.clip_high, stage.weight_decay) == (0.2, 0.3, 0.01)
    assert (stage.warmup_steps, stage.warmup_ratio) == (None, 0.5)


def test_null_is_the_same_as_leaving_out_but_turns_the_length_penalty_off() -> None:
    stage = resolved(algorithm="dapo", clipLow=None, dynamicSampling=None, overlong=None)

    assert (stage.clip_low, stage.dynamic_sampling, stage.overlong) == (0.2, True, None)


@pytest.mark.parametrize(("tokens", "buffer"), [(8192, 4096), (6000, 3000), (96, 48), (1, 1)])
def test_the_length_penalty_of_dapo_fits_short_responses(tokens: int, buffer: int) -> None:
    stage = resolved(algorithm="dapo", maxResponseTokens=tokens)

    assert stage.overlong is not None
    assert stage.overlong.buffer_tokens == buffer


def test_dynamic_sampling_by_hand_draws_three_batches_per_round() -> None:
    assert resolved(dynamicSampling=True, batchSize=10).generation_batch_size == 30


def test_resolving_twice_changes_nothing() -> None:
    once = resolved(algorithm="dapo")

    assert resolve_rlvr(once) == once
