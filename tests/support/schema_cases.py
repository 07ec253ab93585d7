"""Documents for every constraint of a structural schema: values that it takes and values that it
refuses, each derived from the schema alone."""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from prism_api.names import DNS_LABEL, DNS_SUBDOMAIN
from prism_api.patterns import DATA_URI, HTTP_URL, MODEL_URI, STORE_URI
from run_builders import REMOVED, Changes, Document, a_document

Schema = dict[str, Any]

EVERY_PART: dict[str, Any] = {
    "spec.images": {"pullSecrets": ["registry"]},
    "spec.storage": {"uri": "s3://bucket/prefix", "retention": {}},
    "spec.workers": {},
    "spec.queue": {"name": "team"},
    "spec.failurePolicy": {},
    "spec.keepChildren": {},
    "spec.stages.sft.lora": {"targetModules": ["q_proj"]},
    "spec.stages.sft.workers": {},
    "spec.stages.align.lora": {"targetModules": ["q_proj"]},
    "spec.stages.align.workers": {},
    "spec.stages.align.rollout": {},
    "spec.stages.align.rolloutCorrection": {},
    "spec.stages.align.gating": {"mode": "rlvr"},
    "spec.stages.align.discriminator": {
        "model": {"uri": "hf://org/model"},
        "warmup": {"data": {"uri": "s3://bucket/pairs"}},
    },
    "spec.stages.rlvr.lora": {"targetModules": ["q_proj"]},
    "spec.stages.rlvr.workers": {},
    "spec.stages.rlvr.rollout": {},
    "spec.stages.rlvr.rolloutCorrection": {},
    "spec.stages.rlvr.overlong": {},
    "spec.stages.rlvr.dynamicSampling": True,
}


def a_full_document(changes: Changes | None = None) -> Document:
    """A valid document that holds every part there is, so that any one field can be changed."""
    return a_document({**copy.deepcopy(EVERY_PART), **(changes or {})})


@dataclass(frozen=True)
class Place:
    """A field, or an entry of a list, and what the schema says of it."""

    path: str
    schema: Schema
    required: bool

    @property
    def is_entry(self) -> bool:
        """Of a list."""
        return self.path.endswith("]")


def places(schema: Schema, path: str) -> Iterator[Place]:
    """All fields below an object; of lists the first entry."""
    for name, member in schema.get("properties", {}).items():
        here = f"{path}.{name}"
        yield Place(here, member, name in schema.get("required", ()))
        yield from places(member, here)
        if "items" in member:
            yield Place(f"{here}[0]", member["items"], True)
            yield from places(member["items"], f"{here}[0]")


def rules(schema: Schema, path: str) -> Iterator[tuple[str, str]]:
    """The path that each cross-field rule blames, and what it says."""
    for rule in schema.get("x-kubernetes-validations", ()):
        if schema["type"] == "object" and "oldSelf" not in rule["rule"]:
            yield path + rule.get("fieldPath", ""), rule["message"]
    for name, member in schema.get("properties", {}).items():
        yield from rules(member, f"{path}.{name}")


def refused(place: Place) -> Iterator[tuple[str, Any]]:
    """Every constraint of a field by its keyword, with a value that breaks only this one."""
    schema = place.schema
    yield from (("type", value) for value in _OTHER_TYPES[schema["type"]])
    step = 1 if schema["type"] == "integer" else 1e-3
    for bound, sign in (("minimum", -step), ("maximum", step)):
        if bound in schema:
            at_fault = schema.get(f"exclusive{bound.capitalize()}", False)
            yield bound, schema[bound] + (0 if at_fault else sign)
    if "enum" in schema:
        yield "enum", "none of them"
    if "pattern" in schema:
        yield "pattern", "No such thing!"
        yield "pattern", right(schema)[0] + "\n"
    if "minLength" in schema:
        yield "minLength", ""
    if "maxLength" in schema:
        text = right(schema)[0]
        yield "maxLength", text + "a" * (schema["maxLength"] + 1 - len(text))
    if "minItems" in schema:
        yield "minItems", right(schema["items"])[:0]
    if "maxItems" in schema:
        yield "maxItems", right(schema["items"])[:1] * (schema["maxItems"] + 1)
    if place.required:
        yield "required", None
        if not place.is_entry:
            yield "required", REMOVED
    if "properties" in schema:
        yield "unknown", {"noSuchField": 1}


def right(schema: Schema) -> list[Any]:
    """Values that the schema takes, its bounds among them."""
    if "enum" in schema:
        return list(schema["enum"])
    match schema["type"]:
        case "boolean":
            return [True, False]
        case "integer" | "number":
            return _numbers(schema)
        case "string":
            return _TEXTS[schema.get("pattern", "")]
        case "array":
            return [[entry] for entry in right(schema["items"])]
    if "properties" not in schema:
        return [{}, {"spec": {"nodeSelector": {"pool": "a"}, "priority": None}}]
    needed = {name: right(schema["properties"][name])[0] for name in schema.get("required", ())}
    return [needed]


