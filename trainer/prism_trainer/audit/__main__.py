"""`python -m prism_trainer.audit CONFIG.json...` (the `stage.json` of any attempt of a stage).

Reads the record in each stage's newest checkpoint and says what was used, and what is not as it
should be.
"""

import argparse
import sys
from pathlib import Path

from prism_api.errors import FieldProblem, PrismError, SpecError
from prism_api.exit_codes import ExitCode
from prism_api.names import MANIFEST_FILE
from prism_api.stage_config import StageConfig
from prism_store.checkpoints import newest_checkpoint, read_checkpoint
from prism_store.store import open_store
from prism_trainer.attempt import read_config
from prism_trainer.audit.checks import Evidence, find_problems
from prism_trainer.data.rows import Dataset
from prism_trainer.metrics import History
from prism_trainer.preflight import data_of
from prism_trainer.record import METRICS_OBJECT, RECORD_OBJECT, parse_record


def read_evidence(config: StageConfig) -> Evidence:
    """What the stage's newest checkpoint holds, verified.

    Raises SpecError if there is none or it is of other settings, StoreError if it is damaged.
    """
    ref = newest_checkpoint(open_store(config.stage_uri))
    if ref is None:
        problem = FieldProblem(config.stage_uri, "has no checkpoint yet", "run the stage first")
        raise SpecError([problem])
    checkpoint = read_checkpoint(ref)
    if checkpoint.manifest.config_hash != config.config_hash:
        problem = FieldProblem(
            f"{ref.uri}/{MANIFEST_FILE}", "was written under other settings", "give its own config"
        )
        raise SpecError([problem])
    record, metrics = (checkpoint.files[name] for name in (RECORD_OBJECT, METRICS_OBJECT))
    own, *others = data_of(config)
    pairs = [use for use in others if use.need == "pair"]
    return Evidence(
        config,
        len(Dataset(own.sources, own.need)),
        len(Dataset(pairs[0].sources, "pair")) if pairs else None,
        checkpoint.manifest,
        tuple(parse_record(record.read_text(), str(record))),
        tuple(History.from_jsonl(metrics.read_text()).rows),
    )


def describe(evidence: Evidence) -> str:
    """What was counted, in one line."""
    rows = evidence.rows
    prompts = sum(row.end - row.first for row in rows)
    kept = sum(len(row.drawn) for row in rows)
    samples = sum(len(group.samples) for row in rows for group in row.drawn)
    attempts = len({row.attempt for row in rows})
    return (
        f"{evidence.config.kind}: {len(rows)} of {len(evidence.planned)} steps in {attempts} "
        f"attempt(s), {prompts} prompts ({prompts - kept} too long), {samples} samples"
    )


def main() -> None:
    """Audit stages; exit with 0 if all is well, 1 if a record is not as it should be, otherwise as
    the contract says."""
    parser = argparse.ArgumentParser(prog="python -m prism_trainer.audit", description=__doc__)
    parser.add_argument(
        "configs", type=Path, nargs="+", metavar="CONFIG", help="StageConfig as JSON"
    )
    try:
        stages = [read_evidence(read_config(path)) for path in parser.parse_args().configs]
    except PrismError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(error.exit_code)
    found = {describe(evidence): find_problems(evidence) for evidence in stages}
    for line, problems in found.items():
        verdict = "NOT as it should be" if problems else "each used once"
        sys.stdout.write(f"{line}: {verdict}\n")
        sys.stdout.writelines(f"  {problem}\n" for problem in problems)
    sys.exit(ExitCode.CRASHED if any(found.values()) else ExitCode.DONE)


if __name__ == "__main__":
    main()
