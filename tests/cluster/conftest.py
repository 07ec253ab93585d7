"""One cluster per session, a namespace per test."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from api_cluster import ApiCluster

CRD = Path(__file__).parents[2] / "crds" / "prismruns.prism.dev.yaml"


@pytest.fixture(scope="session")
def cluster() -> Iterator[ApiCluster]:
    """A running cluster, shared by all tests: use a namespace, and undo faults."""
    with ApiCluster(crds=[CRD]) as cluster:
        yield cluster


@pytest.fixture
def namespace(cluster: ApiCluster) -> Iterator[str]:
    """A namespace of the test's own; what is in it goes after the test."""
    name = cluster.new_namespace()
    yield name
    cluster.delete_namespace(name)
