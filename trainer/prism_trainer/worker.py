"""One process of a stage; started by the launcher through torchrun.

Parses the config before torch is imported, so that a bad one fails at once.
"""

import argparse
import os
import traceback
from contextlib import suppress
from pathlib import Path

from prism_api.errors import PrismError
from prism_api.exit_codes import ExitCode
from prism_api.process import die_with_parent, inherited_ancestor
from prism_store.store import KEEP_FREE, is_full
from prism_trainer.attempt import read_config
from prism_trainer.outcome import Outcome, note_start, write_outcome
from prism_trainer.process import end_process


def main() -> None:
    """Run the stage and leave the outcome."""
    parser = argparse.ArgumentParser(prog="prism_trainer.worker", description=__doc__)
    parser.add_argument("--config", type=Path, required=True, help="StageConfig as JSON")
    parser.add_argument("--work-folder", type=Path, required=True, help="scratch folder")
    arguments = parser.parse_args()
    die_with_parent(inherited_ancestor())
    rank = int(os.environ.get("RANK", "0"))
    note_start(arguments.work_folder, rank)
    outcome = _outcome_of(arguments.config, arguments.work_folder)
    write_outcome(arguments.work_folder, rank, outcome)
    # An error in one process must end its peers, which wait for it: torchrun sees to that.
    end_process(0 if outcome.code in (ExitCode.DONE, ExitCode.SAVED) else 1)


def _outcome_of(config_path: Path, work_folder: Path) -> Outcome:
    try:
        config = read_config(config_path)
        from prism_trainer.stages.run import run_stage

        return Outcome(ExitCode.DONE if run_stage(config, work_folder) else ExitCode.SAVED)
    except PrismError as error:
        return Outcome(error.exit_code, str(error))
    except Exception as error:  # the process edge: whatever it is, the user hears of it
        with suppress(OSError):
            traceback.print_exc()
        if is_full(error):
            return Outcome(ExitCode.STORE, f"{error}; {KEEP_FREE}")
        return Outcome(ExitCode.CRASHED, f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
