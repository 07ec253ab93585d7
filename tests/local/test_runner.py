"""What the runner does before the first stage starts."""

from pathlib import Path

import pytest

from prism_api.exit_codes import ExitCode
from prism_operator.local import runner
from prism_operator.local.runner import run_locally
from prism_operator.progress import ProgressView
from run_builders import a_prism_run

SUSPENDED = {"spec.suspend": True, "spec.model.uri": "builtin://digits/model"}


def test_built_in_inputs_of_one_seed_are_not_used_for_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[tuple[list[str], Path, int]] = []
    monkeypatch.setattr(runner, "make_inputs", lambda *arguments: made.append(arguments[:3]))

    for seed in (0, 1):
        with ProgressView() as view:
            run_locally(a_prism_run(SUSPENDED | {"spec.seed": seed}), tmp_path, tmp_path, view)

    inputs = tmp_path / "inputs"
    assert made == [(["digits"], inputs / "seed-0", 0), (["digits"], inputs / "seed-1", 1)]


def test_a_cancelled_run_starts_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(runner, "make_inputs", lambda *arguments: None)
    cancelled = {"spec.cancel": True, "spec.model.uri": "builtin://digits/model"}

    with ProgressView() as view:
        code = run_locally(a_prism_run(SUSPENDED | cancelled), tmp_path, tmp_path, view)

    assert code == ExitCode.SAVED
    assert "cancelled by its user" in capsys.readouterr().out
    assert not (tmp_path / "work").exists()
