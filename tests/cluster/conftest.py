"""One cluster per session, a namespace per test."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from api_cluster import ApiCluster
from operated_runs import House, a_house
from played import Part, Script, Server, Trainer
from quick_runs import QUICK, STAYS, Open

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


@pytest.fixture
def house(cluster: ApiCluster, namespace: str) -> Open:
    """Opens the namespace with parts for attempts: by default all of them quick."""

    def open_with(
        trainer: Callable[[Trainer], Part] = lambda who: QUICK,
        server: Callable[[Server], Part] = lambda who: STAYS,
    ) -> AbstractContextManager[House]:
        return a_house(cluster, namespace, Script(trainer, server))

    return open_with
