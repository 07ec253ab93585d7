"""PrismRuns as YAML: numbers as Kubernetes reads them, one key once, and errors with a place."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

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


@pytest.mark.parametrize("number", ["5", "0", "-1e-5", "1.5"])
def test_a_quoted_number_is_a_text(tmp_path: Path, number: str) -> None:
    message = refused(written(tmp_path, "12345", f'"{number}"'))

    assert f'spec.seed: "{number}" is not valid; give a whole number, without quotes' in message


def test_another_text_for_a_number_is_not_told_to_lose_its_quotes(tmp_path: Path) -> None:
    assert refused(written(tmp_path, "12345", '"few"')).endswith("; give a whole number")


def test_a_number_for_a_text_says_to_quote_it(tmp_path: Path) -> None:
    message = refused(written(tmp_path, "name: run", "name: 1e3"))

    assert "metadata.name: 1000 is not valid; give a text (quote it" in message


@pytest.mark.parametrize("number", ["100.0", "1e2", "100."])
def test_a_whole_number_with_a_decimal_point_is_what_kubectl_makes_of_it(
    tmp_path: Path, number: str
) -> None:
    assert read_run(written(tmp_path, "seed: 12345", f"seed: {number}")).spec.seed == 100


def test_a_number_that_is_not_whole_stays_what_it_is(tmp_path: Path) -> None:
    message = refused(written(tmp_path, "seed: 12345", "seed: 100.5"))

    assert "spec.seed: 100.5 is not valid; give a whole number" in message


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
        ("", "is empty"),
        ("# only a comment", "is empty"),
        ("- a\n- b\n", "is not a mapping of fields"),
        ("just a text", "is not a mapping of fields"),
        ("a: [1, 2", "expected ',' or ']', but got '<stream end>' at line 1, column 9"),
        ("a: 1\n\tb: 2", "character '\\t' that cannot start any token at line 2, column 1"),
        ("a: 1\n---\na: 2", "found another document at line 2, column 1"),
        ("a: !!python/object:os.system {}", "python/object:os.system' at line 1, column 4"),
        ("a: &x [*x]", "recursive node at line 1, column 4"),
        ("? [a]\n: 1", "a key is no text at line 1, column 3"),
        ("2024-10-05: 1", "a key is no text at line 1, column 1"),
        ("a: 2024-13-45", "'2024-13-45' is no timestamp at line 1, column 4"),
        ("a: !!bool x", "'x' is no bool at line 1, column 4"),
        ("a: !!timestamp x", "'x' is no timestamp at line 1, column 4"),
        ("a: " + "9" * 5000, "is no int at line 1, column 4"),
        ("a: 0x" + "f" * 5000, "is no int at line 1, column 4"),
        ("a: " + ":".join(["59"] * 3000), "is no int at line 1, column 4"),
        ('a: "half \\ud800"', "is no str at line 1, column 4"),
        ("a: " + "[" * 3000, "is not YAML: it is nested too deeply"),
        ("a: \x00", "the character '\\x00' at 3 is not allowed"),
    ],
)
def test_what_is_no_document_is_refused(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(text)

    message = refused(path)

    assert problem in message
    assert message.startswith(f"{path}: is ")
    assert "unicode string" not in message


def test_a_binary_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_bytes(b"\x89PNG\r\n\x1a\n\xff\xfe")

    assert f"{path}: is no text in UTF-8 (byte 0)" in refused(path)


@pytest.mark.parametrize(
    ("name", "why"), [("absent.yaml", "No such file or directory"), (".", "Is a directory")]
)
def test_a_file_that_is_not_there_is_named(tmp_path: Path, name: str, why: str) -> None:
    path = tmp_path / name

    assert refused(path) == f"{path}: cannot be read ({why}); check the path"


LINES = st.sampled_from(
    ["a: 1", "- a", "spec:", "  seed: 0", "&x", "*x", "<<: {}", "? [a]", ": 1", "---", "!!int x",
     "{", "]", "'", "|", "%TAG", "metadata: {name: x}", "1: {2: .nan}", '"\\ud800"', "=", "~"]
)  # fmt: skip


@given(st.text() | st.lists(LINES).map("\n".join))
def test_whatever_is_in_a_file_it_is_a_run_or_refused_by_name(
    tmp_path_factory: pytest.TempPathFactory, text: str
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_bytes(text.encode(errors="surrogatepass"))

    assert refused(path).startswith(f"{path}")


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
