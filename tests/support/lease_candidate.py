"""One replica of an operator that does nothing but lead.

`python lease_candidate.py URL CA NAMESPACE IDENTITY`, the API's token on stdin. Prints `leads` when
it begins to; SIGTERM ends it. Its Lease holds for 3 s, its holder renews every 0.5 s and gives up
after 2.
"""

import asyncio
import signal
import sys

import kopf

from prism_operator.cluster.client import Client
from prism_operator.cluster.connection import Connection
from prism_operator.cluster.leadership import Elector, LeaseName, lead
from prism_operator.cluster.lease import LeaseTimes

TIMES = LeaseTimes(lease_seconds=3.0, renew_deadline_seconds=2.0, renew_seconds=0.5)


async def _work() -> None:
    sys.stdout.write("leads\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


async def _main(url: str, authority: str, namespace: str, identity: str) -> None:
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    token = sys.stdin.readline().strip()
    client = Client(Connection(kopf.ConnectionInfo(server=url, ca_path=authority, token=token)))
    try:
        await lead(Elector(client, LeaseName(namespace, "prism-operator"), identity, TIMES), _work)
    finally:
        await client.close()


if __name__ == "__main__":
    asyncio.run(_main(*sys.argv[1:]))
