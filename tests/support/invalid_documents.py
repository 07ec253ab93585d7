"""A table of invalid PrismRuns: one wrong thing each, and what the user is told about it."""

from dataclasses import dataclass, field, replace
from typing import Any

from run_builders import REMOVED, Changes

SFT, ALIGN, RLVR = "spec.stages.sft", "spec.stages.align", "spec.stages.rlvr"
DISCRIMINATOR, WARMUP = f"{ALIGN}.discriminator", f"{ALIGN}.discriminator.warmup"


@dataclass(frozen=True)
class Invalid:
    """Changes that make a valid document invalid."""

    path: str
    """Of the field at fault, as the error has to name it."""
    problem: str
    """Part of what is said to be wrong."""
    remedy: str
    """Part of what is said to be right."""
    changes: Changes = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.path}: {self.problem}"


def _row(path: str, value: Any, remedy: str, problem: str = "") -> Invalid:
    shown = problem or f"{value!r} is not valid".replace("'", '"')
    return Invalid(path, shown, remedy, {path: value})


def _lora(member: str, value: Any, remedy: str) -> Invalid:
    path, shown = f"{SFT}.lora", f"{value!r} is not valid"
    return Invalid(f"{path}.{member}", shown, remedy, {path: {member: value}})


def _gating(member: str, value: Any, remedy: str) -> Invalid:
    path = f"{ALIGN}.gating"
    shown = f"{value!r} is not valid".replace("'", '"')
    return Invalid(f"{path}.{member}", shown, remedy, {path: {"mode": "rlvr", member: value}})


def _storage(member: str, value: Any, remedy: str, problem: str = "") -> Invalid:
    row = _row(f"spec.storage.{member}", value, remedy, problem)
    return replace(row, changes={"spec.storage": {"uri": "s3://a", member: value}})


def _queue(member: str, value: Any, remedy: str, problem: str = "") -> Invalid:
    row = _row(f"spec.queue.{member}", value, remedy, problem)
    return replace(row, changes={"spec.queue": {"name": "team", member: value}})


def _too_large(path: str) -> Invalid:
    return _row(path, 2**31, "at most 2147483647")


_SUBDOMAIN = "lower-case letters, digits, dashes and dots only, with a letter or digit at both ends"
_DNS = "lower-case letters, digits and dashes only, with a letter or digit at both ends"
_ANY_SCHEME = "hf://ORG/NAME, file://FOLDER, builtin://SET/NAME, s3://BUCKET/PREFIX or pvc://CLAIM/"
_DATA_SCHEME = "file://FILE, builtin://SET/FILE, s3://BUCKET/FILE or pvc://CLAIM/FILE"
_HUGE = "file://" + "a" * 1024
_LONG = '"file://aaa'

_WHOLE_NUMBERS = (
    "ttlSecondsAfterFinished",
    "workers.replicas",
    "workers.gpuMemoryGib",
    "workers.threadsPerProcess",
    "rollout.replicas",
    "rollout.batchSize",
    "evaluation.batchSize",
    "evaluation.maxSamples",
    "evaluation.maxResponseTokens",
    "failurePolicy.startDeadlineSeconds",
    "failurePolicy.stageDeadlineSeconds",
)
_OF_STAGES = (
    "steps",
    "warmupSteps",
    "batchSize",
    "maxPromptTokens",
    "maxResponseTokens",
    "maxTokensPerPack",
    "checkpointEverySteps",
)
_OF_RLVR = (
    "miniBatches",
    "maxGenerationRounds",
    "generationBatchSize",
    "overlong.bufferTokens",
)

