"""Builds a stage from its config and runs it: the one place that knows which program is which."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

from prism_api.errors import FieldProblem, SpecError
from prism_api.resources import Rollout, on_servers
from prism_api.rollout import URLS_VARIABLE, read_token
from prism_api.stage_config import StageConfig
from prism_api.stages import AlignStage, RlvrStage, SftStage
from prism_api.uris import file_uri
from prism_store.checkpoints import read_checkpoint
from prism_store.store import open_store
from prism_trainer import distributed
from prism_trainer.attempt import STOP_FILE
from prism_trainer.data.encoder import Encoder
from prism_trainer.distributed import Ranks
from prism_trainer.engine.lora import add_adapters
from prism_trainer.engine.policy import Policy
from prism_trainer.engine.sharding import checkpoint_layers
from prism_trainer.generation.generator import InProcessGenerator
from prism_trainer.models import load_policy
from prism_trainer.preflight import check_supported
from prism_trainer.resume import EXPORT
from prism_trainer.rewards.reward import RewardWeights, score_many
from prism_trainer.rewards.verifier import Verdict
from prism_trainer.rollouts import RolloutClient
from prism_trainer.rollouts.publish import Publisher
from prism_trainer.rollouts.vllm_client import Servers, VllmClient, check_versions
from prism_trainer.savings import choose_savings
from prism_trainer.stages.align import AlignProgram
from prism_trainer.stages.align_supervised import SupervisedAlignProgram
from prism_trainer.stages.loop import StageLoop
from prism_trainer.stages.program import StageContext, StageProgram
from prism_trainer.stages.rlvr import RlvrProgram
from prism_trainer.stages.sft import SftProgram


def run_stage(config: StageConfig, work_folder: Path) -> bool:
    """Run one attempt to its end (true) or until it was asked to stop and has saved (false)."""
    check_supported(config)
    ranks = distributed.join(config.workers, config.rollout)
    try:
        context = build_context(config, ranks, work_folder)
        loop = StageLoop(
            context, build_program(context), open_store(config.stage_uri), _stop(work_folder)
        )
        done = loop.run()
        ranks.barrier()
        return done
    finally:
        distributed.leave()


def build_context(config: StageConfig, ranks: Ranks, work_folder: Path) -> StageContext:
    """Load the model that the stage starts from, verified if it is another stage's result."""
    servers = None
    if on_servers(config.rollout):
        servers = rollout_servers(os.environ)
        check_versions(servers)
    initial = config.model.uri
    if config.init_from is not None:
        initial = file_uri(read_checkpoint(config.init_from).folder(EXPORT))
    stage = config.stage
    loaded = load_policy(initial, stage.train_vision_tower)
    savings = choose_savings(config, loaded.model.config, ranks.device)
    if stage.lora is not None:
        add_adapters(loaded.model, stage.lora, config.seed)
    if savings.recompute_policy:
        checkpoint_layers(loaded.model)
    workers, max_tokens = config.workers, stage.max_tokens_per_pack
    policy = Policy(loaded.model, ranks, workers.precision, max_tokens, workers.engine)
    policy.offload_optimizer = savings.offload_optimizer
    encoder = Encoder(loaded.processor, loaded.model.config.image_token_id)
    client = _rollout_client(config, policy, encoder, servers, work_folder)
    return StageContext(
        config, ranks, policy, loaded.processor, encoder, client, initial, work_folder, savings
    )


def _rollout_client(
    config: StageConfig,
    policy: Policy,
    encoder: Encoder,
    servers: Servers | None,
    work_folder: Path,
) -> RolloutClient:
    """Without servers it is the generator: SFT, too, evaluates by sampling."""
    if servers is None:
        batch_size = (config.rollout or Rollout()).batch_size
        return InProcessGenerator(policy, encoder.eos_id, batch_size)
    dtype = torch.bfloat16 if policy.half_precision else torch.float32
    store = open_store(config.stage_uri)
    publisher = Publisher(store, config, policy.ranks, work_folder, dtype)
    return VllmClient(servers, policy.model, encoder.eos_id, policy.weights, publisher)


def rollout_servers(environment: Mapping[str, str]) -> Servers:
    """The servers that whoever started the stage has started for it."""
    urls = tuple(filter(None, environment.get(URLS_VARIABLE, "").split(",")))
    if not urls:
        remedy = "start rollout servers (`prism run` does), or set rollout: {backend: inprocess}"
        raise SpecError([FieldProblem(URLS_VARIABLE, "names no rollout server", remedy)])
    return Servers(urls, read_token(environment))


def build_program(context: StageContext) -> StageProgram:
    """The stage's program."""
    stage = context.config.stage
    if isinstance(stage, SftStage):
        return SftProgram(context, stage)
    if isinstance(stage, RlvrStage):
        return RlvrProgram(context, stage)
    assert isinstance(stage, AlignStage)
    if stage.objective == "supervised":
        return SupervisedAlignProgram(context, stage)
    return AlignProgram(context, stage, grade_answers if stage.gating else None)


def grade_answers(samples: Sequence[tuple[str, Sequence[str]]]) -> list[bool | None]:
    """What alignment with gating learns of the verifier: whether each (response, truths) is right;
    None if it cannot be verified."""
    rewards = score_many(samples, RewardWeights())
    return [
        None if reward.verdict is Verdict.UNVERIFIABLE else bool(reward.accuracy)
        for reward in rewards
    ]


def _stop(work_folder: Path) -> Callable[[], bool]:
    return (work_folder / STOP_FILE).exists
