"""Kills a whole run with SIGKILL at random moments and resumes it each time; `make test-resume`.

The final weights, optimizer states and metrics of every stage must be bitwise those of a run that
nobody disturbed. Prints where each kill hit, so that one can see that all stages were hit.
"""

import argparse
import hashlib
import json
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import yaml

ROOT = Path(__file__).parents[2]
PRISM = Path(sys.executable).with_name("prism")
STAGES = ("sft", "align", "rlvr")


@dataclass(frozen=True)
class Kill:
    """One kill and what the run was doing."""

    after_seconds: float
    place: str


def short_run() -> dict[str, Any]:
    """The quickstart, shrunk so that an undisturbed run takes a minute or two."""
    run: dict[str, Any] = yaml.safe_load((ROOT / "examples/quickstart.yaml").read_text())
    stages = run["spec"]["stages"]
    run["metadata"]["name"] = "resume"
    run["spec"]["evaluation"]["maxSamples"] = 128
    stages["sft"] |= {"steps": 240, "checkpointEverySteps": 17, "learningRate": 0.003}
    stages["align"] |= {"steps": 30, "checkpointEverySteps": 3, "learningRate": 0.0001}
    stages["align"]["discriminator"] |= {"learningRate": 0.001}
    stages["align"]["discriminator"]["warmup"] = {
        "steps": 10,
        "batchSize": 16,
        "learningRate": 0.001,
    }
    stages["rlvr"] |= {"steps": 30, "checkpointEverySteps": 3, "learningRate": 0.0001}
    return run


def main() -> None:
    """Run, kill, resume, compare; exits with 1 if anything differs."""
    parser = argparse.ArgumentParser(prog="make test-resume", description=__doc__)
    parser.add_argument("--kills", type=int, default=20, help="how often the run is killed (20)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (0)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="prism-resume-") as name:
        sys.exit(not check(Path(name), arguments.kills, random.Random(arguments.seed)))


def check(folder: Path, kills: int, moments: random.Random) -> bool:
    """Whether a run that was killed so often ends exactly like an undisturbed one."""
    spec = folder / "run.yaml"
    spec.write_text(yaml.safe_dump(short_run()))
    started = time.monotonic()
    finish(spec, folder / "calm")
    calm_seconds = time.monotonic() - started
    say(f"undisturbed: {calm_seconds:.0f} s")
    for number in range(1, kills + 1):
        if (folder / "killed" / "report.json").exists():
            say(f"the run was done after {number - 1} kills; give fewer or shorter moments")
            return False
        kill = run_and_kill(spec, folder / "killed", moments.uniform(0.3, 0.15 * calm_seconds))
        say(f"kill {number:2d} after {kill.after_seconds:4.1f} s: {kill.place}")
    finish(spec, folder / "killed")
    calm, killed = (fingerprint(folder / run) for run in ("calm", "killed"))
    different = sorted(key for key in calm | killed if calm.get(key) != killed.get(key))
    say(f"{len(calm)} tensors files and histories compared, {len(different)} differ")
    for key in different:
        say(f"  differs: {key}")
    return not different


def finish(spec: Path, out: Path) -> None:
    """Run to the end; raises if that fails."""
    subprocess.run(command(spec, out), check=True, stdout=subprocess.DEVNULL)


def run_and_kill(spec: Path, out: Path, seconds: float) -> Kill:
    """Start or resume the run and kill its whole process tree after so many seconds."""
    process = psutil.Popen(command(spec, out), stdout=subprocess.DEVNULL)
    time.sleep(seconds)
    tree = [process, *process.children(recursive=True)] if process.is_running() else []
    for member in tree:
        member.suspend()  # nothing may be born while the tree is being killed
    tree += [c for member in tree for c in children(member) if c not in tree]
    for member in tree:
        member.kill()
    psutil.wait_procs(tree, timeout=30)
    return Kill(seconds, place_of(out))


def children(process: psutil.Process) -> list[psutil.Process]:
    """Direct children, none if it is gone."""
    try:
        found: list[psutil.Process] = process.children()
    except psutil.NoSuchProcess:
        return []
    return found


def command(spec: Path, out: Path) -> list[str]:
    """The command a user would type."""
    return [str(PRISM), "run", str(spec), "--out", str(out)]


def place_of(out: Path) -> str:
    """The newest progress of the run."""
    reports = sorted(out.glob("work/*/*/progress.json"), key=lambda path: path.stat().st_mtime)
    if (out / "report.json").exists():
        return "finished"
    if not reports:
        return "before the first step"
    progress = json.loads(reports[-1].read_text())
    attempts = len(list(out.glob("work/*/*")))
    place = f"{progress['stage']} {progress['phase']} {progress['step']}/{progress['steps']}"
    return f"{place} (newest report; {attempts} attempts so far)"


def fingerprint(out: Path) -> dict[str, str]:
    """Hashes of all final tensors, and of the metrics without their times."""
    hashes = {}
    report = json.loads((out / "report.json").read_text())
    for stage in STAGES:
        checkpoint = Path(report["stages"][stage]["checkpoint"].removeprefix("file://"))
        manifest = json.loads((checkpoint / "manifest.json").read_text())
        for entry in manifest["objects"]:
            if entry["path"].endswith(".safetensors"):
                hashes[f"{stage}/{entry['path']}"] = entry["sha256"]
        rows = [
            json.loads(line) for line in (checkpoint / "metrics.jsonl").read_text().splitlines()
        ]
        for row in rows:
            row.pop("seconds")
            row.pop("tokens_per_second")
        text = json.dumps(rows, sort_keys=True)
        hashes[f"{stage}/metrics"] = hashlib.sha256(text.encode()).hexdigest()
        hashes[f"{stage}/accuracy"] = str(report["stages"][stage]["accuracy"])
    return hashes


def say(text: str) -> None:
    """Print at once, as the whole takes minutes."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
