"""A process of a stage ends with its code and all its words, whatever its threads do."""

import subprocess
import sys

import pytest

STUBBORN = """
import atexit, threading, time
from prism_trainer.process import end_process
atexit.register(print, "taken down")
threading.Thread(target=time.sleep, args=(600,)).start()
print("last words")
end_process({code})
"""


@pytest.mark.parametrize("code", [0, 1])
def test_a_process_ends_at_once_though_a_thread_lives_on(code: int) -> None:
    program = [sys.executable, "-c", STUBBORN.format(code=code)]
    done = subprocess.run(program, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (code, "last words\n")
