"""What fits on a GPU: the savings that are chosen, and laws of the arithmetic."""

from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prism_api.memory import GIB, MemoryPlan, Savings, plan_memory, trained_parameters
from prism_api.model_shape import PUBLISHED_SHAPES, ModelShape
from prism_api.resources import DataSource, Engine, Rollout, Workers
from prism_api.run import AnyStage
from prism_api.stages import AlignStage, Discriminator, Lora, RlvrStage, SftStage

DATA = DataSource(uri="file:///data.parquet")
H200 = 139 * GIB


def shape(size: str) -> ModelShape:
    return PUBLISHED_SHAPES[f"hf://Qwen/Qwen3-VL-{size}-Instruct"]


def needed(
    stage: AnyStage,
    gpus: int = 1,
    memory: int = H200,
    engine: Engine = "fsdp2",
    rollout: Rollout | None = None,
) -> MemoryPlan:
    """For a 4B policy and, in alignment, a discriminator of the 2B shape."""
    workers = Workers(gpus_per_replica=gpus, engine=engine).resolved()
    return plan_memory(stage, workers, rollout, shape("4B"), shape("2B"), memory)


def align(**changes: Any) -> AlignStage:
    return AlignStage(data=DATA, **changes)


def test_two_models_with_their_states_do_not_fit_on_one_gpu() -> None:
    """4.4 and 5.3 billion parameters at 16 bytes are 155 GB of 149."""
    states = 16 * (shape("4B").parameters + shape("2B").upcycled(4, 2).parameters)
    assert states > H200
    assert not needed(align(offload_optimizer="never")).fits


def test_every_process_reads_its_largest_model_into_host_memory() -> None:
    """A discriminator is made beside the dense model that it is made of, unless it is there."""
    policy, dense = shape("4B").parameters, shape("2B").parameters
    upcycled = shape("2B").upcycled(4, 2)
    assert needed(SftStage(data=(DATA,)), gpus=8).loading_bytes == 4 * policy
    assert needed(align(), gpus=8).loading_bytes == 4 * (dense + upcycled.parameters)
    workers = Workers(gpus_per_replica=8).resolved()
    mixture = plan_memory(align(), workers, None, shape("4B"), upcycled, H200)
    assert mixture.loading_bytes == 4 * upcycled.parameters


def test_only_zero3_has_a_whole_model_on_a_gpu_before_it_is_in_parts() -> None:
    """8B and its upcycled discriminator: 24.45 billion parameters are 91 GiB in float32."""
    start: dict[str, int | None] = {}
    for engine in get_args(Engine):
        workers = Workers(gpus_per_replica=8, engine=engine).resolved()
        plan = plan_memory(align(), workers, None, shape("8B"), shape("8B"), 80 * GIB)
        start[engine] = plan.phases.get("start")
    upcycled = shape("8B").upcycled(4, 2).parameters
    assert 2 * upcycled < (start.pop("deepspeed-zero3") or 0) < 4 * upcycled
    assert set(start.values()) == {None}


def test_with_states_on_the_host_they_do() -> None:
    chosen = needed(align())
    assert chosen.savings == Savings(offload_optimizer=True)
    assert chosen.fits
    assert chosen.host_bytes == 8 * (shape("4B").parameters + shape("2B").upcycled(4, 2).parameters)
    assert set(chosen.phases) == {
        f"{network} {phase}"
        for network in ("policy", "discriminator")
        for phase in ("update", "optimizer step")
    }


def test_nothing_is_saved_where_there_is_room() -> None:
    for stage in (align(), SftStage(data=(DATA,)), RlvrStage(data=DATA)):
        assert needed(stage, gpus=8, memory=400 * GIB).savings == Savings()


