"""For the tests of the local runner: an attempt's work folder, and nobody who outlives it."""

from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from served_attempts import STUB, Workplace, a_config


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Workplace]:
    package = tmp_path / "site" / "prism_rollout"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(STUB)
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / "stage.json").write_text(a_config(tmp_path).to_json())
    before = set(psutil.pids())
    yield Workplace(folder, tmp_path / "site")
    left = [p for p in psutil.process_iter(["cmdline"]) if p.pid not in before]
    assert not [p for p in left if str(tmp_path) in " ".join(p.info["cmdline"] or [])]
