"""Merges a user's part of a pod template into ours; pure.

As `kubectl patch` does by default: mappings are merged, lists of named things are merged by name,
all other lists are replaced. A volume or an environment variable of ours is replaced as a whole,
because its parts exclude each other (`emptyDir` and `ephemeral`, `value` and `valueFrom`).
"""

from collections.abc import Mapping
from typing import Any

from prism_operator.manifests.context import Manifest

NAMES: Mapping[str, str] = {
    "containers": "name",
    "env": "name",
    "hostAliases": "ip",
    "imagePullSecrets": "name",
    "initContainers": "name",
    "ports": "containerPort",
    "resourceClaims": "name",
    "topologySpreadConstraints": "topologyKey",
    "volumeDevices": "devicePath",
    "volumeMounts": "mountPath",
    "volumes": "name",
}
"""Lists of named things in a pod template, and the field that names them."""
QUANTITIES = frozenset({"limits", "requests"})
"""Mappings of resource to quantity."""
_WHOLE = frozenset({"env", "volumes"})
"""Lists whose members are replaced, not merged."""


def merged(base: Manifest, fragment: Mapping[str, Any]) -> Manifest:
    """The pod template `base` with everything that `fragment` says.

    The fragment is one in which templates.template_problems finds nothing.
    """
    both: Manifest = _merged(base, _with_textual_quantities(fragment, ""), "")
    return both


def _with_textual_quantities(value: Any, field: str) -> Any:
    """`cpu: 0.5` as Deployments take it, too, is no quantity to the PyTorchJob's schema."""
    if field in QUANTITIES and isinstance(value, Mapping):
        return {key: str(amount) for key, amount in value.items()}
    if isinstance(value, Mapping):
        return {key: _with_textual_quantities(member, str(key)) for key, member in value.items()}
    if isinstance(value, list):
        return [_with_textual_quantities(member, "") for member in value]
    return value


def _merged(base: Any, fragment: Any, field: str) -> Any:
    if isinstance(base, Mapping) and isinstance(fragment, Mapping):
        changed = {
            key: _merged(base[key], value, key) if key in base else value
            for key, value in fragment.items()
        }
        return {**base, **changed}
    if field in NAMES and isinstance(base, list) and isinstance(fragment, list):
        return _merged_by_name(base, fragment, field)
    return fragment


def _merged_by_name(base: list[Any], fragment: list[Any], field: str) -> list[Any]:
    """Ours first, in their order, then what the fragment adds."""
    key = NAMES[field]
    members = {member[key]: member for member in base}
    for member in fragment:
        ours = members.get(member[key])
        is_merged = ours is not None and field not in _WHOLE
        members[member[key]] = _merged(ours, member, "") if is_merged else member
    return list(members.values())
