"""`python -m prism_operator.local.serve --work-folder DIR -- COMMAND...`: an attempt with servers.

See servers.py. Whoever stops this process gets an answer, so that it catches signals before it
imports what takes a moment.
"""

import signal
import sys


def main() -> None:
    """Serve, run, and exit with the command's code."""
    received: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: received.append(number))
    from prism_operator.local.servers import run_served

    sys.exit(run_served(received))


if __name__ == "__main__":
    main()
