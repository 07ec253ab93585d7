"""The process that evaluates formulas: one per line of standard input, one line of JSON for each.

It imports neither torch nor numpy. The kernel kills it when its parent ends and when a formula
takes more processor time than it may (no handler, so no library's code can get around it), and
refuses it memory beyond the limit; a terminal's Ctrl-C is the parent's business.

    python -m prism_trainer.rewards.worker CPU_SECONDS MEMORY_BYTES
"""

import json
import os
import resource
import signal
import sys
from typing import BinaryIO

from prism_api.process import die_with_parent, inherited_ancestor
from prism_trainer.rewards.evaluator import evaluate
from prism_trainer.rewards.worker_process import OUT_OF_MEMORY, READY


def main() -> None:
    """Serve formulas until standard input is closed."""
    cpu_seconds, memory_bytes = float(sys.argv[1]), int(sys.argv[2])
    die_with_parent(inherited_ancestor())
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # A parent that ignores or blocks it would leave that behind, and no deadline would hold.
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGPROF})
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "wb", buffering=0)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    evaluate("'x 2 ^ 1 + sin ln")
    _reply(replies, READY)
    for line in sys.stdin.buffer:
        signal.setitimer(signal.ITIMER_PROF, cpu_seconds)
        try:
            values = evaluate(line.decode())
        except MemoryError:
            os._exit(OUT_OF_MEMORY)
        signal.setitimer(signal.ITIMER_PROF, 0)
        _reply(replies, values)


def _reply(replies: BinaryIO, content: object) -> None:
    replies.write(json.dumps(content).encode() + b"\n")


if __name__ == "__main__":
    main()