@pytest.mark.parametrize("wanted", ["always", "never"])
def test_what_the_document_says_is_done(wanted: Any) -> None:
    on = wanted == "always"
    stage = align(
        gradient_checkpointing=wanted,
        offload_optimizer=wanted,
        discriminator=Discriminator(gradient_checkpointing=wanted),
    )
    for memory in (1 * GIB, 1000 * GIB):
        assert needed(stage, memory=memory).savings == Savings(on, on, on)


def test_copies_are_tried_before_layers_are_computed_twice() -> None:
    sizes = [memory * GIB for memory in range(60, 400, 5)]
    chosen = [needed(align(), memory=size).savings for size in reversed(sizes)]
    first, second, *others = dict.fromkeys(chosen)
    assert (first, second) == (Savings(), Savings(offload_optimizer=True))
    assert others
    assert all(savings.offload_optimizer for savings in others)


def test_the_control_has_no_discriminator() -> None:
    workers = Workers(gpus_per_replica=1).resolved()
    plan = plan_memory(align(objective="supervised"), workers, None, shape("4B"), None, H200)
    assert {phase.split()[0] for phase in plan.phases} == {"policy"}


@pytest.mark.parametrize(("wanted", "memory"), [("always", 1000), ("auto", 139)])
def test_the_controls_states_go_to_the_host_too(wanted: Any, memory: int) -> None:
    stage = align(objective="supervised", offload_optimizer=wanted)
    workers = Workers(gpus_per_replica=1).resolved()
    plan = plan_memory(stage, workers, None, shape("4B"), None, memory * GIB)
    assert plan.savings == Savings(offload_optimizer=True)
    assert list(plan.phases) == ["policy update", "policy optimizer step"]


def test_the_reference_costs_masters_unless_it_is_the_policy_without_adapters() -> None:
    def peak(**changes: Any) -> int:
        stage = RlvrStage(data=DATA, gradient_checkpointing="always", **changes)
        return max(needed(stage, memory=1000 * GIB).phases.values())

    copy = peak(kl_coef=0.1) - peak()
    assert copy == 4 * shape("4B").parameters
    assert peak(kl_coef=0.1, lora=Lora()) == peak(lora=Lora())
    with_tower: dict[str, Any] = {"lora": Lora(), "train_vision_tower": True}
    assert peak(kl_coef=0.1, **with_tower) - peak(**with_tower) == copy


