"""Asks rank 0 of everything that trains for its progress.

What answers is a user's pod: whatever it says, it ends nothing but the question.
"""

import asyncio
import logging
import time
from collections.abc import Callable

import aiohttp

from prism_api.base import parse_json
from prism_api.errors import SpecError
from prism_api.reporting import PROGRESS_PATH, TRAINER_PORT, ProgressReport

_log = logging.getLogger(__name__)

_ANSWER_SECONDS = 5.0
_LARGEST_ANSWER_BYTES = 64 * 1024
_SILENT_TIMES = 3
"""Questions in a row without an answer after which rank 0 is out of reach."""
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
        self._unheard: dict[str, int] = {}
        """Questions in a row that nothing came back to, from a run that never answered."""

    def watch(self, run_uid: str, address: str) -> None:
        """From now on, at this address."""
        if self._targets.get(run_uid) != address:
            self._targets[run_uid] = address
            self._due[run_uid] = 0.0
            self._unheard.pop(run_uid, None)

    def forget(self, run_uid: str) -> None:
        """Nothing of this run trains now."""
        self._targets.pop(run_uid, None)
        self._due.pop(run_uid, None)
        self._newest.pop(run_uid, None)
        self._unheard.pop(run_uid, None)

    def unreached(self, run_uid: str) -> str:
        """Where rank 0 should have answered and cannot be reached; empty if it can, if it starts,
        or if that is not certain yet."""
        is_silent = self._unheard.get(run_uid, 0) >= _SILENT_TIMES
        return self._url(self._targets[run_uid]) if is_silent else ""

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
        url = self._url(address)
        report = None
        try:
            async with limit, session.get(url, allow_redirects=False) as answer:
                body = await _body(answer)
                self._unheard.pop(run_uid, None)
                if answer.status == 200:
                    report = parse_json(ProgressReport, body, url)
        except (aiohttp.ClientError, TimeoutError) as error:
            self._heard_nothing(run_uid, address, error)
        except (SpecError, RecursionError, _TooLong) as error:
            _log.info("%s: %s", url, error or type(error).__name__)
        if report is None or self._targets.get(run_uid) != address:
            return
        if self._newest.get(run_uid) != report:
            self._newest[run_uid] = report
            self._on_news(run_uid)

    def _heard_nothing(self, run_uid: str, address: str, error: Exception) -> None:
        """It starts, it ends, or it is too busy; or something stands between."""
        is_there = isinstance(getattr(error, "os_error", None), ConnectionRefusedError)
        if is_there or run_uid in self._newest or self._targets.get(run_uid) != address:
            return
        self._unheard[run_uid] = self._unheard.get(run_uid, 0) + 1
        if self._unheard[run_uid] == _SILENT_TIMES:
            _log.warning("%s: %s", self._url(address), error or type(error).__name__)
            self._on_news(run_uid)

    def _url(self, address: str) -> str:
        host = f"[{address}]" if ":" in address else address
        return f"http://{host}:{self._port}{PROGRESS_PATH}"


class _TooLong(Exception):
    """An answer that is no progress report."""


async def _body(answer: aiohttp.ClientResponse) -> bytes:
    body = b""
    async for chunk in answer.content.iter_any():
        body += chunk
        if len(body) > _LARGEST_ANSWER_BYTES:
            raise _TooLong(f"answers more than {_LARGEST_ANSWER_BYTES} bytes")
    return body
