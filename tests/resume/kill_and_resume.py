"""Kills a whole run with SIGKILL at 20 random moments, spread over all stages and aimed at
all their phases, and resumes it each time; `make test-resume`.

The final weights, optimizer states and metrics of every stage must be bitwise those of a run that
nobody disturbed. Prints where each kill hit; every stage has to be hit often enough.
"""

import argparse
import hashlib
import json
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import yaml
from places import DELAYS_SECONDS, STAGES, Place, attempts_of, place_of, places_to_hit

ROOT = Path(__file__).parents[2]
PRISM = Path(sys.executable).with_name("prism")
POLL_SECONDS = 0.005
PATIENCE_SECONDS = 240


def short_run() -> dict[str, Any]:
    """The quickstart, shrunk so that an undisturbed run takes about a minute."""
    run: dict[str, Any] = yaml.safe_load((ROOT / "examples/quickstart.yaml").read_text())
    stages = run["spec"]["stages"]
    run["metadata"]["name"] = "resume"
    run["spec"]["evaluation"]["maxSamples"] = 128
    stages["sft"] |= {"steps": 160, "checkpointEverySteps": 17, "learningRate": 0.003}
    stages["align"] |= {"steps": 24, "checkpointEverySteps": 3, "learningRate": 0.0001}
    stages["align"]["discriminator"] |= {"learningRate": 0.001}
    stages["align"]["discriminator"]["warmup"] = {
        "steps": 10,
        "batchSize": 16,
        "learningRate": 0.001,
    }
    stages["rlvr"] |= {"steps": 24, "checkpointEverySteps": 3, "learningRate": 0.0001}
    stages["rlvr"] |= {"batchSize": 16}
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
    spec, calm, killed = folder / "run.yaml", folder / "calm", folder / "killed"
    spec.write_text(yaml.safe_dump(short_run()))
    started = time.monotonic()
    finish(spec, calm)
    say(f"undisturbed: {time.monotonic() - started:.0f} s\n")
    hits = kill_everywhere(spec, killed, places_to_hit(kills, moments), moments)
    finish(spec, killed)
    say(f"\nin all: {time.monotonic() - started:.0f} s")
    return hit_all_stages(hits, kills // 5) and are_equal(fingerprint(calm), fingerprint(killed))


def kill_everywhere(
    spec: Path, out: Path, wanted: Sequence[Place], moments: random.Random
) -> list[Place]:
    """Kill the run at each of the places and say where the kill hit."""
    say("kill  stage  phase       step     wanted             after")
    hits = []
    for number, place in enumerate(wanted, start=1):
        seconds = moments.uniform(0, DELAYS_SECONDS[place.phase])
        hit = run_and_kill(spec, out, place, seconds)
        step = f"{hit.step}/{hit.steps}" if hit.steps else "-"
        aim = f"{place.stage} {place.phase}"
        say(f"{number:4d}  {hit.stage:5}  {hit.phase:10}  {step:7}  {aim:17}  + {seconds:.2f} s")
        hits.append(hit)
    return hits


def run_and_kill(spec: Path, out: Path, wanted: Place, seconds: float) -> Place:
    """Start or resume the run and kill all its processes so long after a place was reached; returns
    where it stood."""
    before = attempts_of(out)
    process = psutil.Popen(command(spec, out), stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not place_of(out, before).reaches(wanted):
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"the run ended, or hangs, before it got to {wanted}")
            time.sleep(POLL_SECONDS)
        time.sleep(seconds)
    finally:
        tree = frozen(process)
        hit = place_of(out, before)
        for member in tree:
            member.kill()
        psutil.wait_procs(tree, timeout=30)
    return hit


def frozen(process: psutil.Popen) -> list[psutil.Process]:
    """A process and all below it, suspended: nothing may be born while they are being killed."""
    tree: list[psutil.Process] = []
    while members := [p for p in [process, *descendants(process)] if p not in tree]:
        for member in reversed(members):  # first of all the trainers
            try:
                member.suspend()
            except psutil.NoSuchProcess:
                continue
        tree += members
    return tree


def descendants(process: psutil.Process) -> list[psutil.Process]:
    """All processes below one, none if it is gone."""
    try:
        found: list[psutil.Process] = process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []
    return found


def finish(spec: Path, out: Path) -> None:
    """Run to the end; raises if that fails."""
    subprocess.run(command(spec, out), check=True, stdout=subprocess.DEVNULL)


def command(spec: Path, out: Path) -> list[str]:
    """The command a user would type."""
    return [str(PRISM), "run", str(spec), "--out", str(out)]


def hit_all_stages(hits: Sequence[Place], least: int) -> bool:
    """Whether each stage was hit at least so often."""
    counts = Counter(hit.stage for hit in hits)
    say("hits: " + ", ".join(f"{stage} {counts[stage]}" for stage in STAGES))
    return all(counts[stage] >= least for stage in STAGES)


def are_equal(calm: dict[str, str], killed: dict[str, str]) -> bool:
    """Whether both runs have the same of everything, and what differs if not."""
    different = sorted(key for key in calm | killed if calm.get(key) != killed.get(key))
    say(f"{len(calm)} tensor files, histories and accuracies compared, {len(different)} differ")
    for key in different:
        say(f"  differs: {key}")
    return not different


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
