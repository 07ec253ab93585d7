"""Which children a run is to have: a pure function of what is stored of it.

Nothing is created before the decision for it is stored, and nothing is deleted before what it
showed is; so it does not matter where an operator is killed, or how often this is asked.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from prism_api.names import StageKind
from prism_api.resources import KeepChildren
from prism_api.status import FINISHED, AttemptStatus, PrismRunStatus, StageStatus, State
from prism_operator.manifests.config_map import build_config_map
from prism_operator.manifests.context import ChildContext, Manifest
from prism_operator.manifests.network_policy import build_network_policy
from prism_operator.manifests.pytorch_job import build_pytorch_job
from prism_operator.manifests.rollout_deployment import build_rollout_deployment
from prism_operator.manifests.rollout_service import build_rollout_service
from prism_operator.planning.fold import parent_of
from prism_operator.planning.naming import attempt_name, rollout_name
from prism_operator.planning.plan import Plan, ServeStep, TrainStep
from prism_operator.planning.sightings import ChildrenSeen, JobSeen, Wanted

FINISH_SECONDS = 30.0
"""The Training Operator gets so long to end what is left of a failed gang, before its job goes."""

Build = Callable[[], Manifest]


@dataclass(frozen=True)
class Needed:
    """A child that has to be there."""

    kind: str
    """As in its manifest: PyTorchJob."""
    name: str
    build: Build | None
    """Its manifest; none: it is only kept."""
    is_made: bool = True
    """Whether it is created where it is not there."""
    is_repaired: bool = True
    """Whether it is written again when somebody has changed it, or its attempt is another one."""
    attempt: int = 0
    """For which it is made, if that makes a difference to it."""


@dataclass(frozen=True)
class Household:
    """All that decides which children a run has."""

    plan: Plan
    context: ChildContext
    keep: KeepChildren
    ttl_seconds: int | None
    wanted: Wanted

    def needed(self, status: PrismRunStatus, seen: ChildrenSeen, now: datetime) -> Iterator[Needed]:
        """Every child that is to be there, and none that is to go."""
        if self._is_expired(status, now):
            return
        for step in self.plan.train_steps:
            stage = status.stages.get(step.kind)
            if stage is None or stage.attempt is None:
                continue
            serve = self.plan.servers_of(step.kind)
            if serve is not None and _keeps_servers(stage):
                yield from self._servers(serve, step, stage.attempt)
            yield from self._kept(step.kind, stage, seen, now)
            yield from self._attempt(step, serve, status, stage.attempt, seen)

    def expires_in(self, status: PrismRunStatus, now: datetime) -> float | None:
        """Seconds until all children of a finished run go; none: never, or they have gone."""
        if self.ttl_seconds is None or status.completion_time is None:
            return None
        left = self.ttl_seconds - (now - status.completion_time).total_seconds()
        return left if left > 0 else None

    def _is_expired(self, status: PrismRunStatus, now: datetime) -> bool:
        if self.ttl_seconds is None or status.completion_time is None:
            return False
        return status.state in FINISHED and self.expires_in(status, now) is None

    def _servers(
        self, serve: ServeStep, step: TrainStep, attempt: AttemptStatus
    ) -> Iterator[Needed]:
        context, name = self.context, rollout_name(self.plan.run, serve.kind)
        template: Mapping[str, Any] = serve.rollout.template
        yield Needed("NetworkPolicy", name, lambda: build_network_policy(context, serve))
        yield Needed("Service", name, lambda: build_rollout_service(context, serve))
        yield Needed(
            "Deployment",
            name,
            lambda: build_rollout_deployment(context, serve, step, attempt.number, template),
            attempt=attempt.number,
        )

    def _attempt(
        self,
        step: TrainStep,
        serve: ServeStep | None,
        status: PrismRunStatus,
        attempt: AttemptStatus,
        seen: ChildrenSeen,
    ) -> Iterator[Needed]:
        """ConfigMap and PyTorchJob of an attempt that is to run."""
        stage = status.stages[step.kind]
        if attempt.outcome is not None or attempt.stopping or stage.result is not None:
            return
        context, number = self.context, attempt.number
        name = attempt_name(self.plan.run, step.kind, number)
        parent = parent_of(self.plan, step, status.stages)
        template = step.workers.template
        yield Needed("ConfigMap", name, lambda: build_config_map(context, step, number, parent))
        is_ready = _is_clear(step, number, seen) and _are_ready(serve, seen)
        is_made = attempt.job_uid is None and is_ready
        if is_made or seen.job_of(step.kind, number) is not None:
            yield Needed(
                "PyTorchJob",
                name,
                lambda: build_pytorch_job(context, step, number, name, template),
                is_made=is_made,
            )

    def _kept(
        self, kind: StageKind, stage: StageStatus, seen: ChildrenSeen, now: datetime
    ) -> Iterator[Needed]:
        for job in seen.jobs:
            if job.kind == kind and self._keeps_job(job, stage, seen, now):
                yield Needed("PyTorchJob", job.name, None, is_made=False, is_repaired=False)
                yield Needed("ConfigMap", job.name, None, is_made=False, is_repaired=False)

    def _keeps_job(
        self, job: JobSeen, stage: StageStatus, seen: ChildrenSeen, now: datetime
    ) -> bool:
        attempt = stage.attempt
        assert attempt is not None
        if job.attempt == attempt.number:
            if attempt.outcome is None:
                return not attempt.stopping
            is_proven = stage.result is not None
            keeps = self.keep.succeeded if is_proven else self._keeps_failed(attempt)
        else:
            is_last_but_one = job.attempt == attempt.number - 1
            # The attempt itself is forgotten: its pods tell whether it failed or was preempted.
            is_failed = job.is_finished and not _is_disrupted(job, seen)
            keeps = self.keep.failed and is_last_but_one and is_failed
        return keeps and _has_ended(job, attempt, seen, now)

    def _keeps_failed(self, attempt: AttemptStatus) -> bool:
        return self.keep.failed and attempt.outcome == "ended"


def _is_disrupted(job: JobSeen, seen: ChildrenSeen) -> bool:
    return any(pod.disruption for pod in seen.gang(job.kind, job.attempt))


def _keeps_servers(stage: StageStatus) -> bool:
    """They live through restarts of the stage, and until what uses them has ended."""
    assert stage.attempt is not None
    if stage.attempt.outcome is None and stage.attempt.job_uid is not None:
        return True
    is_open = stage.state in (State.RUNNING, State.PENDING, State.STOPPING)
    return is_open and stage.result is None and not stage.attempt.stopping


def _is_clear(step: TrainStep, number: int, seen: ChildrenSeen) -> bool:
    """Whether no pods are left of a job of this attempt that somebody has deleted."""
    return seen.job_of(step.kind, number) is not None or not seen.gang(step.kind, number)


def _are_ready(serve: ServeStep | None, seen: ChildrenSeen) -> bool:
    if serve is None:
        return True
    servers = seen.servers_of(serve.kind)
    if servers is None or servers.is_deleting:
        return False
    return servers.ready >= serve.rollout.replicas


def _has_ended(job: JobSeen, attempt: AttemptStatus, seen: ChildrenSeen, now: datetime) -> bool:
    """Whether a job holds no machines, or may still end by itself."""
    if job.is_finished and all(pod.is_over for pod in seen.gang(job.kind, job.attempt)):
        return True
    if job.attempt != attempt.number or attempt.ended_at is None:
        return False
    return (now - attempt.ended_at).total_seconds() < FINISH_SECONDS