FIELDS: tuple[Invalid, ...] = (
    _row("apiVersion", "v1", "give 'prism.dev/v1alpha1'"),
    _row("kind", "Prismrun", "give 'PrismRun'"),
    _row("metadata.name", "My_Run", _DNS),
    _row("metadata.name", "run-", _DNS),
    _row("metadata.name", "run\n", _DNS, '"run\\n" is not valid'),
    _row("metadata.name", "../run", _DNS),
    _row("metadata.name", "a" * 41, "at most 40 characters"),
    _row("metadata.namespace", "Team", _DNS),
    _row("metadata.namespace", "a" * 64, "at most 63 characters", '"aaaaaaa'),
    _row("spec.seed", -1, "at least 0"),
    _row("spec.seed", 2**31, "less than 2147483648"),
    _row("spec.ttlSecondsAfterFinished", -1, "at least 0"),
    _row("spec.systemMessage", "", "at least 1 characters"),
    _row("spec.systemMessage", "a" * 32769, "at most 32768 characters", '"aaaaaaa'),
    # Parts that several stages use.
    _row("spec.model.uri", "ftp://host/model", _ANY_SCHEME),
    _row("spec.model.uri", "file://a model", _ANY_SCHEME),
    _row("spec.model.uri", _HUGE, "at most 1024 characters", _LONG),
    _row(f"{SFT}.data[0].uri", "hf://org/data", _DATA_SCHEME),
    _row(f"{SFT}.data[0].uri", "data.parquet", _DATA_SCHEME),
    _row(f"{RLVR}.data.uri", "file://a;rm", _DATA_SCHEME),
    _row(f"{ALIGN}.data.uri", _HUGE, "at most 1024 characters", _LONG),
    Invalid(
        "spec.storage.uri",
        '"pvc://claim" is not valid',
        "s3://BUCKET/PREFIX or file://FOLDER",
        {"spec.storage.uri": "pvc://claim"},
    ),
    _row("spec.storage.uri", _HUGE, "at most 1024 characters", _LONG),
    Invalid(
        "spec.storage.endpoint",
        '"s3.example.org" is not valid',
        "starts with http:// or https://",
        {"spec.storage": {"uri": "s3://a", "endpoint": "s3.example.org"}},
    ),
    Invalid(
        "spec.storage.addressingStyle",
        '"dns" is not valid',
        "one of 'auto', 'path' or 'virtual'",
        {"spec.storage": {"uri": "s3://a", "addressingStyle": "dns"}},
    ),
    Invalid(
        "spec.storage.retention.keepLast",
        "0 is not valid",
        "at least 1",
        {"spec.storage": {"uri": "s3://a", "retention": {"keepLast": 0}}},
    ),
    Invalid(
        "spec.storage.retention.keepLast",
        "2147483648 is not valid",
        "at most 2147483647",
        {"spec.storage": {"uri": "s3://a", "retention": {"keepLast": 2**31}}},
    ),
    _storage("endpoint", "https://" + "a" * 1024, "at most 1024 characters", '"https://aaa'),
    _storage("region", "a" * 64, "at most 63 characters", '"aaa'),
    _storage("caBundle", "Authorities", _SUBDOMAIN),
    _storage("caBundle", "a" * 254, "at most 253 characters", '"aaa'),
    _storage("credentialsSecret", "s3.", _SUBDOMAIN),
    _storage("credentialsSecret", "a/b", _SUBDOMAIN),
    _storage("credentialsSecret", "a" * 254, "at most 253 characters", '"aaa'),
    _queue("name", "", _SUBDOMAIN),
    _queue("name", "team_a", _SUBDOMAIN),
    _queue("name", "a" * 64, "at most 63 characters", '"aaa'),
    _queue("priorityClass", ".high", _SUBDOMAIN),
    _queue("priorityClass", "a" * 64, "at most 63 characters", '"aaa'),
    _row("spec.images.pullPolicy", "always", "one of 'Always', 'IfNotPresent' or 'Never'"),
    Invalid(
        "spec.images.pullSecrets[1]",
        '"Registry" is not valid',
        _SUBDOMAIN,
        {"spec.images.pullSecrets": ["registry", "Registry"]},
    ),
    Invalid(
        "spec.images.pullSecrets[0]",
        '"aaa',
        "at most 253 characters",
        {"spec.images.pullSecrets": ["a" * 254]},
    ),
    _row("spec.images.pullSecrets", ["a"] * 33, "at most 32 entries", '["a", "a"'),
    _row("spec.workers.replicas", 0, "at least 1"),
    _row("spec.workers.gpusPerReplica", -1, "at least 0"),
    _row("spec.workers.gpusPerReplica", 65, "at most 64"),
    _row(
        "spec.workers.engine",
        "fsdp",
        "one of 'fsdp2', 'replicated', 'deepspeed-zero2' or 'deepspeed-zero3'",
    ),
    _row("spec.workers.gpuMemoryGib", 0, "at least 1"),
    _row("spec.workers.precision", "fp16", "one of 'auto', 'bf16' or 'fp32'"),
    _row("spec.workers.threadsPerProcess", 0, "at least 1"),
    _row("spec.rollout.backend", "sglang", "one of 'vllm' or 'inprocess'"),
    _row("spec.rollout.replicas", 0, "at least 1"),
    _row("spec.rollout.gpusPerReplica", -1, "at least 0"),
    _row("spec.rollout.gpusPerReplica", 65, "at most 64"),
    _row("spec.rollout.weightUpdate", "http", "one of 'auto', 'nccl', 'ipc' or 'reload'"),
    _row("spec.rollout.batchSize", 0, "at least 1"),
    _row("spec.evaluation.batchSize", 0, "at least 1"),
    _row("spec.evaluation.maxSamples", 0, "at least 1"),
    _row("spec.evaluation.maxResponseTokens", 0, "at least 1"),
    _row("spec.failurePolicy.maxRestarts", -1, "at least 0"),
    _row("spec.failurePolicy.maxRestarts", 1001, "at most 1000"),
    _row("spec.failurePolicy.maxPreemptions", -1, "at least 0"),
    _row("spec.failurePolicy.maxPreemptions", 10001, "at most 10000"),
    _row("spec.failurePolicy.startDeadlineSeconds", 0, "at least 1"),
    _row("spec.failurePolicy.stageDeadlineSeconds", 0, "at least 1"),
    # Optimizer and schedule.
    _row(f"{RLVR}.learningRate", 0, "greater than 0"),
    _row(f"{RLVR}.learningRate", 1.5, "at most 1"),
    _row(f"{ALIGN}.weightDecay", -0.1, "at least 0"),
    _row(f"{SFT}.gradClip", -1.0, "at least 0"),
    _row(f"{DISCRIMINATOR}.schedule", "linear", "one of 'constant' or 'cosine'"),
    _row(f"{RLVR}.warmupRatio", -0.1, "at least 0"),
    _row(f"{RLVR}.warmupRatio", 1.1, "at most 1"),
    _row(f"{SFT}.maxPromptTokens", 0, "at least 1"),
    _row(f"{SFT}.gradientCheckpointing", "on", "one of 'auto', 'always' or 'never'"),
    _lora("rank", 0, "at least 1"),
    _lora("rank", 2048, "at most 1024"),
    _lora("alpha", 0, "greater than 0"),
    _lora("dropout", -0.1, "at least 0"),
    _lora("dropout", 1, "less than 1"),
    _lora("targetModules", [], "at least 1 entries"),
    # SFT.
    _row(f"{SFT}.data", [], "at least 1 entries"),
    _row(f"{SFT}.epochs", 0, "at least 1"),
    _row(f"{SFT}.steps", 0, "at least 1"),
    _row(f"{SFT}.learningRate", 0, "greater than 0"),
    _row(f"{SFT}.learningRate", 3, "at most 1"),
    _row(f"{SFT}.weightDecay", -1, "at least 0"),
    _row(f"{SFT}.schedule", "Cosine", "one of 'constant' or 'cosine'"),
    _row(f"{SFT}.warmupRatio", -0.5, "at least 0"),
    _row(f"{SFT}.warmupRatio", 2, "at most 1"),
    _row(f"{SFT}.batchSize", 0, "at least 1"),
    _row(f"{SFT}.maxResponseTokens", 0, "at least 1"),
    _row(f"{SFT}.maxTokensPerPack", 0, "at least 1"),
    _row(f"{SFT}.checkpointEverySteps", 0, "at least 1"),
    # What alignment and RLVR share.
    _row(f"{ALIGN}.rolloutsPerPrompt", 1, "at least 2"),
    _row(f"{ALIGN}.rolloutsPerPrompt", 1025, "at most 1024"),
    _row(f"{RLVR}.temperature", 0, "greater than 0"),
    _row(f"{RLVR}.temperature", 11, "at most 10"),
    _row(f"{RLVR}.klCoef", -0.01, "at least 0"),
    _row(f"{RLVR}.entropyCoef", -0.01, "at least 0"),
    _row(f"{RLVR}.klEstimator", "k4", "one of 'k1', 'k2' or 'k3'"),
    _row(f"{ALIGN}.rolloutCorrection.level", "batch", "one of 'token' or 'sequence'"),
    _row(f"{RLVR}.rolloutCorrection.mode", "cut", "one of 'clamp' or 'mask'"),
    _row(f"{RLVR}.rolloutCorrection.minWeight", -1, "at least 0"),
    _row(f"{RLVR}.rolloutCorrection.maxWeight", 0, "greater than 0"),
    _row(f"{RLVR}.rolloutCorrection.maxWeight", 1e7, "at most 1000000"),
    # Alignment.
    _row(f"{ALIGN}.offloadOptimizer", True, "one of 'auto', 'always' or 'never'", "true is not"),
    _row(f"{DISCRIMINATOR}.gradientCheckpointing", 1, "one of 'auto', 'always' or 'never'"),
    _row(f"{ALIGN}.objective", "gan", "one of 'adversarial' or 'supervised'"),
    _row(f"{ALIGN}.steps", 0, "at least 1"),
    _row(f"{ALIGN}.batchSize", 0, "at least 1"),
    _row(f"{ALIGN}.maxResponseTokens", 0, "at least 1"),
    _row(f"{ALIGN}.maxTokensPerPack", 0, "at least 1"),
    _row(f"{ALIGN}.checkpointEverySteps", 0, "at least 1"),
    _row(f"{ALIGN}.captionWeight", -0.5, "at least 0"),
    _row(f"{ALIGN}.reasoningWeight", -0.5, "at least 0"),
    _row(f"{ALIGN}.formatPenalty", -1.5, "at least 0"),
    _gating("mode", "gated_align", "one of 'acc_gating', 'rlvr', 'rlvr_v2' or 'sign_align'"),
    _gating("alignCoef", -1, "at least 0"),
    _gating("wrongPenalty", -1, "at least 0"),
    _gating("accuracyWeight", -1, "at least 0"),
    _gating("formatWeight", -1, "at least 0"),
    _row(f"{ALIGN}.advantage", "per-component", "one of 'per_component' or 'mixed'"),
    _row(f"{DISCRIMINATOR}.routing", "segments", "one of 'learned' or 'segment'"),
    _row(f"{DISCRIMINATOR}.numExperts", 1, "at least 2"),
    _row(f"{DISCRIMINATOR}.numExperts", 65, "at most 64"),
    _row(f"{DISCRIMINATOR}.expertsPerToken", 0, "at least 1"),
    _row(f"{DISCRIMINATOR}.expertNoiseStd", -0.01, "at least 0"),
    _row(f"{DISCRIMINATOR}.routerInitStd", -0.02, "at least 0"),
    _row(f"{DISCRIMINATOR}.headDropout", -0.1, "at least 0"),
    _row(f"{DISCRIMINATOR}.headDropout", 1, "less than 1"),
    _row(f"{DISCRIMINATOR}.scoreClip", -10, "at least 0"),
    _row(f"{DISCRIMINATOR}.scoreRegCoef", -0.001, "at least 0"),
    _row(f"{DISCRIMINATOR}.fallbackCoef", -0.01, "at least 0"),
    _row(f"{DISCRIMINATOR}.loadBalanceCoef", -0.01, "at least 0"),
    _row(f"{WARMUP}.steps", -1, "at least 0"),
    _row(f"{WARMUP}.batchSize", 0, "at least 1"),
    _row(f"{WARMUP}.learningRate", 0.0, "greater than 0"),
    _row(f"{WARMUP}.learningRate", 10, "at most 1"),
    _row(f"{WARMUP}.schedule", "step", "one of 'constant' or 'cosine'"),
    _row(f"{WARMUP}.warmupRatio", -1, "at least 0"),
    _row(f"{WARMUP}.warmupRatio", 1.01, "at most 1"),
    # RLVR.
    _row(f"{RLVR}.algorithm", "ppo", "one of 'grpo', 'dapo', 'gspo', 'dr-grpo' or 'cispo'"),
    _row(f"{RLVR}.steps", 0, "at least 1"),
    _row(f"{RLVR}.batchSize", 0, "at least 1"),
    _row(f"{RLVR}.maxResponseTokens", 0, "at least 1"),
    _row(f"{RLVR}.maxTokensPerPack", 0, "at least 1"),
    _row(f"{RLVR}.checkpointEverySteps", 0, "at least 1"),
    _row(f"{RLVR}.accuracyWeight", 0, "greater than 0"),
    _row(f"{RLVR}.formatWeight", -0.2, "at least 0"),
    _row(f"{RLVR}.miniBatches", 0, "at least 1"),
    _row(f"{RLVR}.clipLow", 0, "greater than 0"),
    _row(f"{RLVR}.clipLow", 1.1, "at most 1"),
    _row(f"{RLVR}.clipHigh", 0, "greater than 0"),
    _row(f"{RLVR}.dualClip", -3, "at least 0"),
    _row(f"{RLVR}.maxGenerationRounds", 0, "at least 1"),
    _row(f"{RLVR}.generationBatchSize", 0, "at least 1"),
    _row(f"{RLVR}.overlong.bufferTokens", 0, "at least 1"),
    _row(f"{RLVR}.overlong.penaltyFactor", -1, "at least 0"),
    _row(f"{RLVR}.warmupSteps", -1, "at least 0"),
    _row(f"{SFT}.data", [{"uri": "s3://a"}] * 1025, "at most 1024 entries", '[{"uri": "s3://a"}'),
    Invalid(
        f"{SFT}.lora.targetModules",
        '["q_proj", "q_proj"',
        "at most 7 entries",
        {f"{SFT}.lora": {"targetModules": ["q_proj"] * 8}},
    ),
    Invalid(
        f"{SFT}.lora.targetModules[1]",
        '"lm_head" is not valid',
        "one of 'q_proj'",
        {f"{SFT}.lora": {"targetModules": ["q_proj", "lm_head"]}},
    ),
    *(_too_large(f"spec.{path}") for path in _WHOLE_NUMBERS),
    *(_too_large(f"{SFT}.{name}") for name in ("epochs", *_OF_STAGES)),
    *(_too_large(f"{ALIGN}.{name}") for name in _OF_STAGES),
    *(_too_large(f"{RLVR}.{name}") for name in (*_OF_STAGES, *_OF_RLVR)),
    *(_too_large(f"{WARMUP}.{name}") for name in ("steps", "warmupSteps", "batchSize")),
    _too_large(f"{DISCRIMINATOR}.warmupSteps"),
    _too_large(f"{DISCRIMINATOR}.expertsPerToken"),
)
"""Every bound, length, pattern and choice of every field."""


