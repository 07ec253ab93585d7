"""The `prism` command: what it prints and the codes it ends with, before any training."""

import json
import re
from pathlib import Path

import pytest
import yaml

from commands import Done, prism
from prism_api.base import parse
from prism_api.exit_codes import ExitCode
from prism_api.stage_config import StageConfig
from prism_api.stages import AlignStage, RlvrStage, SftStage
from run_builders import Changes, a_document, a_prism_run, write_yaml

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.yaml"))


def a_file(folder: Path, changes: Changes | None = None) -> Path:
    return write_yaml(folder / "run.yaml", a_document(changes))


def is_an_answer(done: Done) -> bool:
    """Whether an error was said rather than thrown."""
    return "Traceback" not in done.stderr and done.stderr.strip() != ""


@pytest.mark.parametrize(
    "arguments",
    [
        ["frobnicate"],
        ["validate"],
        ["validate", "a.yaml", "b.yaml"],
        ["run"],
        ["run", "a.yaml", "--bogus"],
        ["run", "a.yaml", "--seed", "-1"],
        ["run", "a.yaml", "--seed", str(2**31)],
        ["run", "a.yaml", "--seed", "one"],
        ["run", "a.yaml", "--out"],
        ["plan", "a.yaml", "--yaml"],
        ["compare"],
    ],
    ids=" ".join,
)
def test_a_wrong_command_line_ends_with_2(arguments: list[str]) -> None:
    done = prism(*arguments)

    assert done.returncode == 2
    assert is_an_answer(done)


def test_help_names_every_exit_code() -> None:
    done = prism("--help")

    assert done.returncode == 0
    codes = set(map(int, re.findall(r"\d+", done.stdout.partition("Exit codes:")[2])))
    assert codes == {2, *map(int, ExitCode)}


def test_the_readme_names_every_exit_code() -> None:
    section = (ROOT / "README.md").read_text().partition("### Exit codes")[2].partition("\n#")[0]

    assert set(map(int, re.findall(r"^\| (\d+) \|", section, re.MULTILINE))) == {
        2,
        *map(int, ExitCode),
    }


@pytest.mark.parametrize("command", ["validate", "plan", "run"])
def test_a_missing_file_ends_with_64(tmp_path: Path, command: str) -> None:
    done = prism(command, tmp_path / "absent.yaml")

    assert done.returncode == 64
    assert f"{tmp_path / 'absent.yaml'}: cannot be read" in done.stderr


@pytest.mark.parametrize("command", ["validate", "plan", "run"])
def test_an_invalid_document_ends_with_64_and_every_problem(tmp_path: Path, command: str) -> None:
    changes = {"spec.sede": 1, "spec.stages.sft.batchSize": "16"}

    done = prism(command, a_file(tmp_path, changes))

    assert done.returncode == 64
    assert done.stderr.splitlines()[0] == f"{tmp_path / 'run.yaml'} is not valid:"
    assert "spec.sede: unknown field; did you mean seed?" in done.stderr
    assert 'spec.stages.sft.batchSize: "16" is not valid; give a whole number' in done.stderr
    assert is_an_answer(done)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run.yaml"]


def test_a_pod_template_that_no_run_works_with_is_refused(tmp_path: Path) -> None:
    template = {"spec": {"restartPolicy": "Always"}}
    path = a_file(tmp_path, {"spec.workers": {"template": template}})

    done = prism("validate", path)

    assert done.returncode == 64
    assert "spec.workers.template.spec.restartPolicy: is the operator's" in done.stderr
    assert is_an_answer(done)


def test_a_valid_document_is_said_to_be_valid(tmp_path: Path) -> None:
    path = a_file(tmp_path)

    done = prism("validate", path)

    assert (done.returncode, done.stdout) == (0, f"{path}: valid (sft, align, rlvr)\n")


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_every_example_plans(path: Path) -> None:
    done = prism("plan", path)

    assert done.returncode == 0, done.stderr
    assert "train " in done.stdout


