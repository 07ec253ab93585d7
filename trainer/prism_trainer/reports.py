"""What there is to report of a stage: its result in the store, and its newest iteration."""

import json
import math
from pathlib import Path

from prism_api.errors import FolderTaken
from prism_api.reporting import ProgressReport, StageReport
from prism_api.stage_config import StageConfig
from prism_store.results import newest_result
from prism_store.store import open_store
from prism_trainer.metrics import PROGRESS_FILE


def find_report(config: StageConfig) -> StageReport | None:
    """The report of a stage whose result is in the store.

    Raises FolderTaken for a result of this stage that was made of something else, and StoreError
    for one that cannot be read. What is of another run or stage is none of it.
    """
    stored = newest_result(open_store(config.stage_uri))
    if stored is None:
        return None
    result = stored.result
    if (result.run.uid, result.kind) != (config.run.uid, config.kind):
        return None
    if result.config_hash != config.config_hash:
        raise FolderTaken(result.contradiction)
    return StageReport(uri=stored.uri, digest=stored.digest, result=result)


def read_progress(config: StageConfig, folder: Path) -> ProgressReport | None:
    """What the first process left in its work folder, without metrics that are not finite; none
    before its first iteration."""
    try:
        document = json.loads((folder / PROGRESS_FILE).read_text())
    except FileNotFoundError:
        return None
    metrics = {name: value for name, value in document["metrics"].items() if math.isfinite(value)}
    whose = {"attempt": config.attempt, "uid": config.run.uid}
    return ProgressReport(**{**document, **whose, "metrics": metrics})
