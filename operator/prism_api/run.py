"""PrismRun: what a user writes."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from prism_api.base import Contract, CrossFieldError
from prism_api.names import API_VERSION, DNS_LABEL, KIND, MAX_RUN_NAME, STAGE_ORDER, StageKind
from prism_api.resources import (
    LIVE,
    Count,
    Evaluation,
    FailurePolicy,
    Images,
    KeepChildren,
    ModelSource,
    Queue,
    Rollout,
    Storage,
    SystemMessage,
    Workers,
)
from prism_api.stages import AlignStage, RlvrStage, SftStage, Stages

AnyStage = SftStage | AlignStage | RlvrStage


class Metadata(Contract):
    """Name and place of a run."""

    name: Annotated[str, Field(pattern=DNS_LABEL, max_length=MAX_RUN_NAME)]
    """Lower-case letters, digits and dashes; at most 40 characters."""
    namespace: Annotated[str, Field(pattern=DNS_LABEL, max_length=63)] = "default"
    """Kubernetes namespace; in a local run, only part of the store's paths."""
    labels: dict[str, str] = Field(default_factory=dict)
    """As of any Kubernetes object."""
    annotations: dict[str, str] = Field(default_factory=dict)
    """As of any Kubernetes object."""


class Spec(Contract):
    """What is to be trained, from what, with what, and where it goes."""

    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Everything random derives from it."""
    model: ModelSource
    """The policy before the first stage."""
    system_message: SystemMessage | None = None
    """First turn of all prompts, of training and evaluation, whose rows have no system turn of
    their own; absent: they go without."""
    images: Annotated[Images, LIVE] = Images()
    """Container images."""
    storage: Storage | None = None
    """Where checkpoints go; absent (local runs only): the output folder."""
    workers: Workers = Workers()
    """Trainer processes, unless a stage says otherwise."""
    rollout: Rollout | None = None
    """Who samples responses; needed by align and rlvr."""
    queue: Queue | None = None
    """Admission by Kueue."""
    stages: Stages
    """What is done, in the fixed order sft, align, rlvr."""
    evaluation: Evaluation | None = None
    """Accuracy after each stage."""
    failure_policy: Annotated[FailurePolicy, LIVE] = FailurePolicy()
    """Retries and deadlines."""
    keep_children: Annotated[KeepChildren, LIVE] = KeepChildren()
    """What stays for its logs."""
    ttl_seconds_after_finished: Annotated[Count | None, LIVE] = None
    """A finished run's children are deleted after so long; absent: never."""
    suspend: Annotated[bool, LIVE] = False
    """Stops the run at its next checkpoint and frees its processes; false continues it."""
    cancel: Annotated[bool, LIVE] = False
    """Ends the run for good: its children are deleted, what is in the store stays; cannot be
    undone."""

    @model_validator(mode="after")
    def _system_message_is_text(self) -> "Spec":
        if self.system_message is not None and "<image>" in self.system_message:
            problem = "holds <image>, the mark of a row's image"
            raise CrossFieldError("systemMessage", problem, "remove it")
        return self

    @model_validator(mode="after")
    def _stages_have_what_they_need(self) -> "Spec":
        for kind in STAGE_ORDER:
            stage = getattr(self.stages, kind)
            if stage is not None:
                self._check_rollout(kind, stage)
                self._check_batch(kind, stage)
        return self

    def _check_rollout(self, kind: StageKind, stage: AnyStage) -> None:
        if isinstance(stage, SftStage) or self.rollout or stage.rollout:
            return
        remedy = "add rollout: {backend: vllm} or rollout: {backend: inprocess}"
        raise CrossFieldError("rollout", f"is missing but stage {kind} samples responses", remedy)

    def _check_batch(self, kind: StageKind, stage: AnyStage) -> None:
        world_size = (stage.workers or self.workers).world_size
        mini_batches = stage.mini_batches if isinstance(stage, RlvrStage) else 1
        sizes = {"batchSize": stage.batch_size}
        if isinstance(stage, AlignStage) and stage.objective == "adversarial":
            sizes["discriminator.warmup.batchSize"] = stage.discriminator.warmup.batch_size
        for member, size in sizes.items():
            if size % (world_size * mini_batches):
                raise CrossFieldError(
                    f"stages.{kind}.{member}",
                    f"{size} cannot be shared by {world_size} processes"
                    + (f" in {mini_batches} mini-batches" if mini_batches > 1 else ""),
                    f"give a multiple of {world_size * mini_batches}",
                )


class PrismRun(Contract):
    """One run of the method: SFT, alignment, RLVR."""

    api_version: Literal["prism.dev/v1alpha1"]
    """Version of this contract."""
    kind: Literal["PrismRun"]
    """Name of this contract."""
    metadata: Metadata
    """Name and place."""
    spec: Spec
    """What is to be done."""

    @property
    def stages(self) -> dict[StageKind, AnyStage]:
        """The stages that are present, in order."""
        all_stages = {kind: getattr(self.spec.stages, kind) for kind in STAGE_ORDER}
        return {kind: stage for kind, stage in all_stages.items() if stage is not None}


assert (API_VERSION, KIND) == ("prism.dev/v1alpha1", "PrismRun")