def test_a_plan_shows_steps_hand_over_and_resolved_settings(tmp_path: Path) -> None:
    changes = {
        "spec.rollout": {"backend": "vllm", "replicas": 3, "gpusPerReplica": 2},
        "spec.stages.rlvr.algorithm": "dapo",
    }

    shown = prism("plan", a_file(tmp_path, changes)).stdout

    steps = [line for line in shown.splitlines() if not line.startswith(" ")]
    assert steps == [
        "run run: namespace default",
        "train sft: run-sft-a1",
        "serve align: 3 x vllm, 6 GPUs in all, weights by auto",
        "train align: run-align-a1",
        "serve rlvr: 3 x vllm, 6 GPUs in all, weights by auto",
        "train rlvr: run-rlvr-a1",
    ]
    assert re.findall(r"from +(.*)", shown) == [
        "file://model",
        "the result of sft",
        "the result of align",
    ]
    settings = yaml.safe_load(shown.rpartition("settings\n")[2])
    assert (settings["clipLow"], settings["clipHigh"]) == (0.2, 0.28)
    assert settings["overlong"] == {"bufferTokens": 4096, "penaltyFactor": 1.0}


def test_a_plan_shows_every_field_of_the_document(tmp_path: Path) -> None:
    changes = {
        "spec.systemMessage": "Look closely.",
        "spec.failurePolicy.maxRestarts": 7,
        "spec.stages.align.rollout": {"backend": "vllm", "replicas": 5},
        "spec.stages.rlvr.workers.threadsPerProcess": 2,
        "spec.storage": {"uri": "file:///store", "retention": {"keepLast": 9}},
    }

    shown = prism("plan", a_file(tmp_path, changes)).stdout

    run, sft, align, rlvr = [
        yaml.safe_load(block.partition("settings\n")[2])
        for block in re.split("^(?=train |serve )", shown, flags=re.MULTILINE)
        if "settings" in block
    ]
    spec = a_prism_run(changes).spec.model_dump(mode="json", by_alias=True)
    resolved_per_stage = {"stages", "workers", "rollout"}
    assert run == {name: spec[name] for name in spec if name not in resolved_per_stage}
    assert set(sft) == {f.alias for f in SftStage.model_fields.values()}
    assert set(align) == {f.alias for f in AlignStage.model_fields.values()}
    assert set(rlvr) == {f.alias for f in RlvrStage.model_fields.values()}
    assert (sft["workers"], rlvr["workers"]["threadsPerProcess"]) == (
        {**spec["workers"], "precision": "fp32"},
        2,
    )
    assert (align["rollout"]["replicas"], rlvr["rollout"]) == (5, spec["rollout"])
    assert shown.count("keeps      checkpoints: the newest 9") == 3


def test_a_plan_as_json_is_what_the_trainers_read(tmp_path: Path) -> None:
    done = prism("plan", a_file(tmp_path), "--json")

    configs = [parse(StageConfig, document) for document in json.loads(done.stdout)]
    assert [config.kind for config in configs] == ["sft", "align", "rlvr"]
    assert [config.init_from is None for config in configs] == [True, False, False]


def test_planning_twice_gives_the_same_text(tmp_path: Path) -> None:
    path = a_file(tmp_path)

    assert prism("plan", path, "--json").stdout == prism("plan", path, "--json").stdout


def test_a_run_that_needs_another_machine_ends_with_64(tmp_path: Path) -> None:
    path = a_file(tmp_path, {"spec.stages.rlvr.data.uri": "s3://bucket/rlvr.parquet"})

    done = prism("run", path, "--out", tmp_path / "out")

    assert done.returncode == 64
    assert "spec.stages.rlvr.data.uri: a local run cannot read s3://bucket" in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_suspended_run_ends_with_75_at_once(tmp_path: Path) -> None:
    path = a_file(tmp_path, {"spec.suspend": True})

    done = prism("run", path, "--out", tmp_path / "out")

    assert done.returncode == 75
    assert not (tmp_path / "out/work").exists()


def test_a_missing_data_file_ends_with_65(tmp_path: Path, digits_folder: Path) -> None:
    changes: Changes = {
        "spec.model.uri": f"file://{digits_folder / 'model'}",
        "spec.evaluation.maxResponseTokens": 96,
        **{f"spec.stages.{stage}.maxResponseTokens": 96 for stage in ("sft", "align", "rlvr")},
    }

    done = prism("run", a_file(tmp_path, changes), "--out", tmp_path / "out")

    assert done.returncode == 65
    assert f"{tmp_path / 'heldout.parquet'}: no such data file" in done.stdout + done.stderr


def test_comparing_what_is_no_run_names_it(tmp_path: Path) -> None:
    done = prism("compare", tmp_path)

    assert done.returncode == 64
    assert f"{tmp_path}: holds no run" in done.stderr
    assert is_an_answer(done)
