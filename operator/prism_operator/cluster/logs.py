"""The operator's logs: a JSON object per line, or text for people, with the run that it is about.

Whoever works on a run says so once (`run_context`); every record made below, kopf's and aiohttp's
too, carries it. Only what is listed here leaves a record, and what looks like a credential is
blacked out of it.
"""

import logging
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, TextIO

import orjson

LogFormat = Literal["json", "text"]

_OWN = "prism_operator"
_QUIET = ("aiohttp", "asyncio", "kopf", "kubernetes", "urllib3")
"""Others' loggers, from which only warnings are of use."""


@dataclass(frozen=True)
class RunContext:
    """What a record is about; empty fields are left out of it."""

    run: str = ""
    """namespace/name."""
    uid: str = ""
    stage: str = ""
    attempt: int | None = None

    def fields(self) -> dict[str, str | int]:
        """What there is, by name."""
        return {name: value for name, value in vars(self).items() if value not in ("", None)}


_NO_RUN = RunContext()
_current: ContextVar[RunContext] = ContextVar("run_context", default=_NO_RUN)


@contextmanager
def run_context(
    namespace: str, name: str, uid: str, stage: str = "", attempt: int | None = None
) -> Iterator[None]:
    """Every record made in the block, and in tasks that are started in it, is about this run, and
    about this stage of it."""
    token = _current.set(RunContext(f"{namespace}/{name}", uid, stage, attempt))
    try:
        yield
    finally:
        _current.reset(token)


def setup_logs(
    log_format: LogFormat | None = None, level: str = "INFO", stream: TextIO | None = None
) -> None:
    """Make all loggers of this process write to `stream` (absent: standard error), and only there.

    `level` is for our own loggers; of others only warnings are shown. Without a format, a terminal
    gets text and everything else JSON.
    """
    out = stream or sys.stderr
    handler = logging.StreamHandler(out)
    wanted = log_format or ("text" if out.isatty() else "json")
    handler.setFormatter(JsonFormatter() if wanted == "json" else TextFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger(_OWN).setLevel(level)
    for name in _QUIET:
        logger = logging.getLogger(name)
        logger.handlers[:] = []
        logger.propagate = True
        logger.setLevel(logging.WARNING)
    logging.captureWarnings(True)


class JsonFormatter(logging.Formatter):
    """time, level, logger, message, run, uid, stage, attempt, error."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        document: dict[str, Any] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": redacted(record.getMessage()),
            **_context(record).fields(),
        }
        if record.exc_info:
            document["error"] = redacted(self.formatException(record.exc_info))
        return _encoded(document)


class TextFormatter(logging.Formatter):
    """`2026-01-02T03:04:05.678Z WARNING team-a/run sft a2: what happened`."""

    def format(self, record: logging.LogRecord) -> str:
        """A line, and a trace below it if there is one."""
        context = _context(record)
        attempt = "" if context.attempt is None else f"a{context.attempt}"
        words = (_time(record), record.levelname, context.run, context.stage, attempt)
        line = " ".join(filter(None, words)) + ": " + redacted(record.getMessage())
        if record.exc_info:
            line += "\n" + redacted(self.formatException(record.exc_info))
        return line


_SECRETS = re.compile(
    r"(?P<head>\b(?:bearer|basic)\s+"  # an Authorization header
    r"|://[^\s/:@]*:(?=[^\s/@]+@)"  # a password in a URL
    r"|[?&](?:x-amz-(?:signature|credential|security-token)|sig|token)=)"  # a presigned URL
    r"[^\s&'\"@,}]+"
    r"|\beyJ[\w-]+\.[\w-]+\.[\w-]*",  # a token on its own, as of a ServiceAccount
    re.IGNORECASE,
)


def redacted(text: str) -> str:
    """The text without what looks like a token, a password or a signature."""
    return _SECRETS.sub(lambda match: f"{match['head'] or ''}***", text)


def _context(record: logging.LogRecord) -> RunContext:
    """The block's run; kopf names the object in its own records."""
    context = _current.get()
    reference = getattr(record, "k8s_ref", None)
    if context.run or not isinstance(reference, dict):
        return context
    name = f"{reference.get('namespace') or ''}/{reference.get('name') or ''}"
    return RunContext(name.strip("/"), str(reference.get("uid") or ""))


def _time(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _encoded(document: dict[str, Any]) -> str:
    try:
        return orjson.dumps(document).decode()
    except TypeError:  # half a surrogate pair is no text
        texts = {
            key: value.encode(errors="replace").decode() if isinstance(value, str) else value
            for key, value in document.items()
        }
        return orjson.dumps(texts).decode()
