"""What may not stand in a user's part of a pod template, because no run works with it; pure.

Everything else is the user's, and checked by the API server when pods are made.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from prism_api.errors import FieldProblem
from prism_api.names import GROUP
from prism_api.reporting import TRAINER_CONTAINER
from prism_api.rollout import ROLLOUT_CONTAINER
from prism_api.run import PrismRun
from prism_operator.manifests.layout import (
    CA_VOLUME,
    CLAIM_VOLUME,
    CONFIG_VOLUME,
    GPU_RESOURCE,
    OWN_FOLDER,
    TOKEN_VOLUME,
)
from prism_operator.manifests.merge import NAMES

_POD_FIELDS: Mapping[str, str] = {
    "activeDeadlineSeconds": "set failurePolicy.stageDeadlineSeconds",
    "enableServiceLinks": "remove it: a Service called vllm would keep servers from starting",
    "restartPolicy": "remove it: the operator starts new attempts itself",
}
"""Fields of `spec` that are ours, and what to do instead."""
_CONTAINER_FIELDS: Mapping[str, str] = {
    "args": "remove it, or add a container of your own",
    "command": "remove it, or add a container of your own",
    "image": "set spec.images",
    "imagePullPolicy": "set spec.images.pullPolicy",
    "restartPolicy": "remove it: the operator starts new attempts itself",
    "terminationMessagePath": "remove it: a stage's result is reported there",
    "terminationMessagePolicy": "remove it: a stage's result is reported there",
}
"""Fields of our container that are ours, and what to do instead."""
_LABEL_DOMAINS = (GROUP, "training.kubeflow.org")
_OWN_VARIABLES = "PRISM_"
_OWN_VOLUMES = frozenset({CONFIG_VOLUME, TOKEN_VOLUME, CA_VOLUME})

Problems = Iterator[FieldProblem]


def run_template_problems(run: PrismRun) -> list[FieldProblem]:
    """Those of every template of a run, at their places in its document."""
    stages = run.spec.stages
    owners = [("spec", run.spec)]
    owners += [(f"spec.stages.{kind}", getattr(stages, kind)) for kind in run.stages]
    problems: list[FieldProblem] = []
    for path, owner in owners:
        for part, container in (("workers", TRAINER_CONTAINER), ("rollout", ROLLOUT_CONTAINER)):
            template = getattr(getattr(owner, part, None), "template", None)
            if template:
                problems += template_problems(template, f"{path}.{part}.template", container)
    return problems


def template_problems(fragment: Any, path: str, container: str) -> list[FieldProblem]:
    """Everything that keeps `fragment`, which stands at `path`, from being merged into pods whose
    container of ours is `container`. For any JSON; an empty list: merge.merged can take it."""
    shape = list(_shape_problems(fragment, path, ""))
    if not isinstance(fragment, Mapping):
        return [_not_a(path, "mapping")]
    return shape or [
        *_unknown(fragment, path, ("metadata", "spec")),
        *_metadata_problems(fragment.get("metadata", {}), f"{path}.metadata"),
        *_spec_problems(fragment.get("spec", {}), f"{path}.spec", container),
    ]


def _shape_problems(value: Any, path: str, field: str) -> Problems:
    """Of what cannot be merged at all: nulls, directives, lists whose members have no names."""
    if value is None:
        yield FieldProblem(path, "is null", "leave it out")
    if field in NAMES:
        yield from _name_problems(value, path, NAMES[field])
    elif isinstance(value, Mapping):
        yield from _mapping_problems(value, path)
    elif isinstance(value, list):
        for number, member in enumerate(value):
            yield from _shape_problems(member, f"{path}[{number}]", "")


def _mapping_problems(value: Mapping[Any, Any], path: str) -> Problems:
    for key, member in value.items():
        if str(key).startswith("$"):
            yield FieldProblem(f"{path}.{key}", "is a patch directive", "leave it out")
        yield from _shape_problems(member, f"{path}.{key}", str(key))


def _name_problems(value: Any, path: str, key: str) -> Problems:
    """Of a list of named things, and of what is in them."""
    if not isinstance(value, list):
        yield _not_a(path, "list")
        return
    seen = set()
    for number, member in enumerate(value):
        where = f"{path}[{number}]"
        name = member.get(key) if isinstance(member, Mapping) else None
        if not isinstance(name, str | int):
            yield FieldProblem(f"{where}.{key}", "is missing", "things in this list go by it")
        elif name in seen:
            yield FieldProblem(f"{where}.{key}", f"{name} is there twice", "give it once")
        else:
            seen.add(name)
            yield from _mapping_problems(member, where)


def _metadata_problems(metadata: Any, path: str) -> Problems:
    if not isinstance(metadata, Mapping):
        yield _not_a(path, "mapping")
        return
    yield from _unknown(metadata, path, ("labels", "annotations"))
    for field in ("labels", "annotations"):
        texts = metadata.get(field, {})
        if not isinstance(texts, Mapping):
            yield _not_a(f"{path}.{field}", "mapping")
            continue
        for key, text in texts.items():
            where = f"{path}.{field}[{key}]"
            if (
                str(key).partition("/")[0] in _LABEL_DOMAINS
                or key == "app.kubernetes.io/managed-by"
            ):
                yield FieldProblem(where, "is the operator's", "choose another key")
            if not isinstance(text, str):
                yield _not_a(where, "text")


def _spec_problems(spec: Any, path: str, container: str) -> Problems:
    if not isinstance(spec, Mapping):
        yield _not_a(path, "mapping")
        return
    yield from _taken(spec, path, _POD_FIELDS)
    for number, volume in enumerate(spec.get("volumes", [])):
        name = str(volume["name"])
        if name in _OWN_VOLUMES or name.startswith(f"{CLAIM_VOLUME}-"):
            where = f"{path}.volumes[{number}].name"
            yield FieldProblem(where, f"{name} is a volume of the operator's", "choose another")
    for number, other in enumerate(spec.get("initContainers", [])):
        if other["name"] == container:
            where = f"{path}.initContainers[{number}].name"
            yield FieldProblem(where, f"{container} is the operator's container", "choose another")
    for number, own in enumerate(spec.get("containers", [])):
        if own["name"] == container:
            yield from _container_problems(own, f"{path}.containers[{number}]")


def _container_problems(own: Mapping[str, Any], path: str) -> Problems:
    """Of what a template says of our container."""
    yield from _taken(own, path, _CONTAINER_FIELDS)
    yield from _owned(
        own, path, "env", "name", lambda name: name.startswith(_OWN_VARIABLES), "choose another"
    )
    yield from _owned(own, path, "volumeMounts", "mountPath", _is_own_folder, "mount it elsewhere")
    resources = own.get("resources", {})
    if not isinstance(resources, Mapping):
        yield _not_a(f"{path}.resources", "mapping")
        return
    for field in ("limits", "requests"):
        amounts = resources.get(field, {})
        if not isinstance(amounts, Mapping):
            yield _not_a(f"{path}.resources.{field}", "mapping")
        elif GPU_RESOURCE in amounts:
            where = f"{path}.resources.{field}[{GPU_RESOURCE}]"
            yield FieldProblem(where, "is the operator's", "set gpusPerReplica")


def _is_own_folder(folder: str) -> bool:
    return f"{folder.rstrip('/')}/".startswith(f"{OWN_FOLDER}/")


def _owned(
    own: Mapping[str, Any],
    path: str,
    field: str,
    key: str,
    is_ours: Callable[[str], bool],
    remedy: str,
) -> Problems:
    for number, member in enumerate(own.get(field, [])):
        name = str(member[key])
        if is_ours(name):
            yield FieldProblem(
                f"{path}.{field}[{number}].{key}", f"{name} is the operator's", remedy
            )


def _taken(owner: Mapping[str, Any], path: str, ours: Mapping[str, str]) -> Problems:
    for field, remedy in ours.items():
        if field in owner:
            yield FieldProblem(f"{path}.{field}", "is the operator's", remedy)


def _unknown(owner: Mapping[str, Any], path: str, known: tuple[str, ...]) -> Problems:
    for field in owner:
        if field not in known:
            yield FieldProblem(f"{path}.{field}", "unknown field", f"known are {', '.join(known)}")


def _not_a(path: str, kind: str) -> FieldProblem:
    return FieldProblem(path, f"is not a {kind}", f"give a {kind}")
