"""`prism run` on a small run: what the user sees, and what it leaves."""

import json
from pathlib import Path

from commands import Done, prism, prism_interrupted
from prism_api.uris import file_uri
from prism_store.checkpoints import newest_checkpoint, read_checkpoint
from prism_store.store import open_store
from run_builders import Changes, a_small_document, write_yaml

SFT = "spec.stages.sft"
MANY_STEPS: Changes = {f"{SFT}.steps": 2000, f"{SFT}.checkpointEverySteps": 1000}
"""More than anybody waits for: such a run ends only because it was interrupted."""

Snapshot = dict[str, tuple[int, bytes]]


class Run:
    """A small run, its document and its folder."""

    def __init__(self, folder: Path, digits: Path, changes: Changes | None = None) -> None:
        self.folder, self.digits = folder, digits
        self.out = folder / "out"
        self.file = folder / "run.yaml"
        self.write(changes)

    def write(self, changes: Changes | None) -> None:
        """Change the document."""
        write_yaml(self.file, a_small_document(self.digits, changes))

    def run(self) -> Done:
        """To its end."""
        return prism("run", self.file, "--out", self.out)

    def interrupt(self) -> Done:
        """Ctrl-C after the first steps."""
        return prism_interrupted("run", self.file, "--out", self.out, when=self.has_stepped)

    def has_stepped(self) -> bool:
        """Whether the newest attempt has reported a step."""
        works = sorted((self.out / "work/sft").glob("a*"))
        return bool(works) and (works[-1] / "progress.json").exists()

    @property
    def stage(self) -> Path:
        """SFT in the store."""
        (found,) = (self.out / "store/default/small").glob("*/sft")
        return found

    def newest_step(self) -> int:
        """Of the newest checkpoint, all of whose objects are intact."""
        store = open_store(file_uri(self.stage))
        ref = newest_checkpoint(store)
        assert ref is not None
        return read_checkpoint(ref).manifest.step

    def report(self) -> dict[str, int]:
        """Steps of every stage, as reported at the end."""
        stages = json.loads((self.out / "report.json").read_text())["stages"]
        return {kind: stage["steps"] for kind, stage in stages.items()}


def said(done: Done) -> str:
    """What the user sees, in one line: tables and progress break lines."""
    return " ".join((done.stdout + done.stderr).split())


def snapshot(folder: Path) -> Snapshot:
    """Every file with its time and content."""
    return {
        path.relative_to(folder).as_posix(): (path.stat().st_mtime_ns, path.read_bytes())
        for path in folder.rglob("*")
        if path.is_file()
    }


def log_of(run: Run) -> str:
    """For the reader of a failed test."""
    logs = sorted((run.out / "work/sft").glob("a*/log.txt"))
    return logs[-1].read_text()[-3000:] if logs else "no log"
