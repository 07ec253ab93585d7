"""Runs as the operator knows them: documents of the API, read into what decisions are made of."""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from prism_api.base import parse
from prism_api.cluster_rules import cluster_problems
from prism_api.errors import FieldProblem, SpecError
from prism_api.names import API_VERSION, KIND, StageKind
from prism_api.resources import Images
from prism_api.run import PrismRun
from prism_api.status import PrismRunStatus
from prism_operator.cluster.client import Document
from prism_operator.manifests.children import Household
from prism_operator.manifests.context import ChildContext
from prism_operator.manifests.templates import run_template_problems
from prism_operator.planning.plan import Plan, plan
from prism_operator.planning.sightings import Wanted

_UNREADABLE = (
    "its status cannot be read; remove what is wrong, or the whole status: what the run has "
    "done is found again in the store"
)
_TOLD = ("conditions", "message", "observedGeneration")
"""Members of a status that only tell."""


@dataclass(frozen=True)
class ReadRun:
    """A valid spec and all that follows from it alone."""

    run: PrismRun
    household: Household

    @property
    def plan(self) -> Plan:
        """Its steps."""
        return self.household.plan

    @property
    def wanted(self) -> Wanted:
        """What its user asks for beside the plan."""
        return self.household.wanted


@dataclass
class Memory:
    """What an operator remembers of a run beside what is stored of it: one for all its records."""

    confirmed_at: float = -math.inf
    """The newest record is at least as new as what was stored then, by the cache's clock: when the
    last request left that the API server answered with the run; a watch alone may be behind."""
    trouble: str = ""
    """Why what was decided could not be done."""
    failures: int = 0
    """Times in a row that the API server could not be asked."""
    has_token: bool = False
    """Whether its Secret was created, or found to be there."""
    checked: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Content with which a child was last found as it should be, and for which attempt, by its
    UID."""
    gone: set[str] = field(default_factory=set)
    """UIDs of PyTorchJobs of which the API server has said that they are not there any more."""


@dataclass
class RunRecord:
    """A run, in the newest state that is known of it."""

    uid: str
    namespace: str
    name: str
    version: int
    generation: int
    is_deleting: bool
    status: PrismRunStatus
    stored: Document
    """The status as it is stored."""
    read: ReadRun | None
    refusal: str
    """Why the spec cannot be carried out; with `read`, why no attempt can be made by it."""
    is_readable: bool = True
    """Whether what is stored of the run is known, so that it can be built upon."""
    memory: Memory = field(default_factory=Memory)
    residue: Document = field(default_factory=dict)
    """What the API server left out of the status that was written last, as a patch."""

    @property
    def place(self) -> tuple[str, str, str, str, int | None]:
        """Namespace, name, UID, and the stage and attempt that it is at, for logs."""
        kind = self.status.current_stage
        stage = self.status.stages.get(kind) if kind else None
        number = stage.attempt.number if stage and stage.attempt else None
        return self.namespace, self.name, self.uid, kind or "", number

    @property
    def can_go_on(self) -> bool:
        """Whether its spec can be carried out: what cannot start can still be made to end."""
        if self.read is None:
            return False
        return not self.refusal or self.read.wanted.suspend or self.read.wanted.cancel


class RunReader:
    """Reads documents into records; a spec is read once per generation."""

    def __init__(self, images: Images) -> None:
        self._images = images

    def read(self, document: Document, before: RunRecord | None) -> RunRecord:
        """The record of a document; what was remembered of the same run stays."""
        meta = document["metadata"]
        generation = meta.get("generation", 0)
        read, refusal = None, ""
        if before is not None and before.generation == generation and before.is_readable:
            read, refusal = before.read, before.refusal
        else:
            try:
                read, refusal = self._read_spec(document)
            except SpecError as error:
                refusal = str(error)
        stored, is_readable = document.get("status") or {}, True
        try:
            status = parse(PrismRunStatus, stored)
        except SpecError as error:
            status, is_readable = _told_by(stored), False
            read, refusal = None, f"{_UNREADABLE}: {error}"
        return RunRecord(
            uid=meta["uid"],
            namespace=meta["namespace"],
            name=meta["name"],
            version=int(meta["resourceVersion"]),
            generation=generation,
            is_deleting="deletionTimestamp" in meta,
            status=status,
            stored=stored,
            read=read,
            refusal=refusal,
            is_readable=is_readable,
            memory=before.memory if before is not None else Memory(),
        )

    def _read_spec(self, document: Document) -> tuple[ReadRun, str]:
        """A spec, and why nothing can be made by it although it can be read."""
        meta = document["metadata"]
        plain: Document = {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "metadata": {"name": meta["name"], "namespace": meta["namespace"]},
            "spec": document.get("spec") or {},
        }
        run = parse(PrismRun, plain)
        problems = cluster_problems(run)
        if problems or run.spec.storage is None:
            raise SpecError(problems)
        steps = plan(run, meta["uid"], run.spec.storage.uri)
        images = _with_defaults(run.spec.images, self._images)
        context = ChildContext(steps.run, images, run.spec.storage)
        household = Household(
            plan=steps,
            context=context,
            keep=run.spec.keep_children,
            ttl_seconds=run.spec.ttl_seconds_after_finished,
            wanted=Wanted(run.spec.suspend, run.spec.cancel, _made_of(plain["spec"])),
        )
        hindrances = [*_missing_images(steps, images), *run_template_problems(run)]
        return ReadRun(run, household), str(SpecError(hindrances)) if hindrances else ""


def _missing_images(steps: Plan, images: Images) -> list[FieldProblem]:
    """Neither the run nor the operator's settings name them."""
    is_served = any(steps.servers_of(step.kind) for step in steps.train_steps)
    used = {"trainer": images.trainer} | ({"rollout": images.rollout} if is_served else {})
    return [
        FieldProblem(
            f"spec.images.{name}",
            "is missing, and the operator has no default",
            f"give it, or start the operator with PRISM_{name.upper()}_IMAGE",
        )
        for name, image in used.items()
        if not image
    ]


