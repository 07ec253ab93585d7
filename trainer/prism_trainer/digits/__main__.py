"""Command line of the quickstart's inputs: parses, has the folder made, says what came of it."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from prism_api.errors import PrismError
from prism_api.process import die_with_parent, inherited_ancestor
from prism_trainer.digits.folder import About, ensure_folder

DESCRIPTION = """\
Make the quickstart's inputs: a tiny Qwen3-VL with random weights, and questions about pictures of
handwritten digits for SFT, alignment, RLVR, validation and the held-out evaluation. Works offline.
"""
EPILOG = """\
The same seed gives the same bytes. A folder that is complete and of the same seed is left as it is;
one that holds anything else is refused (exit code 73) and not touched.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code, an `ExitCode` of the contract."""
    options = _parser().parse_args(arguments)
    try:
        made = ensure_folder(options.out, options.seed, _write)
    except PrismError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    state = "made" if made else "already complete"
    sys.stdout.write(f"{options.out}: {state}, seed {options.seed}\n")
    return 0


def _write(folder: Path, seed: int) -> About:
    # Importing torch takes seconds, which --help and a folder that is there need not wait for.
    from transformers.utils import logging

    from prism_trainer.digits.contents import write_contents

    logging.disable_progress_bar()
    return write_contents(folder, seed)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m prism_trainer.digits",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to make")
    parser.add_argument(
        "--seed", type=_seed, default=0, metavar="N", help="what all randomness derives from (0)"
    )
    return parser


def _seed(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) < 2**31):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to 2147483647")
    return int(text)


if __name__ == "__main__":
    die_with_parent(inherited_ancestor())
    sys.exit(main())
