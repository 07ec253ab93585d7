"""What makes a document invalid, written short."""

from dataclasses import dataclass, field, replace
from typing import Any

from run_builders import Changes

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


def row(path: str, value: Any, remedy: str, problem: str = "") -> Invalid:
    """A field with a value; unless it is said, the problem is that the value is not valid."""
    shown = problem or f"{value!r} is not valid".replace("'", '"')
    return Invalid(path, shown, remedy, {path: value})


def lora(member: str, value: Any, remedy: str) -> Invalid:
    """A field of SFT's adapters, which are there then."""
    path, shown = f"{SFT}.lora", f"{value!r} is not valid"
    return Invalid(f"{path}.{member}", shown, remedy, {path: {member: value}})


def gating(member: str, value: Any, remedy: str) -> Invalid:
    """A field of gating, which is on then."""
    path = f"{ALIGN}.gating"
    shown = f"{value!r} is not valid".replace("'", '"')
    return Invalid(f"{path}.{member}", shown, remedy, {path: {"mode": "rlvr", member: value}})


def storage(member: str, value: Any, remedy: str, problem: str = "") -> Invalid:
    """A field of the storage, which is in a bucket then."""
    one = row(f"spec.storage.{member}", value, remedy, problem)
    return replace(one, changes={"spec.storage": {"uri": "s3://a", member: value}})


def queue(member: str, value: Any, remedy: str, problem: str = "") -> Invalid:
    """A field of the queue that the run waits in then."""
    one = row(f"spec.queue.{member}", value, remedy, problem)
    return replace(one, changes={"spec.queue": {"name": "team", member: value}})


def too_large(path: str) -> Invalid:
    """A whole number that the API server could not keep."""
    return row(path, 2**31, "at most 2147483647")


SUBDOMAIN = "lower-case letters, digits, dashes and dots only, with a letter or digit at both ends"
DNS = "lower-case letters, digits and dashes only, with a letter or digit at both ends"
ANY_SCHEME = "hf://ORG/NAME, file://FOLDER, builtin://SET/NAME, s3://BUCKET/PREFIX or pvc://CLAIM/"
DATA_SCHEME = "file://FILE, builtin://SET/FILE, s3://BUCKET/FILE or pvc://CLAIM/FILE"
HUGE = "file://" + "a" * 1024
LONG = '"file://aaa'