def _told_by(stored: Document) -> PrismRunStatus:
    """Of a status that cannot be read what people were told last, if that can be."""
    try:
        return parse(PrismRunStatus, {key: stored[key] for key in _TOLD if key in stored})
    except SpecError:
        return PrismRunStatus()


def _with_defaults(images: Images, defaults: Images) -> Images:
    return images.model_copy(
        update={
            "trainer": images.trainer or defaults.trainer,
            "rollout": images.rollout or defaults.rollout,
        }
    )


_MAKES_NOTHING = (
    "suspend", "cancel", "failurePolicy", "keepChildren", "ttlSecondsAfterFinished",
)  # fmt: skip
"""What can be changed without anything that an attempt is made of."""


def _made_of(spec: Document) -> str:
    """Digest of what its user may change before an attempt starts, or while it cannot.

    Of what the user wrote, not of what it means: another version of the operator must not take a
    run that has failed for good for a mended one.
    """
    written = {key: value for key, value in spec.items() if key not in _MAKES_NOTHING}
    text = json.dumps(written, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def document_to_store(record: RunRecord, status: PrismRunStatus) -> Document:
    """A run's status as it is to be. What cannot be read stays: only its user may remove it."""
    wanted = status_document(status)
    if record.is_readable:
        return wanted
    return {**record.stored, **{key: wanted[key] for key in _TOLD if key in wanted}}


def status_document(status: PrismRunStatus) -> Document:
    """As it is stored; what is absent is left out."""
    return status.model_dump(mode="json", by_alias=True, exclude_none=True)


def merge_patch(before: Mapping[str, Any], after: Mapping[str, Any]) -> Document:
    """The RFC 7386 patch that makes `after` of `before`; empty if they are equal."""
    patch: Document = {key: None for key in before if key not in after}
    for key, value in after.items():
        old = before.get(key)
        if isinstance(old, dict) and isinstance(value, dict):
            if inner := merge_patch(old, value):
                patch[key] = inner
        elif key not in before or old != value:
            patch[key] = value
    return patch


def current_kinds(record: RunRecord) -> tuple[StageKind, ...]:
    """Stages of a run whose newest attempt is not over."""
    stages = record.status.stages.items()
    return tuple(k for k, s in stages if s.attempt is not None and s.attempt.outcome is None)
