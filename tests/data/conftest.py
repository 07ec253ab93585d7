"""For the tests of data: a run whose data sets and model are good."""

from pathlib import Path

import pytest

from preflight_builders import QUESTION
from prism_api.uris import file_uri
from row_builders import a_demonstration, a_prompt_row, a_teacher_row, write_jsonl
from run_builders import Changes


@pytest.fixture
def data(tmp_path: Path, digits_folder: Path) -> Changes:
    """Good rows for all three stages and the evaluation, a good model, limits that it can take, and
    the changes that name them."""
    rows = {
        "sft": a_demonstration(images=[], messages=[*QUESTION, a_demonstration()["messages"][-1]]),
        "align": a_teacher_row(images=[], prompt=QUESTION),
        "rlvr": a_prompt_row(images=[], prompt=QUESTION),
        "heldout": a_prompt_row(images=[], prompt=QUESTION),
    }
    uri = {
        name: {"uri": file_uri(write_jsonl(tmp_path / f"{name}.jsonl", [row, row]))}
        for name, row in rows.items()
    }
    lengths = {f"spec.stages.{kind}.maxResponseTokens": 96 for kind in ("sft", "align", "rlvr")}
    return lengths | {
        "spec.model.uri": file_uri(digits_folder / "model"),
        "spec.evaluation.maxResponseTokens": 96,
        "spec.stages.sft.data": [uri["sft"]],
        "spec.stages.align.data": uri["align"],
        "spec.stages.rlvr.data": uri["rlvr"],
        "spec.evaluation.data": uri["heldout"],
    }
