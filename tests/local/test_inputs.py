"""Inputs of a local run: where relative and built-in URIs lead, and which lead nowhere."""

from pathlib import Path

import pytest

from prism_api.errors import ProgramError, SpecError
from prism_api.exit_codes import ExitCode
from prism_api.uris import local_path
from prism_operator.local.inputs import builtin_sets, localise, make_inputs
from run_builders import REMOVED, a_prism_run

BASE, INPUTS = Path("/runs/examples"), Path("/out/inputs")


def nobody_stops() -> bool:
    return False


def test_relative_files_start_at_the_document() -> None:
    changes = {
        "spec.model.uri": "file:///models/qwen",
        "spec.stages.sft.data": [{"uri": "file://data/sft.parquet"}, {"uri": "file://../b.jsonl"}],
    }

    spec = localise(a_prism_run(changes), BASE, INPUTS).spec

    assert spec.model.uri == "file:///models/qwen"
    assert spec.stages.sft is not None
    assert [source.uri for source in spec.stages.sft.data] == [
        "file:///runs/examples/data/sft.parquet",
        "file:///runs/b.jsonl",
    ]


def test_every_uri_of_a_document_is_made_absolute() -> None:
    changes = {
        "spec.storage": {"uri": "file://store"},
        "spec.stages.align.discriminator.model": {"uri": "file://d"},
        "spec.stages.align.discriminator.warmup.data": {"uri": "file://w.parquet"},
    }

    text = localise(a_prism_run(changes), BASE, INPUTS).to_json()

    assert text.count('"uri": "file://') == text.count('"uri": "file:///runs/examples/') == 8


def test_built_in_sets_lie_below_the_inputs() -> None:
    run = a_prism_run({"spec.model.uri": "builtin://digits/model"})

    assert localise(run, BASE, INPUTS).spec.model.uri == "file:///out/inputs/digits/model"
    assert builtin_sets(run) == ["digits"]
    assert builtin_sets(a_prism_run()) == []


def test_names_of_a_hub_stay() -> None:
    run = a_prism_run({"spec.model.uri": "hf://Qwen/Qwen3-VL-4B-Instruct"})

    assert localise(run, BASE, INPUTS).spec.model.uri == "hf://Qwen/Qwen3-VL-4B-Instruct"


@pytest.mark.parametrize("name", ["with space", "a+b", "ä", "100%", "x%20y"])
def test_a_folder_may_have_any_name(name: str) -> None:
    run = a_prism_run({"spec.model.uri": "builtin://digits/model"})

    spec = localise(run, Path("/runs") / name, Path("/out") / name).spec

    assert local_path(spec.model.uri) == Path("/out") / name / "digits/model"
    assert spec.evaluation is not None
    assert local_path(spec.evaluation.data.uri) == Path("/runs") / name / "heldout.parquet"


def test_only_uris_of_the_spec_are_touched() -> None:
    run = a_prism_run({"metadata.annotations": {"uri": "s3://not/ours"}})

    assert localise(run, BASE, INPUTS).metadata == run.metadata


def test_the_run_itself_is_not_changed() -> None:
    run = a_prism_run({"spec.stages.align": REMOVED, "spec.seed": 3})
    before = run.to_json()

    local = localise(run, BASE, INPUTS)

    assert run.to_json() == before
    assert local.spec.seed == 3
    assert list(local.stages) == ["sft", "rlvr"]


def test_everything_that_cannot_be_read_here_is_named_by_its_field() -> None:
    changes = {
        "spec.model.uri": "pvc://claim/model",
        "spec.storage": {"uri": "s3://bucket"},
        "spec.stages.sft.data": [{"uri": "file://a.jsonl"}, {"uri": "s3://bucket/b.jsonl"}],
    }

    with pytest.raises(SpecError) as caught:
        localise(a_prism_run(changes), BASE, INPUTS)

    assert {problem.path for problem in caught.value.problems} == {
        "spec.model.uri",
        "spec.storage.uri",
        "spec.stages.sft.data[1].uri",
    }
    assert "a local run cannot read s3://bucket/b.jsonl" in str(caught.value)
    assert "copy it to this machine and give file://PATH" in str(caught.value)


def test_an_unknown_built_in_set_is_named_by_its_field() -> None:
    run = a_prism_run({"spec.evaluation.data.uri": "builtin://letters/heldout.parquet"})

    with pytest.raises(SpecError) as caught:
        builtin_sets(run)

    (problem,) = caught.value.problems
    assert problem.path == "spec.evaluation.data.uri"
    assert problem.remedy == "known: digits"


def test_inputs_that_were_tampered_with_are_not_trained_on(
    digits_folder: Path, tmp_path: Path
) -> None:
    inputs = tmp_path / "inputs"
    inputs.mkdir()
    (inputs / "digits").symlink_to(digits_folder)
    make_inputs(["digits"], inputs, 0, nobody_stops)  # complete already: left as it is

    with pytest.raises(ProgramError, match="was made with seed 0, not 1") as caught:
        make_inputs(["digits"], inputs, 1, nobody_stops)
    assert caught.value.exit_code is ExitCode.FOLDER_TAKEN


def test_inputs_that_cannot_be_written_are_a_matter_of_storage(tmp_path: Path) -> None:
    (tmp_path / "inputs").write_text("a file in the way")

    with pytest.raises(ProgramError, match=r"inputs/digits: could not be made") as caught:
        make_inputs(["digits"], tmp_path / "inputs", 0, nobody_stops)
    assert caught.value.exit_code is ExitCode.STORE
