"""A mended document: what may change in a run of which some stages have left something."""

from pathlib import Path

import pytest

from prism_api.checkpoint import CheckpointRef
from prism_api.errors import FolderTaken
from prism_api.names import StageKind
from prism_api.stage_config import StageResult
from prism_api.uris import file_uri
from prism_operator.local.changes import check_unchanged
from prism_operator.planning.plan import Plan, plan
from prism_store.checkpoints import write_checkpoint
from prism_store.store import open_store
from report_builders import a_result
from run_builders import REMOVED, UID, Changes, a_prism_run
from store_builders import a_manifest

STAGES = "spec.stages"
NO_ALIGN: Changes = {f"{STAGES}.align": REMOVED}
NO_SFT: Changes = {f"{STAGES}.sft": REMOVED}
ANOTHER_DATA_SET = {"uri": "file://mended.parquet"}
DOCUMENT = Path("/out/prismrun.yaml")


class Run:
    """A run of which some stages have left checkpoints and results in a store."""

    def __init__(self, folder: Path, changes: Changes | None = None) -> None:
        self.folder = folder
        self.results: dict[StageKind, StageResult] = {}
        self.newest: dict[StageKind, CheckpointRef] = {}
        self.plan = self.plan_of(changes or {})

    def plan_of(self, changes: Changes) -> Plan:
        """What a changed document plans."""
        return plan(a_prism_run(changes), UID, file_uri(self.folder))

    def begin(self, kind: StageKind, step_number: int = 4) -> None:
        """Leave a checkpoint of a stage."""
        (step,) = [s for s in self.plan.train_steps if s.kind == kind]
        parent = self.newest[step.after] if step.after else None
        scratch = self.folder / "scratch"
        scratch.mkdir(parents=True)
        (scratch / "state.json").write_text(f"{kind} {step_number}")
        manifest = a_manifest(step_number).model_copy(
            update={
                "stage": kind,
                "parent": parent,
                "config_hash": step.config(1, parent).config_hash,
            }
        )
        store = open_store(step.stage_uri)
        self.newest[kind] = write_checkpoint(store, f"a1/step-{step_number}", scratch, manifest)
        scratch.rmdir()

    def finish(self, kind: StageKind) -> None:
        """Leave a checkpoint and a result of a stage."""
        self.begin(kind)
        (step,) = [s for s in self.plan.train_steps if s.kind == kind]
        parent = self.newest[step.after] if step.after else None
        self.results[kind] = a_result(
            kind,
            run=self.plan.run,
            checkpoint=self.newest[kind],
            config_hash=step.config(1, parent).config_hash,
        )

    def refused_stage(self, changes: Changes) -> str | None:
        """The stage because of which a changed document is refused; none if it is accepted."""
        before = self.times()
        message = self.refusal(changes)
        assert self.times() == before
        if message is None:
            return None
        assert message.endswith("undo the change, or give another folder with --out")
        assert f"(see {DOCUMENT})" in message
        return message.removeprefix("stage ").partition(":")[0]

    def refusal(self, changes: Changes) -> str | None:
        """What is said about a changed document; none if it is accepted."""
        try:
            check_unchanged(self.plan_of(changes), file_uri(self.folder), self.results, DOCUMENT)
        except FolderTaken as error:
            return str(error)
        return None

    def times(self) -> dict[Path, int]:
        """When each file and folder was changed."""
        return {path: path.stat().st_mtime_ns for path in self.folder.rglob("*")}


