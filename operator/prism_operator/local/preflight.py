"""Has the trainer check the stages that are still to be done, before the first of them starts."""

from collections.abc import Callable, Container

from prism_api.names import StageKind
from prism_operator.local.folder import RunFolder
from prism_operator.local.programs import run_program
from prism_operator.planning.plan import Plan
from prism_store.store import store_errors


def check_stages(
    plan: Plan, done: Container[StageKind], folder: RunFolder, stop_requested: Callable[[], bool]
) -> None:
    """Check settings and data of all stages but those that are `done`, unless a stop is requested.

    Raises ProgramError with everything that is wrong: exit code 64 for settings, 65 for data.
    """
    configs = {
        folder.preflight / f"{step.kind}.json": step.config(1, None)
        for step in plan.train_steps
        if step.kind not in done
    }
    if not configs:
        return
    with store_errors(folder.preflight):
        folder.preflight.mkdir(exist_ok=True)
        for path, config in configs.items():
            path.write_text(config.to_json())
    run_program("prism_trainer.preflight", [*map(str, configs)], stop_requested)
