"""Whether a child is still what it should be; pure.

What the API server adds (defaults, its own metadata, what other controllers write) is no drift.
What we desire and do not find is.
"""

import re
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from prism_operator.manifests.context import Manifest
from prism_operator.manifests.merge import NAMES, QUANTITIES

_NAMES: Mapping[str, tuple[str, ...]] = {
    **{field: (key,) for field, key in NAMES.items()},
    "ownerReferences": ("uid",),
    "ports": ("containerPort", "port"),
}
_OTHERS_ADD = frozenset({"tolerations"})
"""Lists without names to which others add: Kueue its flavor's, to templates that it admits."""
_ZERO_COUNTS = frozenset(
    {
        "allowPrivilegeEscalation",
        "automountServiceAccountToken",
        "emptyDir",
        "enableServiceLinks",
        "namespaceSelector",
        "podSelector",
        "replicas",
        "revisionHistoryLimit",
        "runAsUser",
        "terminationGracePeriodSeconds",
    }
)
"""Fields whose absence means something else than zero, false or empty; of all others the API server
drops a zero, so that one that is missing is no drift."""

_SUFFIXES = {
    **{"n": Fraction(1, 10**9), "u": Fraction(1, 10**6), "m": Fraction(1, 1000), "": Fraction(1)},
    **{"k": Fraction(10**3), "M": Fraction(10**6), "G": Fraction(10**9)},
    **{"T": Fraction(10**12), "P": Fraction(10**15), "E": Fraction(10**18)},
    **{f"{unit}i": Fraction(1024**power) for power, unit in enumerate("KMGTPE", 1)},
}
_QUANTITY = re.compile(r"([+-]?[0-9.]+(?:[eE][+-]?[0-9]{1,3})?)([a-zA-Z]{0,2})")


def differs(desired: Manifest, actual: Manifest) -> bool:
    """Whether any value that we desire is missing, or another one, in what the API server has."""
    return _differs(enforced(desired), actual, "")


def enforced(desired: Manifest) -> Manifest:
    """What is written again when it has drifted.

    Not whether a queued job is suspended, which is its queue's to say once the job is there; nor
    the data of an immutable object, which nobody can edit, and of which a live change of the run
    makes another one for the next attempt only.
    """
    if desired.get("immutable"):
        return {key: value for key, value in desired.items() if key != "data"}
    policy = desired.get("spec", {}).get("runPolicy", {})
    kept = {key: value for key, value in policy.items() if key != "suspend"}
    return desired | {"spec": desired["spec"] | {"runPolicy": kept}} if kept != policy else desired


def _differs(desired: Any, actual: Any, field: str) -> bool:
    if isinstance(desired, Mapping) and isinstance(actual, Mapping):
        return any(_member_differs(key, value, actual, field) for key, value in desired.items())
    if isinstance(desired, list) and isinstance(actual, list):
        return _lists_differ(desired, actual, field)
    return type(desired) is not type(actual) or bool(desired != actual)


def _member_differs(key: str, value: Any, actual: Mapping[str, Any], field: str) -> bool:
    if key not in actual:
        return bool(value) or key in _ZERO_COUNTS
    if field in QUANTITIES or key == "sizeLimit":
        return bool(_quantity(value) != _quantity(actual[key]))
    return _differs(value, actual[key], key)


def _lists_differ(desired: list[Any], actual: list[Any], field: str) -> bool:
    if field in _OTHERS_ADD:
        return any(all(_differs(one, other, "") for other in actual) for one in desired)
    key = next((name for name in _NAMES.get(field, ()) if _all_have(desired, name)), None)
    if key is not None and _all_have(actual, key):
        found = {member[key]: member for member in actual}
        return any(
            member[key] not in found or _differs(member, found[member[key]], "")
            for member in desired
        )
    return len(desired) != len(actual) or any(
        _differs(one, other, "") for one, other in zip(desired, actual, strict=True)
    )


def _all_have(members: list[Any], key: str) -> bool:
    return all(isinstance(member, Mapping) and key in member for member in members)


def _quantity(value: Any) -> Any:
    """The number that a Kubernetes quantity is, for the API server writes 1000m as 1; anything else
    as it is."""
    match = _QUANTITY.fullmatch(str(value))
    if match is None or match[2] not in _SUFFIXES:
        return value
    try:
        return Fraction(match[1]) * _SUFFIXES[match[2]]
    except ValueError:
        return value