@pytest.fixture
def in_alignment(tmp_path: Path) -> Run:
    """SFT is done, alignment has a checkpoint, RLVR has not begun."""
    run = Run(tmp_path / "store")
    run.finish("sft")
    run.begin("align")
    return run


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {f"{STAGES}.rlvr.learningRate": 1e-7},
        {f"{STAGES}.rlvr.data": ANOTHER_DATA_SET},
        {f"{STAGES}.rlvr": REMOVED},
        {f"{STAGES}.align.checkpointEverySteps": 7},
        {"spec.failurePolicy": {"maxRestarts": 9}},
        {"spec.images.trainer": "registry/new"},
        {"spec.queue": {"name": "other"}},
        {"spec.ttlSecondsAfterFinished": 60},
        {"spec.suspend": True},
        {"metadata.labels": {"team": "a"}},
        {f"{STAGES}.sft.batchSize": 16},  # the default
    ],
    ids=str,
)
def test_what_no_finished_step_depends_on_may_change(in_alignment: Run, changes: Changes) -> None:
    assert in_alignment.refused_stage(changes) is None


@pytest.mark.parametrize(
    ("changes", "stage"),
    [
        ({"spec.seed": 1}, "sft"),
        ({"spec.model.uri": "file://other"}, "sft"),
        ({"spec.workers": {"replicas": 2}}, "sft"),
        ({"spec.workers": {"threadsPerProcess": 2}}, "sft"),
        ({"spec.evaluation": REMOVED}, "sft"),
        ({f"{STAGES}.sft.learningRate": 1e-4}, "sft"),
        ({f"{STAGES}.sft.data": [ANOTHER_DATA_SET]}, "sft"),
        (NO_SFT, "sft"),
        ({f"{STAGES}.align.learningRate": 1e-4}, "align"),
        ({f"{STAGES}.align.data": ANOTHER_DATA_SET}, "align"),
        ({f"{STAGES}.align.workers": {"replicas": 2}}, "align"),
        ({"spec.rollout.batchSize": 8}, "align"),
        (NO_ALIGN, "align"),
    ],
    ids=str,
)
def test_what_a_stage_was_made_of_may_not(
    in_alignment: Run, changes: Changes, stage: StageKind
) -> None:
    assert in_alignment.refused_stage(changes) == stage


@pytest.mark.parametrize("changes", [{"spec.seed": 1}, NO_SFT, NO_ALIGN], ids=str)
def test_before_the_first_checkpoint_everything_may_change(
    tmp_path: Path, changes: Changes
) -> None:
    run = Run(tmp_path / "store")
    cut_off = tmp_path / f"store/default/run/{UID}/sft/a1/step-2"
    cut_off.mkdir(parents=True)
    (cut_off / "state.json").write_text("of a write that never got to its manifest")

    assert run.refused_stage(changes) is None


def test_a_stage_cannot_be_put_before_one_that_has_begun(tmp_path: Path) -> None:
    without_align = Run(tmp_path / "a", NO_ALIGN)
    without_align.finish("sft")
    without_align.begin("rlvr")
    without_sft = Run(tmp_path / "b", NO_SFT)
    without_sft.begin("align")

    assert without_align.refused_stage(NO_ALIGN) is None
    assert without_align.refused_stage({}) == "rlvr"
    assert without_sft.refused_stage(NO_SFT) is None
    assert without_sft.refused_stage({}) == "align"


def test_a_stage_whose_result_was_deleted_to_have_its_end_done_again_is_the_same(
    in_alignment: Run,
) -> None:
    in_alignment.results.clear()

    assert in_alignment.refused_stage({}) is None
    assert in_alignment.refused_stage({f"{STAGES}.sft.steps": 9}) == "sft"


def test_the_newest_checkpoint_of_a_stage_without_result_is_what_the_next_must_follow(
    in_alignment: Run,
) -> None:
    in_alignment.results.clear()
    in_alignment.begin("sft", step_number=5)

    assert in_alignment.refused_stage({}) == "align"


def test_a_result_counts_when_its_checkpoints_are_gone(in_alignment: Run) -> None:
    for kind in ("sft", "align"):
        uri = f"{file_uri(in_alignment.folder)}/default/run/{UID}/{kind}"
        open_store(uri).delete("a1")

    assert in_alignment.refused_stage({}) is None
    assert in_alignment.refused_stage({f"{STAGES}.align.learningRate": 1e-4}) is None
    assert in_alignment.refused_stage({"spec.seed": 1}) == "sft"
