"""Values of other types, fields that there are not, and fields that have to be there."""

from invalid_documents.rows import DISCRIMINATOR, RLVR, SFT, WARMUP, Invalid, row
from run_builders import REMOVED

TYPES: tuple[Invalid, ...] = (
    row("spec.seed", "0", "a whole number"),
    row("spec.seed", 0.5, "a whole number"),
    row("spec.seed", True, "a whole number", "true is not valid"),
    row("spec.model", None, "a mapping of fields (uri)", "null is not valid"),
    row(f"{SFT}.data[0].uri", None, "a text", "null is not valid"),
    row(f"{SFT}.steps", 100.0, "a whole number"),
    row(f"{RLVR}.batchSize", 0.5, "a whole number"),
    row(f"{SFT}.steps", 1e300, "a whole number", "1e+300 is not valid"),
    row("spec.workers.template", "small", "a mapping of fields"),
    row("spec.rollout.template", [], "a mapping of fields"),
    row("spec.cancel", "yes", "true or false"),
    row("spec.keepChildren.failed", 1, "true or false"),
    row(f"{SFT}.learningRate", "1e-5", "a number"),
    row(f"{SFT}.learningRate", float("nan"), "a finite number", "NaN is not valid"),
    row(f"{SFT}.learningRate", float("inf"), "a finite number", "Infinity is not valid"),
    row(f"{SFT}.trainVisionTower", "yes", "true or false"),
    row(f"{SFT}.trainVisionTower", 1, "true or false"),
    row("metadata.name", 7, "quote it if it looks like a number"),
    row("metadata.labels", ["team"], "a mapping of fields"),
    row("metadata.labels.team", 7, "quote it"),
    row("metadata.annotations", "none", "a mapping of fields"),
    row("spec.images.pullSecrets", "secret", "a list"),
    row("spec.images.trainer", 3, "a text"),
    row("spec.queue.name", None, "a text", "null is not valid"),
    row("spec.workers", [8], "a mapping of fields", "[8] is not valid"),
    row("spec.stages", "sft", "a mapping of fields"),
    row("spec", None, "a mapping of fields", "null is not valid"),
    row(f"{SFT}.data", {"uri": "file://a"}, "a list", '{"uri": "file://a"} is not valid'),
    row(f"{RLVR}.data", ["file://a"], "a mapping of fields (uri)"),
    row(f"{RLVR}.overlong", True, "a mapping of fields", "true is not valid"),
    row(f"{RLVR}.dynamicSampling", "on", "true or false"),
)

_UNKNOWN = "unknown field"
UNKNOWN: tuple[Invalid, ...] = (
    row("specs", {}, "did you mean spec?", _UNKNOWN),
    row("metadata.nmae", "run", "did you mean name?", _UNKNOWN),
    row("spec.stage", {}, "did you mean stages?", _UNKNOWN),
    row("spec.failure_policy", {}, "did you mean failurePolicy?", _UNKNOWN),
    row("spec.failurePolicy.maxRestart", 3, "did you mean maxRestarts?", _UNKNOWN),
    row("spec.workers.gpus", 8, "known here: replicas, gpusPerReplica", _UNKNOWN),
    row("spec.stages.dpo", {}, "known here: sft, align, rlvr", _UNKNOWN),
    row(f"{SFT}.data[0].url", "file://a", "did you mean uri?", _UNKNOWN),
    row(f"{SFT}.learning_rate", 1e-5, "did you mean learningRate?", _UNKNOWN),
    row(f"{SFT}.lr", 1e-5, "did you mean learningRate?", _UNKNOWN),
    row(f"{SFT}.rolloutsPerPrompt", 8, "known here: learningRate", _UNKNOWN),
    row(f"{WARMUP}.step", 8, "did you mean steps?", _UNKNOWN),
    row(f"{DISCRIMINATOR}.num_experts", 8, "did you mean numExperts?", _UNKNOWN),
    row(f"{RLVR}.rollOutsPerPrompt", 8, "did you mean rolloutsPerPrompt?", _UNKNOWN),
    row(f"{RLVR}.overlong.buffer", 8, "did you mean bufferTokens?", _UNKNOWN),
    row(f"{RLVR}.rollout.port", 8, "known here: backend", _UNKNOWN),
)

_MISSING = "is missing"
MISSING: tuple[Invalid, ...] = (
    row("apiVersion", REMOVED, "add it", _MISSING),
    row("kind", REMOVED, "add it", _MISSING),
    row("metadata", REMOVED, "add it", _MISSING),
    row("metadata.name", REMOVED, "add it", _MISSING),
    row("spec", REMOVED, "add it", _MISSING),
    row("spec.model", REMOVED, "add it", _MISSING),
    row("spec.model.uri", REMOVED, "add it", _MISSING),
    row("spec.stages", REMOVED, "add it", _MISSING),
    row(f"{SFT}.data", REMOVED, "add it", _MISSING),
    row(f"{RLVR}.data", REMOVED, "add it", _MISSING),
)
