"""Programs that a run needs before its first stage: their errors, and how they are stopped."""

import time
from pathlib import Path

import pytest

from prism_api.errors import ProgramError
from prism_api.exit_codes import ExitCode
from prism_operator.local.programs import run_program


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of a module named `program`."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return tmp_path / "program.py"


def test_a_program_gets_its_arguments_and_may_say_what_it_likes(
    module: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    module.write_text("import sys; print('made'); open(sys.argv[1], 'w').write(sys.argv[2])")

    run_program("program", [str(tmp_path / "out"), "word"])

    assert (tmp_path / "out").read_text() == "word"
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("ends", "code"),
    [
        ("sys.exit(65)", ExitCode.BAD_DATA),
        ("sys.exit(73)", ExitCode.FOLDER_TAKEN),
        ("sys.exit(3)", ExitCode.CRASHED),
        ("os.kill(os.getpid(), 9)", ExitCode.CRASHED),
    ],
)
def test_a_program_that_fails_is_heard_and_its_code_passed_on(
    module: Path, ends: str, code: ExitCode
) -> None:
    module.write_text(f"import os, sys; print('row 3 is bad', file=sys.stderr, flush=True); {ends}")

    with pytest.raises(ProgramError, match=r"^row 3 is bad$") as caught:
        run_program("program", [])

    assert caught.value.exit_code is code


@pytest.mark.parametrize(
    ("ends", "words"),
    [
        ("os.kill(os.getpid(), 9)", "signal 9 ended program"),
        ("sys.exit(3)", "program ended with code 3"),
    ],
)
def test_a_program_that_ends_without_a_word_is_named(module: Path, ends: str, words: str) -> None:
    module.write_text(f"import os, sys; {ends}")

    with pytest.raises(ProgramError, match=words):
        run_program("program", [])


def test_a_stop_ends_a_program_and_is_no_error(module: Path) -> None:
    module.write_text("import time; time.sleep(60)")
    started = time.monotonic()

    run_program("program", [], stop_requested=lambda: time.monotonic() > started + 0.5)

    assert time.monotonic() < started + 30
