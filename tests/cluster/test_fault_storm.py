"""A short storm of faults; `make fault-storm` is the long one."""

from pathlib import Path

import pytest

from api_cluster import ApiCluster
from fault_proxy import ALL
from storm import Storm, Weather, table

pytestmark = pytest.mark.storm

CRD = Path(__file__).parents[2] / "crds/prismruns.prism.dev.yaml"


@pytest.mark.parametrize("has_lease", [False, True], ids=["both at work", "one Lease"])
def test_every_run_gets_over_a_short_storm(cluster: ApiCluster, has_lease: bool) -> None:
    cluster.install_crds([CRD])
    weather = Weather(seed=1, runs_per_wave=8, restart_share=1.0, deposed_share=0.1)
    storm = Storm(cluster, weather, has_lease=has_lease)
    with storm.raging():
        storm.wave(0)
    assert not storm.tally.wrong, table(storm.tally)
    assert all(storm.tally.in_flight[str(fault)] for fault in ALL), table(storm.tally)