def changes(schema: Schema) -> st.SearchStrategy[Changes]:
    """One to five fields changed: mostly to values that each by itself is right, often to a bound,
    null or a small number; sometimes to what is refused."""
    every = [place for place in places(schema, "spec") if place.path != "spec.stages"]
    well = [(p.path, v) for p in every for v in right(p.schema)]
    nulls = [(p.path, None) for p in every if not p.required]
    wrong = [(p.path, v) for p in every for _, v in refused(p) if v is not REMOVED]
    also: list[tuple[str, Any]] = [
        (f"{p.path}.noSuchField", v) for p in every if "properties" in p.schema for v in _UNKNOWN
    ]
    whole = [p for p in every if p.schema["type"] == "integer"]
    one = st.one_of(
        st.sampled_from(well),
        st.sampled_from(well),
        st.sampled_from(nulls),
        st.tuples(st.sampled_from([p.path for p in whole]), st.sampled_from(_SMALL)),
        st.tuples(st.sampled_from([p.path for p in whole]), st.integers(1, 64)),
        st.sampled_from(_MEANT_TOGETHER),
        st.sampled_from([*wrong, *also]),
    )
    return st.lists(one, min_size=1, max_size=5).map(_outermost)


def _outermost(pairs: list[tuple[str, Any]]) -> Changes:
    """Without changes within what another one replaces."""
    changed = dict(pairs)
    return {
        path: value
        for path, value in changed.items()
        if not any(path.startswith((f"{other}.", f"{other}[")) for other in changed)
    }


_UNKNOWN: tuple[Any, ...] = (1, None, {})
_SMALL = (0, 1, 2, 3, 4, 8, 16, 2.0, 1e1, -0.0, 2.5, 2**31 - 1, 2**31, 2**53, 2**63, 1e300)
_ALIGN, _RLVR = "spec.stages.align", "spec.stages.rlvr"
_MEANT_TOGETHER: list[tuple[str, Any]] = [
    ("spec.stages.sft.warmupRatio", None),
    ("spec.stages.sft.warmupSteps", 10),
    ("spec.stages.sft", None),
    ("spec.stages", {"sft": None, "align": None, "rlvr": None}),
    ("spec.rollout", None),
    (f"{_ALIGN}.rollout", None),
    (f"{_RLVR}.rollout", None),
    (_ALIGN, None),
    (f"{_ALIGN}.objective", "supervised"),
    (f"{_ALIGN}.gating", None),
    (f"{_ALIGN}.captionWeight", 0),
    (f"{_ALIGN}.reasoningWeight", 0.0),
    (f"{_ALIGN}.discriminator.routing", "segment"),
    (f"{_RLVR}.algorithm", "dapo"),
    (f"{_RLVR}.algorithm", "cispo"),
    (f"{_RLVR}.dualClip", 3),
    (f"{_RLVR}.dualClip", None),
    (f"{_RLVR}.dynamicSampling", True),
    (f"{_RLVR}.overlong", None),
    (f"{_RLVR}.generationBatchSize", 96),
    ("spec.workers.gpusPerReplica", 8),
    ("spec.workers.precision", "bf16"),
    ("spec.systemMessage", "an <image> here"),
    ("spec.systemMessage", "snow \u2603, \U0001f40d, a\x00b"),
    ("spec.failurePolicy.stageDeadlineSeconds", 3600),
]

_OTHER_TYPES: dict[str, tuple[Any, ...]] = {
    "boolean": ("true", 1, 0.0, [], {}),
    "integer": ("1", True, 0.5, 2.0, 1e300, [], {}),
    "number": ("0.5", True, [], {}),
    "string": (7, 0.5, True, [], {}),
    "array": ("text", 7, {}),
    "object": ("text", 7, False, []),
}

_TEXTS: dict[str, list[str]] = {
    "": ["some text", "a"],
    MODEL_URI: ["hf://org/other", "s3://bucket/model", "file://a", "builtin://digits/model"],
    DATA_URI: ["s3://bucket/other", "pvc://claim/data", "file:///a%20b"],
    STORE_URI: ["s3://bucket/other", "file://store"],
    HTTP_URL: ["https://s3.example.org", "http://localhost:7070"],
    DNS_LABEL: ["other"],
    DNS_SUBDOMAIN: ["other", "a.b-c.d"],
}


def _numbers(schema: Schema) -> list[Any]:
    whole = schema["type"] == "integer"
    step = 1 if whole else 1e-9
    low, high = schema["minimum"], schema.get("maximum", 1e6)
    return [
        low + (step if schema.get("exclusiveMinimum") else 0),
        high - (step if schema.get("exclusiveMaximum") else 0),
        low + 2 if whole else (low + min(high, 1.0)) / 2,
    ]
