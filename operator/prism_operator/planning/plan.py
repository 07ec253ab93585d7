"""plan(run): the ordered steps of a run, independent of who executes them."""

from dataclasses import dataclass, field
from typing import Any, TypeVar

from prism_api.algorithms import resolve_correction, resolve_rlvr
from prism_api.checkpoint import CheckpointRef
from prism_api.names import StageKind
from prism_api.resources import (
    Evaluation,
    ModelSource,
    Queue,
    ResolvedWorkers,
    Retention,
    Rollout,
    Workers,
    on_servers,
)
from prism_api.run import AnyStage, PrismRun
from prism_api.stage_config import RunRef, StageConfig
from prism_api.stages import AlignStage, RlvrStage, SftStage, Stages
from prism_operator.planning.naming import stage_uri

P = TypeVar("P", Workers | None, ResolvedWorkers, Rollout | None)


@dataclass(frozen=True)
class ServeStep:
    """Rollout servers that must be ready before the train step of the same stage starts."""

    kind: StageKind
    rollout: Rollout

    @property
    def gpus(self) -> int:
        """GPUs of all servers together."""
        return self.rollout.replicas * self.rollout.gpus_per_replica


@dataclass(frozen=True)
class TrainStep:
    """One stage of training, with every setting resolved."""

    kind: StageKind
    after: StageKind | None
    """The stage whose result this one starts from; none: the run's model."""
    run: RunRef
    seed: int
    model: ModelSource
    system_message: str | None
    stage: AnyStage
    stage_uri: str
    workers: ResolvedWorkers
    rollout: Rollout | None
    evaluation: Evaluation | None
    retention: Retention
    queue: Queue | None
    _hashes: dict[CheckpointRef | None, str] = field(
        default_factory=dict, init=False, compare=False, repr=False
    )

    @property
    def gpus(self) -> int:
        """GPUs of all trainer processes together."""
        return self.workers.replicas * self.workers.gpus_per_replica

    @property
    def discriminator_model(self) -> ModelSource | None:
        """The dense model whose architecture the discriminator has, if there is one."""
        stage = self.stage
        if not isinstance(stage, AlignStage) or stage.objective != "adversarial":
            return None
        return stage.discriminator.model or self.model

    def config(self, attempt: int, init_from: CheckpointRef | None) -> StageConfig:
        """What the trainer reads; `init_from` is the result of the stage named by `after`."""
        return StageConfig(
            run=self.run,
            kind=self.kind,
            attempt=attempt,
            seed=self.seed,
            model=self.model,
            system_message=self.system_message,
            init_from=init_from,
            stage_uri=self.stage_uri,
            stages=Stages.model_construct(None, **{self.kind: _for_trainers(self.stage)}),
            workers=_without_template(self.workers),
            rollout=_without_template(self.rollout),
            evaluation=self.evaluation,
            retention=self.retention,
        )

    def config_hash(self, init_from: CheckpointRef | None) -> str:
        """Of the config of any attempt from that start; remembered, for it is asked for often."""
        if init_from not in self._hashes:
            self._hashes[init_from] = self.config(1, init_from).config_hash
        return self._hashes[init_from]


@dataclass(frozen=True)
class Plan:
    """The steps of a run in the order in which they are executed."""

    run: RunRef
    steps: tuple[ServeStep | TrainStep, ...]

    @property
    def model_uris(self) -> set[str]:
        """Of all models whose sizes decide what the run needs."""
        sources = [s for t in self.train_steps for s in (t.model, t.discriminator_model)]
        return {source.uri for source in sources if source is not None}

    def servers_of(self, kind: StageKind) -> ServeStep | None:
        """The rollout servers of a stage, if it samples from any."""
        serves = (step for step in self.steps if isinstance(step, ServeStep))
        return next((step for step in serves if step.kind == kind), None)

    def gpus_of(self, step: TrainStep) -> int:
        """GPUs that a stage holds, those of its servers included."""
        servers = self.servers_of(step.kind)
        return step.gpus + (servers.gpus if servers else 0)

    @property
    def train_steps(self) -> tuple[TrainStep, ...]:
        """Only the training."""
        return tuple(step for step in self.steps if isinstance(step, TrainStep))


def plan(run: PrismRun, uid: str, store_uri: str) -> Plan:
    """Resolve a valid run into steps; the same arguments always give the same plan."""
    ref = RunRef(namespace=run.metadata.namespace, name=run.metadata.name, uid=uid)
    steps: list[ServeStep | TrainStep] = []
    after: StageKind | None = None
    for kind, stage in run.stages.items():
        step = _train_step(run, ref, kind, stage, after, store_uri)
        if on_servers(step.rollout):
            steps.append(ServeStep(kind, step.rollout))
        steps.append(step)
        after = kind
    return Plan(ref, tuple(steps))


def _for_trainers(stage: AnyStage) -> AnyStage:
    own: dict[str, Any] = {"workers": _without_template(stage.workers)}
    if not isinstance(stage, SftStage):
        own["rollout"] = _without_template(stage.rollout)
    return stage.model_copy(update=own)


def _without_template(part: P) -> P:
    """How its pods are placed is nothing that a trainer reads."""
    return part.model_copy(update={"template": {}}) if part else part


def _train_step(
    run: PrismRun,
    ref: RunRef,
    kind: StageKind,
    stage: AnyStage,
    after: StageKind | None,
    store_uri: str,
) -> TrainStep:
    spec, rollout = run.spec, None
    if not isinstance(stage, SftStage):
        rollout = stage.rollout or spec.rollout
        stage = resolve_correction(stage, rollout)
    return TrainStep(
        kind=kind,
        after=after,
        run=ref,
        seed=spec.seed,
        model=spec.model,
        system_message=spec.system_message,
        stage=resolve_rlvr(stage) if isinstance(stage, RlvrStage) else stage,
        stage_uri=stage_uri(store_uri, ref, kind),
        workers=(stage.workers or spec.workers).resolved(),
        rollout=rollout,
        evaluation=spec.evaluation,
        retention=spec.storage.retention if spec.storage else Retention(),
        queue=spec.queue,
    )
