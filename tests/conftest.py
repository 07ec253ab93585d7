"""What tests of several folders share: the quickstart's inputs, made once per session."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import settings

os.environ["HF_HUB_OFFLINE"] = "1"
# How long an example takes says nothing on a machine with other work to do.
settings.register_profile("no deadlines", deadline=None)
settings.load_profile("no deadlines")


@pytest.fixture(scope="session")
def digits_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The quickstart's inputs of seed 0, made by their own command; not to be written to."""
    out = tmp_path_factory.mktemp("inputs") / "digits"
    command = [sys.executable, "-m", "prism_trainer.digits", "--out", str(out)]
    subprocess.run(command, check=True, capture_output=True)
    return out
