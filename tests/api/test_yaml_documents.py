"""PrismRuns as YAML: numbers as Kubernetes reads them, one key once, and errors with a place."""

from pathlib import Path
from typing import Any

import pytest

from prism_api.errors import SpecError
from prism_api.exit_codes import ExitCode
from prism_operator.documents import read_run
from run_builders import a_document, write_yaml


def written(folder: Path, old: str = "", new: str = "") -> Path:
    """A file with a valid document in which one text is replaced."""
    path = write_yaml(folder / "run.yaml", a_document({"spec.seed": 12345}))
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    return path


def refused(path: Path) -> str:
    with pytest.raises(SpecError) as caught:
        read_run(path)
    assert caught.value.exit_code is ExitCode.BAD_CONFIG
    return str(caught.value)


def test_a_document_is_read(tmp_path: Path) -> None:
    assert read_run(written(tmp_path)).spec.seed == 12345


@pytest.mark.parametrize("number", ["1e-5", "1E-5", "1.0e-5", "+1e-5", "0.00001", ".1e-4"])
def test_every_way_to_write_a_small_number_is_a_number(tmp_path: Path, number: str) -> None:
    path = written(tmp_path, "    sft:\n", f"    sft:\n      learningRate: {number}\n")

    sft = read_run(path).spec.stages.sft
    assert sft is not None
    assert sft.learning_rate == 1e-5


def test_a_quoted_number_is_a_text(tmp_path: Path) -> None:
    message = refused(written(tmp_path, "12345", '"5"'))

    assert 'spec.seed: "5" is not valid; give a whole number' in message


def test_a_number_for_a_text_says_to_quote_it(tmp_path: Path) -> None:
    message = refused(written(tmp_path, "name: run", "name: 1e3"))

    assert "metadata.name: 1000.0 is not valid; give a text (quote it" in message


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("seed: 12345", "seed: 1\n  seed: 2", 24),
        ("kind: PrismRun", "kind: PrismRun\n'kind': PrismRun", 3),
        ("name: run", "name: run\n  labels: {a: x, b: y, a: z}", 5),
    ],
)
def test_a_key_that_occurs_twice_is_refused_with_its_line(
    tmp_path: Path, old: str, new: str, line: int
) -> None:
    message = refused(written(tmp_path, old, new))

    assert "occurs for the second time" in message
    assert f"at line {line}" in message


def test_anchors_and_merges_work_as_elsewhere(tmp_path: Path) -> None:
    path = written(tmp_path, "  seed: 12345", "  <<: {seed: 1}\n  seed: 12345")

    assert read_run(path).spec.seed == 12345


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "is not a mapping"),
        ("# only a comment", "is not a mapping"),
        ("- a\n- b\n", "is not a mapping"),
        ("just a text", "is not a mapping"),
        ("a: [1, 2", "is not YAML"),
        ("a: 1\n\tb: 2", "is not YAML"),
        ("a: 1\n---\na: 2", "is not YAML"),
        ("a: !!python/object:os.system {}", "is not YAML"),
        ("a: &x [*x]", "is not YAML"),
        ("? [a]\n: 1", "is not YAML"),
        ("a: " + "[" * 3000, "is not YAML"),
        ("a: \x00", "is not YAML"),
    ],
)
def test_what_is_no_document_is_refused(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(text)

    message = refused(path)

    assert problem in message
    assert str(path) in message


def test_a_binary_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_bytes(b"\x89PNG\r\n\x1a\n\xff\xfe")

    assert f"{path}: cannot be read" in refused(path)


@pytest.mark.parametrize("name", ["absent.yaml", "."])
def test_a_file_that_is_not_there_is_named(tmp_path: Path, name: str) -> None:
    path = tmp_path / name

    assert f"{path}: cannot be read" in refused(path)


def test_an_error_names_the_file(tmp_path: Path) -> None:
    path = written(tmp_path, "12345", "-1")

    assert refused(path).splitlines() == [
        f"{path} is not valid:",
        "spec.seed: -1 is not valid; give a number of at least 0",
    ]


@pytest.mark.parametrize(("written_as", "meant"), [("yes", True), ("off", False), ("true", True)])
def test_switches(tmp_path: Path, written_as: str, meant: Any) -> None:
    path = written(tmp_path, "  seed: 12345", f"  suspend: {written_as}")

    assert read_run(path).spec.suspend is meant
