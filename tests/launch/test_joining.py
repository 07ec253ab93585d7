"""Processes that join each other: one that never comes is named within a bounded time."""

from threading import Thread

import pytest
import torch.distributed as dist

from prism_api.errors import RendezvousError
from prism_trainer.distributed import await_peers


def test_processes_that_all_come_wait_for_each_other() -> None:
    store = dist.HashStore()  # type: ignore[attr-defined]
    first = Thread(target=await_peers, args=(store, 0, 3, 20.0))
    second = Thread(target=await_peers, args=(store, 1, 3, 20.0))
    first.start()
    second.start()
    assert first.is_alive()

    await_peers(store, 2, 3, 20.0)

    first.join(5)
    second.join(5)
    assert not first.is_alive()
    assert not second.is_alive()


def test_one_that_never_comes_is_named() -> None:
    server = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # type: ignore[attr-defined]
    server.set("prism-joined-1", "")

    with pytest.raises(RendezvousError, match=r"^process 2 of 3 has not joined within 0\.3 s"):
        await_peers(server, 0, 3, 0.3)