TYPES: tuple[Invalid, ...] = (
    _row("spec.seed", "0", "a whole number"),
    _row("spec.seed", 0.5, "a whole number"),
    _row("spec.seed", True, "a whole number", "true is not valid"),
    _row("spec.model", None, "a mapping of fields (uri)", "null is not valid"),
    _row(f"{SFT}.data[0].uri", None, "a text", "null is not valid"),
    _row(f"{SFT}.steps", 100.0, "a whole number"),
    _row(f"{RLVR}.batchSize", 0.5, "a whole number"),
    _row(f"{SFT}.steps", 1e300, "a whole number", "1e+300 is not valid"),
    _row("spec.workers.template", "small", "a mapping of fields"),
    _row("spec.rollout.template", [], "a mapping of fields"),
    _row("spec.cancel", "yes", "true or false"),
    _row("spec.keepChildren.failed", 1, "true or false"),
    _row(f"{SFT}.learningRate", "1e-5", "a number"),
    _row(f"{SFT}.learningRate", float("nan"), "a finite number", "NaN is not valid"),
    _row(f"{SFT}.learningRate", float("inf"), "a finite number", "Infinity is not valid"),
    _row(f"{SFT}.trainVisionTower", "yes", "true or false"),
    _row(f"{SFT}.trainVisionTower", 1, "true or false"),
    _row("metadata.name", 7, "quote it if it looks like a number"),
    _row("metadata.labels", ["team"], "a mapping of fields"),
    _row("metadata.labels.team", 7, "quote it"),
    _row("metadata.annotations", "none", "a mapping of fields"),
    _row("spec.images.pullSecrets", "secret", "a list"),
    _row("spec.images.trainer", 3, "a text"),
    _row("spec.queue.name", None, "a text", "null is not valid"),
    _row("spec.workers", [8], "a mapping of fields", "[8] is not valid"),
    _row("spec.stages", "sft", "a mapping of fields"),
    _row("spec", None, "a mapping of fields", "null is not valid"),
    _row(f"{SFT}.data", {"uri": "file://a"}, "a list", '{"uri": "file://a"} is not valid'),
    _row(f"{RLVR}.data", ["file://a"], "a mapping of fields (uri)"),
    _row(f"{RLVR}.overlong", True, "a mapping of fields", "true is not valid"),
    _row(f"{RLVR}.dynamicSampling", "on", "true or false"),
)

