"""Asks rank 0 of everything that trains for its progress."""

import asyncio
import time
from collections.abc import Callable

import aiohttp

from prism_api.base import parse_json
from prism_api.errors import SpecError
from prism_api.reporting import PROGRESS_PATH, TRAINER_PORT, ProgressReport

_ANSWER_SECONDS = 5.0
_AT_ONCE = 32
_SMALLEST_PAUSE_SECONDS = 0.02


class Poller:
    """Every run that is watched is asked once in `poll_seconds`; nobody waits for an answer."""

    def __init__(
        self, poll_seconds: float, on_news: Callable[[str], None], port: int = TRAINER_PORT
    ) -> None:
        self._poll_seconds, self._on_news, self._port = poll_seconds, on_news, port
        self._targets: dict[str, str] = {}
        self._due: dict[str, float] = {}
        self._newest: dict[str, ProgressReport] = {}

    def watch(self, run_uid: str, address: str) -> None:
        """From now on, at this address."""
        if self._targets.get(run_uid) != address:
            self._targets[run_uid] = address
            self._due[run_uid] = 0.0

    def forget(self, run_uid: str) -> None:
        """Nothing of this run trains now."""
        self._targets.pop(run_uid, None)
        self._due.pop(run_uid, None)
        self._newest.pop(run_uid, None)

    def newest(self, run_uid: str) -> ProgressReport | None:
        """What was said last."""
        return self._newest.get(run_uid)

    async def run(self) -> None:
        """Until cancelled."""
        timeout = aiohttp.ClientTimeout(total=_ANSWER_SECONDS)
        limit = asyncio.Semaphore(_AT_ONCE)
        async with (
            aiohttp.ClientSession(timeout=timeout, trust_env=False) as session,
            asyncio.TaskGroup() as tasks,
        ):
            while True:
                now = time.monotonic()
                for run_uid in [uid for uid, due in self._due.items() if due <= now]:
                    self._due[run_uid] = now + self._poll_seconds
                    tasks.create_task(self._ask(session, limit, run_uid))
                await asyncio.sleep(max(_SMALLEST_PAUSE_SECONDS, self._poll_seconds / 20))

    async def _ask(
        self, session: aiohttp.ClientSession, limit: asyncio.Semaphore, run_uid: str
    ) -> None:
        address = self._targets.get(run_uid)
        if address is None:
            return
        host = f"[{address}]" if ":" in address else address
        url = f"http://{host}:{self._port}{PROGRESS_PATH}"
        try:
            async with limit, session.get(url) as answer:
                if answer.status != 200:
                    return
                report = parse_json(ProgressReport, await answer.read(), url)
        except (aiohttp.ClientError, TimeoutError, SpecError):
            return  # it starts, it ends, or it is too busy: the next answer counts
        if self._targets.get(run_uid) == address and self._newest.get(run_uid) != report:
            self._newest[run_uid] = report
            self._on_news(run_uid)
