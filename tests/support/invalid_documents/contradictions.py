"""Fields that are right by themselves and wrong together."""

from invalid_documents.rows import ALIGN, DISCRIMINATOR, RLVR, SFT, WARMUP, Invalid
from run_builders import REMOVED

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
