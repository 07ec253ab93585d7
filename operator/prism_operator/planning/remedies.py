"""What to do about what keeps pods from starting; pure."""

_REMEDIES = (
    (("ImagePull", "ErrImage", "InvalidImage"), "set spec.images, or images.pullSecrets"),
    (("quota",), "raise the namespace's ResourceQuota, or ask for less"),
    (("secret", "configmap", "persistentvolumeclaim"), "create it in the run's namespace"),
    (("Unschedulable",), "free or add nodes that have what its pods ask for"),
)
"""Words of the platform, any of which tells the cause, and what to do; the first that fits."""


def with_remedy(hindrance: str) -> str:
    """What the platform says, and what to do if that is known."""
    found = (remedy for words, remedy in _REMEDIES if any(word in hindrance for word in words))
    remedy = next(found, "")
    return f"{hindrance.rstrip('. ')}; {remedy}" if remedy and hindrance else hindrance
