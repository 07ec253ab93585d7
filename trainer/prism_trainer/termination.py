"""The termination message of a launcher's container: the proof that the stage is done, or why this
launcher ended."""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from prism_api.errors import PrismError
from prism_api.exit_codes import ExitCode
from prism_api.reporting import MAX_TERMINATION_BYTES, TERMINATION_FILE_VARIABLE
from prism_api.stage_config import StageConfig
from prism_trainer.attempt import read_config
from prism_trainer.outcome import Outcome
from prism_trainer.pods import this_pod
from prism_trainer.reports import find_report

_SENTENCES = {
    ExitCode.DONE: "done; the stage's first pod has the report",
    ExitCode.SAVED: "stopped on request, and saved: the next attempt goes on from there",
}
"""For outcomes that say nothing."""
_SILENT = "ended without a word; see the log"


def write_message(config_path: Path, outcome: Outcome, environment: Mapping[str, str]) -> None:
    """Leave the message where the environment says, if it does; never raises an OSError.

    The kubelet mounts that file, so it is written in place.
    """
    path = environment.get(TERMINATION_FILE_VARIABLE)
    if path:
        message = termination_message(config_path, outcome, environment)
        with suppress(OSError):
            Path(path).write_bytes(message)


def termination_message(
    config_path: Path, outcome: Outcome, environment: Mapping[str, str]
) -> bytes:
    """The StageReport as compact JSON from the first pod of a stage that is done, from everyone
    else a sentence; UTF-8, at most MAX_TERMINATION_BYTES.

    What cannot be reported is said instead, and the exit code stays: the next attempt finds the
    result in the store.
    """
    if outcome.code is ExitCode.DONE:
        try:
            config = read_config(config_path)
            if this_pod(config.workers, environment).is_first:
                return _report(config)
        except PrismError as error:
            return shortened(f"the stage is done, but its result cannot be reported: {error}")
    return shortened(outcome.message or _SENTENCES.get(outcome.code, _SILENT))


def shortened(text: str) -> bytes:
    """As much of a text as a termination message holds, cut between characters."""
    return text.encode(errors="replace")[:MAX_TERMINATION_BYTES].decode(errors="ignore").encode()


def _report(config: StageConfig) -> bytes:
    report = find_report(config)
    if report is None:
        return shortened(f"{config.stage_uri}: the stage is done, but has no result in the store")
    text = report.model_dump_json(by_alias=True).encode()
    if len(text) > MAX_TERMINATION_BYTES:
        problem = f"the report takes {len(text)} bytes, more than {MAX_TERMINATION_BYTES}"
        return shortened(f"{problem}; shorten storage.uri. The result is at {report.uri}")
    return text
