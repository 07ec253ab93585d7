"""What the platform says is passed on with what to do."""

import pytest

from prism_operator.planning.remedies import with_remedy


@pytest.mark.parametrize(
    ("said", "remedy"),
    [
        ('p: ImagePullBackOff: Back-off pulling image "a:1"', "set spec.images"),
        ("p: ErrImageNeverPull: not present with pull policy of Never", "set spec.images"),
        ('p: CreateContainerConfigError: secret "s" not found', "create it"),
        ('p: FailedMount: MountVolume.SetUp failed: configmap "c" not found', "create it"),
        ('p: Unschedulable: persistentvolumeclaim "data" not found', "create it"),
        ("p: Unschedulable: 0/8 nodes are available: 8 Insufficient cpu.", "free or add nodes"),
        ('j: FailedCreatePod: pods "p" is forbidden: exceeded quota: q', "ResourceQuota"),
    ],
)
def test_a_known_hindrance_comes_with_its_remedy(said: str, remedy: str) -> None:
    told = with_remedy(said)

    assert told.startswith(said.rstrip("."))
    assert remedy in told.removeprefix(said.rstrip("."))


@pytest.mark.parametrize("said", ["", "p: something else: entirely"])
def test_an_unknown_one_is_passed_on_as_it_is(said: str) -> None:
    assert with_remedy(said) == said