_UNKNOWN = "unknown field"
UNKNOWN: tuple[Invalid, ...] = (
    _row("specs", {}, "did you mean spec?", _UNKNOWN),
    _row("metadata.nmae", "run", "did you mean name?", _UNKNOWN),
    _row("spec.stage", {}, "did you mean stages?", _UNKNOWN),
    _row("spec.failure_policy", {}, "did you mean failurePolicy?", _UNKNOWN),
    _row("spec.failurePolicy.maxRestart", 3, "did you mean maxRestarts?", _UNKNOWN),
    _row("spec.workers.gpus", 8, "known here: replicas, gpusPerReplica", _UNKNOWN),
    _row("spec.stages.dpo", {}, "known here: sft, align, rlvr", _UNKNOWN),
    _row(f"{SFT}.data[0].url", "file://a", "did you mean uri?", _UNKNOWN),
    _row(f"{SFT}.learning_rate", 1e-5, "did you mean learningRate?", _UNKNOWN),
    _row(f"{SFT}.lr", 1e-5, "did you mean learningRate?", _UNKNOWN),
    _row(f"{SFT}.rolloutsPerPrompt", 8, "known here: learningRate", _UNKNOWN),
    _row(f"{WARMUP}.step", 8, "did you mean steps?", _UNKNOWN),
    _row(f"{DISCRIMINATOR}.num_experts", 8, "did you mean numExperts?", _UNKNOWN),
    _row(f"{RLVR}.rollOutsPerPrompt", 8, "did you mean rolloutsPerPrompt?", _UNKNOWN),
    _row(f"{RLVR}.overlong.buffer", 8, "did you mean bufferTokens?", _UNKNOWN),
    _row(f"{RLVR}.rollout.port", 8, "known here: backend", _UNKNOWN),
)

