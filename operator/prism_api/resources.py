"""Parts of a PrismRun that more than one stage uses: models, data, storage, workers, rollouts."""

from typing import Annotated, Any, Literal, TypeGuard

from pydantic import Field, model_validator

from prism_api.base import Contract, CrossFieldError
from prism_api.names import DNS_SUBDOMAIN
from prism_api.patterns import DATA_URI, HTTP_URL, MODEL_URI, STORE_URI

ModelUri = Annotated[str, Field(pattern=MODEL_URI, max_length=1024)]
DataUri = Annotated[str, Field(pattern=DATA_URI, max_length=1024)]
SystemMessage = Annotated[str, Field(min_length=1, max_length=32768)]
LARGEST = 2**31 - 1
"""Of all whole numbers, so that every reader of a document can hold them."""
Positive = Annotated[int, Field(ge=1, le=LARGEST)]
Count = Annotated[int, Field(ge=0, le=LARGEST)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Precision = Literal["bf16", "fp32"]
NonNegative = Annotated[float, Field(ge=0)]
LearningRate = Annotated[float, Field(gt=0, le=1)]
ObjectName = Annotated[str, Field(pattern=DNS_SUBDOMAIN, max_length=253)]
LabelName = Annotated[str, Field(pattern=DNS_SUBDOMAIN, max_length=63)]
"""Name of an object that others refer to by a label, whose values are shorter than names."""
PodTemplate = dict[str, Any]
"""Part of a Kubernetes pod template; the API server checks it when pods are made."""

LIVE: Any = Field(json_schema_extra={"live": True})
"""Marks what may be changed once training has started; all other fields are then immutable."""


class ModelSource(Contract):
    """A model in Hugging Face layout."""

    uri: ModelUri
    """`hf://org/name`, `s3://`, `pvc://`, `file://` (local runs; relative to the run's file) or
    `builtin://digits/model` (a small Qwen3-VL made on the spot)."""


class DataSource(Contract):
    """One data set: a Parquet, JSON-lines or JSON file."""

    uri: DataUri
    """`s3://`, `pvc://`, `file://` (local runs; relative to the run's file) or `builtin://digits/...`
    (the quickstart's data, made on the spot)."""


class Retention(Contract):
    """How many checkpoints of a stage are kept; what a resume or a later stage needs always is."""

    keep_last: Positive = 2
    """Newest complete checkpoints kept per stage."""


class Storage(Contract):
    """Where checkpoints and results go."""

    uri: Annotated[str, Field(pattern=STORE_URI, max_length=1024)]
    """`s3://bucket/prefix`, or `file://` for local runs."""
    endpoint: Annotated[str, Field(pattern=HTTP_URL, max_length=1024)] | None = None
    """S3 endpoint; absent: the provider's own."""
    region: Annotated[str, Field(max_length=63)] | None = None
    """S3 region."""
    addressing_style: Literal["auto", "path", "virtual"] = "auto"
    """How the bucket enters the address."""
    ca_bundle: ObjectName | None = None
    """Name of a ConfigMap with the certificate authorities of the endpoint."""
    credentials_secret: ObjectName | None = None
    """Name of a Secret with the credentials; absent: workload identity."""
    retention: Annotated[Retention, LIVE] = Retention()
    """Checkpoints kept."""


class Images(Contract):
    """Container images; absent fields take the chart's."""

    trainer: str | None = None
    """Image of trainer pods."""
    rollout: str | None = None
    """Image of rollout servers."""
    pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    """As in a Kubernetes container."""
    pull_secrets: Annotated[tuple[ObjectName, ...], Field(max_length=32)] = ()
    """Names of Secrets for the registry."""


Engine = Literal["fsdp2", "replicated", "deepspeed-zero2", "deepspeed-zero3"]
Saving = Literal["auto", "always", "never"]
"""When to trade time for GPU memory; `auto`: where it would not suffice otherwise."""


def engine_in_use(engine: Engine, precision: Precision, world_size: int) -> Engine:
    """What really holds a model: a process that is alone keeps it whole, unless weights must be
    cast for each pass."""
    return "replicated" if world_size == 1 and precision == "fp32" else engine


class Workers(Contract):
    """Trainer processes of a stage."""

    replicas: Positive = 1
    """Pods; in a local run all of them are processes of this machine, each with a GPU of its own
    if GPUs are asked for."""
    gpus_per_replica: Annotated[int, Field(ge=0, le=64)] = 0
    """GPUs (and trainer processes) of one pod; 0 trains on the CPU with one process, even where
    there are GPUs."""
    engine: Engine = "fsdp2"
    """`fsdp2` shards weights, gradients and optimizer states over processes, and on a GPU casts
    weights layer by layer; `replicated` keeps everything whole in each process (small models, CPU);
    `deepspeed-zero2` and `deepspeed-zero3` shard by DeepSpeed, which must be installed. All learn
    the same; alone on a CPU, all are `replicated`."""
    precision: Literal["auto", Precision] = "auto"
    """Compute precision: `bf16` (GPUs only) or `fp32`; `auto` is bf16 on GPUs (published) and fp32
    on the CPU. Master weights and optimizer states are always float32."""
    gpu_memory_gib: Positive = 80
    """Memory of one GPU as `prism plan` reckons with it; a trainer asks its GPU."""
    threads_per_process: Positive = 1
    """CPU threads of one trainer process."""
    template: Annotated[PodTemplate, LIVE] = Field(default_factory=dict)
    """Merged into the trainer pods, from the next attempt on: metadata.labels and annotations,
    spec.nodeSelector, tolerations, affinity, serviceAccountName, runtimeClassName, volumes, and
    env, resources and volumeMounts of the container `pytorch`. A stage with workers of its own has
    their template only. Changes nothing about what is learned."""

    @property
    def world_size(self) -> int:
        """Number of trainer processes."""
        return self.replicas * self.processes_per_replica

    @property
    def processes_per_replica(self) -> int:
        """Trainer processes of one pod."""
        return max(1, self.gpus_per_replica)

    @model_validator(mode="after")
    def _precision_is_served(self) -> "Workers":
        if self.precision == "bf16" and self.gpus_per_replica == 0:
            raise CrossFieldError(
                "precision",
                "bf16 is computed on GPUs only and gpusPerReplica is 0",
                "give auto or fp32, or ask for GPUs",
            )
        return self

    def resolved(self) -> "ResolvedWorkers":
        """The same with what `auto` stands for."""
        automatic: Precision = "bf16" if self.gpus_per_replica else "fp32"
        precision = automatic if self.precision == "auto" else self.precision
        return ResolvedWorkers(**{**dict(self), "precision": precision})


class ResolvedWorkers(Workers):
    """Workers as a trainer reads them: nothing is left to choose."""

    precision: Precision
    """Compute precision."""


class Rollout(Contract):
    """Who samples the policy's responses."""

    backend: Literal["vllm", "inprocess"] = "vllm"
    """`vllm`: servers beside the trainer; `inprocess`: the trainer's own batched generator."""
    replicas: Positive = 1
    """Rollout servers (vllm)."""
    gpus_per_replica: Annotated[int, Field(ge=0, le=64)] = 1
    """GPUs of one server (vllm)."""
    weight_update: Literal["auto", "nccl", "ipc", "reload"] = "auto"
    """How new weights reach the servers (vllm)."""
    batch_size: Positive = 256
    """Sequences decoded together by one trainer process, at most (inprocess); fewer where a GPU's
    memory has no room for as many of full length."""
    template: Annotated[PodTemplate, LIVE] = Field(default_factory=dict)
    """Merged into the rollout servers' pods: as workers.template, for the container `vllm`."""


def on_servers(rollout: Rollout | None) -> TypeGuard[Rollout]:
    """Whether responses are sampled from servers beside the trainer."""
    return rollout is not None and rollout.backend == "vllm"


class Queue(Contract):
    """Admission by Kueue."""

    name: LabelName
    """LocalQueue."""
    priority_class: Annotated[LabelName | None, LIVE] = None
    """WorkloadPriorityClass."""


class Evaluation(Contract):
    """Greedy evaluation after each stage."""

    data: DataSource
    """Held-out rows: prompt, images, ground truth and, for caption accuracy, `teacher_caption`."""
    batch_size: Positive = 256
    """Sequences decoded together."""
    max_samples: Positive | None = None
    """Only the first so many rows; absent: all."""
    max_response_tokens: Positive = 8192
    """Longer responses are cut (and then fail the format)."""


class KeepChildren(Contract):
    """Whether pods and jobs of attempts that are over stay for their logs, until the run is over
    and ttlSecondsAfterFinished has passed; those that stay hold no GPUs."""

    succeeded: bool = False
    """Those of the attempt that finished its stage."""
    failed: bool = True
    """Those of the last attempts that failed by themselves; what was stopped, or lost its machines,
    goes at once."""


class FailurePolicy(Contract):
    """When a stage is tried again and when it is given up."""

    max_restarts: Annotated[int, Field(ge=0, le=1000)] = 3
    """New attempts of one stage after its own faults; preemption does not count."""
    max_preemptions: Annotated[int, Field(ge=0, le=10000)] = 100
    """New attempts of one stage after its machines were taken away (preemption, eviction, node
    loss); what the user stops does not count."""
    start_deadline_seconds: Positive = 1800
    """An attempt that has not reported a step by then has failed."""
    stage_deadline_seconds: Positive | None = None
    """A stage whose attempts together run longer is stopped and fails; absent: no limit."""

    @model_validator(mode="after")
    def _deadlines_in_order(self) -> "FailurePolicy":
        stage = self.stage_deadline_seconds
        if stage is not None and stage <= self.start_deadline_seconds:
            raise CrossFieldError(
                "stageDeadlineSeconds",
                f"{stage} is not longer than startDeadlineSeconds ({self.start_deadline_seconds})",
                "a stage has to start before it can end; give more",
            )
        return self