def test_the_reference_lies_as_the_engine_lays_it() -> None:
    """DeepSpeed shards only what it trains."""
    whole = 4 * shape("4B").parameters
    expected = {"fsdp2": whole // 8} | dict.fromkeys(get_args(Engine)[1:], whole)
    for engine in get_args(Engine):
        peaks = [
            max(needed(RlvrStage(data=DATA, kl_coef=kl), 8, 1000 * GIB, engine).phases.values())
            for kl in (0.0, 0.1)
        ]
        assert peaks[1] - peaks[0] == expected[engine], engine


def test_what_is_trained() -> None:
    tower = shape("4B").vision.parameters
    whole, small = shape("4B").parameters, 2 * tower
    assert trained_parameters(RlvrStage(data=DATA), shape("4B")) == whole
    assert trained_parameters(SftStage(data=(DATA,)), shape("4B")) == whole - tower
    lora = SftStage(data=(DATA,), lora=Lora())
    assert 0 < trained_parameters(lora, shape("4B")) < small / 10
    both = RlvrStage(data=DATA, lora=Lora(), train_vision_tower=True)
    difference = trained_parameters(both, shape("4B")) - trained_parameters(lora, shape("4B"))
    assert difference == tower


def test_generation_in_the_trainer_holds_whole_weights_and_a_cache() -> None:
    stage = RlvrStage(data=DATA, max_prompt_tokens=1024, max_response_tokens=1024)
    rollouts = [
        needed(stage, rollout=Rollout(backend="inprocess", batch_size=n)).phases["rollouts"]
        for n in (1, 2)
    ]
    # Keys and values of 8 heads of 128 in 36 layers, in bfloat16: 144 KiB per token.
    assert rollouts[1] - rollouts[0] == 2048 * 144 * 1024
    assert "rollouts" not in needed(stage, rollout=Rollout(backend="vllm")).phases


def test_the_rollouts_embedding_is_in_float32() -> None:
    """Beside the weights of a pass and one sequence's cache, in the plan of a stage of its own."""
    stage = RlvrStage(data=DATA, max_prompt_tokens=1024, max_response_tokens=1024)
    policy, one = shape("4B"), Rollout(backend="inprocess", batch_size=1)
    masters_and_moments, cache = 12 * policy.parameters, 2048 * 144 * 1024
    embedding = 4 * 151_936 * 2560
    assert needed(stage, rollout=one).phases["rollouts"] == (
        3 * GIB + masters_and_moments + 2 * policy.parameters + embedding + cache
    )


@pytest.mark.parametrize("engine", get_args(Engine))
def test_alone_in_float32_every_engine_is_the_one_that_keeps_everything_whole(engine: Any) -> None:
    """It has its gradients in one buffer that stays."""
    stage, rollout = RlvrStage(data=DATA), Rollout(backend="inprocess")
    plans = [
        plan_memory(
            stage,
            Workers(gpus_per_replica=1, engine=name, precision="fp32").resolved(),
            rollout,
            shape("2B"),
            None,
            H200,
        )
        for name in ("replicated", engine)
    ]
    assert plans[0] == plans[1]


@pytest.mark.parametrize(("memory", "sequences"), [(400, 256), (139, 128), (1, 1)])
def test_a_cache_that_does_not_fit_is_made_for_fewer_sequences_at_once(
    memory: int, sequences: int
) -> None:
    """As the generator does: no layer is recomputed for it, and nothing is refused."""
    stage = RlvrStage(data=DATA, max_response_tokens=1024, max_tokens_per_pack=1024)
    rollout = Rollout(backend="inprocess", batch_size=256)
    chosen = needed(stage, memory=memory * GIB, rollout=rollout)
    assert chosen.rollout_sequences == sequences
    assert chosen.savings == Savings(recompute_policy=memory == 1)
    assert needed(stage, rollout=Rollout(backend="vllm")).rollout_sequences is None


@given(
    st.integers(1, 6),
    st.sampled_from(["fsdp2", "replicated", "deepspeed-zero2", "deepspeed-zero3"]),
)
def test_more_gpus_never_need_more_on_each(power: int, engine: Any) -> None:
    def peak(gpus: int) -> int:
        stage = align(gradient_checkpointing="never", offload_optimizer="never")
        return max(needed(stage, gpus, 10_000 * GIB, engine).phases.values())

    fewer, more = peak(2 ** (power - 1)), peak(2**power)
    assert more == fewer if engine == "replicated" else more < fewer


def test_engines_that_keep_more_in_parts_need_less() -> None:
    engines: list[Engine] = ["replicated", "deepspeed-zero2", "deepspeed-zero3"]
    stage = SftStage(data=(DATA,), gradient_checkpointing="always")
    peaks = [max(needed(stage, 8, engine=engine).phases.values()) for engine in engines]
    assert peaks == sorted(peaks, reverse=True)


def test_deepspeed_does_not_move_its_states() -> None:
    for memory in (1, 100, 1000):
        chosen = needed(align(), 8, memory * GIB, "deepspeed-zero3").savings
        assert not chosen.offload_optimizer


@given(st.integers(1024, 65536))
def test_longer_packs_need_more_and_recomputing_less(tokens: int) -> None:
    def peak(pack: int, recompute: Any) -> int:
        changes: dict[str, Any] = {"gradient_checkpointing": recompute}
        stage = SftStage(data=(DATA,), max_tokens_per_pack=pack, **changes)
        return max(needed(stage).phases.values())

    assert peak(tokens, "always") < peak(tokens, "never") < peak(tokens + 64, "never")