_MISSING = "is missing"
MISSING: tuple[Invalid, ...] = (
    _row("apiVersion", REMOVED, "add it", _MISSING),
    _row("kind", REMOVED, "add it", _MISSING),
    _row("metadata", REMOVED, "add it", _MISSING),
    _row("metadata.name", REMOVED, "add it", _MISSING),
    _row("spec", REMOVED, "add it", _MISSING),
    _row("spec.model", REMOVED, "add it", _MISSING),
    _row("spec.model.uri", REMOVED, "add it", _MISSING),
    _row("spec.stages", REMOVED, "add it", _MISSING),
    _row(f"{SFT}.data", REMOVED, "add it", _MISSING),
    _row(f"{RLVR}.data", REMOVED, "add it", _MISSING),
)

_BOTH_WARMUPS = {"warmupRatio": 0.1, "warmupSteps": 10}

CONTRADICTIONS: tuple[Invalid, ...] = (
    *(
        Invalid(
            f"{place}.warmupRatio",
            "together with warmupSteps",
            "one of the two",
            {f"{place}.{member}": value for member, value in _BOTH_WARMUPS.items()},
        )
        for place in (SFT, ALIGN, RLVR, DISCRIMINATOR, WARMUP)
    ),
    *(
        Invalid(
            f"{place}.workers.precision",
            "bf16 is computed on GPUs only and gpusPerReplica is 0",
            "give auto or fp32, or ask for GPUs",
            {f"{place}.workers": {"precision": "bf16"}},
        )
        for place in ("spec", SFT, ALIGN)
    ),
    *(
        Invalid(
            f"{place}.rolloutCorrection.minWeight",
            "2.0 is not below maxWeight 2.0",
            "give less",
            {f"{place}.rolloutCorrection": {"minWeight": 2}},
        )
        for place in (ALIGN, RLVR)
    ),
    Invalid(
        "spec.systemMessage",
        "holds <image>, the mark of a row's image",
        "remove it",
        {"spec.systemMessage": "See <image>."},
    ),
    Invalid("spec.stages", "has no stage", "at least one of sft", {"spec.stages": {}}),
    Invalid(
        f"{SFT}.steps",
        "together with epochs",
        "one of the two",
        {f"{SFT}.steps": 10, f"{SFT}.epochs": 1},
    ),
    Invalid(
        "spec.rollout",
        "missing but stage align samples",
        "backend: inprocess",
        {"spec.rollout": REMOVED},
    ),
    Invalid(
        "spec.rollout",
        "missing but stage rlvr samples",
        "backend: vllm",
        {"spec.rollout": REMOVED, ALIGN: REMOVED},
    ),
    Invalid(
        f"{RLVR}.workers.precision",
        "bf16 is computed on GPUs only",
        "ask for GPUs",
        {f"{RLVR}.workers": {"precision": "bf16"}, "spec.workers.gpusPerReplica": 1},
    ),
    Invalid(
        f"{SFT}.batchSize",
        "16 cannot be shared by 3 processes",
        "a multiple of 3",
        {"spec.workers.replicas": 3},
    ),
    Invalid(
        f"{ALIGN}.batchSize",
        "4 cannot be shared by 16 processes",
        "a multiple of 16",
        {f"{ALIGN}.workers": {"replicas": 2, "gpusPerReplica": 8}},
    ),
    Invalid(
        f"{WARMUP}.batchSize",
        "2 cannot be shared by 4 processes",
        "a multiple of 4",
        {"spec.workers.replicas": 4, f"{WARMUP}.batchSize": 2},
    ),
    Invalid(
        f"{RLVR}.batchSize",
        "32 cannot be shared by 4 processes in 16 mini-batches",
        "a multiple of 64",
        {"spec.workers.replicas": 4, f"{RLVR}.miniBatches": 16},
    ),
    Invalid(
        f"{RLVR}.miniBatches",
        "5 does not divide batchSize 32",
        "a divisor of batchSize",
        {f"{RLVR}.miniBatches": 5},
    ),
    Invalid(
        f"{RLVR}.generationBatchSize",
        "no meaning without dynamic sampling",
        "dynamicSampling: true",
        {f"{RLVR}.generationBatchSize": 96},
    ),
    Invalid(
        f"{RLVR}.generationBatchSize",
        "no meaning without dynamic sampling",
        "remove it",
        {
            f"{RLVR}.algorithm": "dapo",
            f"{RLVR}.dynamicSampling": False,
            f"{RLVR}.generationBatchSize": 96,
        },
    ),
    Invalid(
        f"{RLVR}.dualClip",
        "no meaning for cispo, which clips weights, not losses",
        "remove it",
        {f"{RLVR}.algorithm": "cispo", f"{RLVR}.dualClip": 3},
    ),
    Invalid(
        f"{RLVR}.overlong",
        "bufferTokens 4096 exceeds maxResponseTokens",
        "at most 1024",
        {f"{RLVR}.maxResponseTokens": 1024, f"{RLVR}.overlong": {}},
    ),
    Invalid(
        f"{ALIGN}.captionWeight",
        "captionWeight and reasoningWeight are both 0",
        "at least one of them",
        {f"{ALIGN}.captionWeight": 0, f"{ALIGN}.reasoningWeight": 0},
    ),
    Invalid(
        f"{ALIGN}.gating",
        "has no meaning with objective supervised",
        "objective: adversarial",
        {f"{ALIGN}.objective": "supervised", f"{ALIGN}.gating": {"mode": "rlvr"}},
    ),
    Invalid(
        f"{DISCRIMINATOR}.numExperts",
        "5 experts cannot be halved",
        "an even number",
        {f"{DISCRIMINATOR}.numExperts": 5, f"{DISCRIMINATOR}.routing": "segment"},
    ),
    Invalid(
        f"{DISCRIMINATOR}.expertsPerToken",
        "5 of 4 available experts",
        "at most 4",
        {f"{DISCRIMINATOR}.expertsPerToken": 5},
    ),
    Invalid(
        f"{DISCRIMINATOR}.expertsPerToken",
        "3 of 2 available experts",
        "at most 2",
        {f"{DISCRIMINATOR}.expertsPerToken": 3, f"{DISCRIMINATOR}.routing": "segment"},
    ),
    Invalid(
        "spec.failurePolicy.stageDeadlineSeconds",
        "600 is not longer than startDeadlineSeconds (1800)",
        "give more",
        {"spec.failurePolicy.stageDeadlineSeconds": 600},
    ),
)
"""Fields that are right by themselves and wrong together."""

ALL: tuple[Invalid, ...] = FIELDS + TYPES + UNKNOWN + MISSING + CONTRADICTIONS
