"""Reproduces the README's figures: the quickstart over several seeds, its baseline and controls.

Per seed: the quickstart (learned routing), the same with segment routing, SFT -> RLVR of as many
steps, and alignment replaced by SFT on the same teacher texts. The variants start from the
quickstart's own SFT result, which would be the same if they trained it again. Finished runs are not
repeated.
"""

import argparse
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

from prism_operator.report.summary import Summary, read_summary

ROOT = Path(__file__).parents[2]
PRISM = Path(sys.executable).with_name("prism")
Document = dict[str, Any]


def quickstart(name: str) -> Document:
    """An example as a plain document."""
    document: Document = yaml.safe_load((ROOT / f"examples/{name}.yaml").read_text())
    return document


def segment_routing() -> Document:
    """The quickstart with dedicated experts per segment."""
    document = quickstart("quickstart")
    document["spec"]["stages"]["align"]["discriminator"]["routing"] = "segment"
    return document


VARIANTS: dict[str, Callable[[], Document]] = {
    "segment": segment_routing,
    "baseline": lambda: quickstart("quickstart-baseline"),
    "control": lambda: quickstart("quickstart-control"),
}


def main() -> None:
    """Run everything that is missing and print the table."""
    parser = argparse.ArgumentParser(prog="make figures", description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=ROOT / "runs/figures")
    parser.add_argument("--parallel", type=int, default=1, help="seeds at a time (1)")
    arguments = parser.parse_args()
    pending = list(arguments.seeds)
    while pending:
        batch, pending = pending[: arguments.parallel], pending[arguments.parallel :]
        workers = [
            subprocess.Popen([sys.executable, __file__, "--one", str(s), str(arguments.out)])
            for s in batch
        ]
        if any(worker.wait() for worker in workers):
            sys.exit("a run failed; see above")
    print_table({seed: read_all(arguments.out / f"seed-{seed}") for seed in arguments.seeds})


def run_seed(seed: int, folder: Path) -> None:
    """The quickstart, then its variants from the same SFT result."""
    folder.mkdir(parents=True, exist_ok=True)
    run(quickstart("quickstart"), folder / "learned", seed)
    sft = read_summary(folder / "learned").stages["sft"].checkpoint
    for name, build in VARIANTS.items():
        document = build()
        del document["spec"]["stages"]["sft"]
        document["spec"]["model"]["uri"] = f"{sft}/export"
        document["metadata"]["name"] = name
        run(document, folder / name, seed)


def run(document: Document, out: Path, seed: int) -> None:
    """`prism run`, unless its report is there."""
    if (out / "report.json").is_file():
        return
    path = out.with_suffix(".yaml")
    path.write_text(yaml.safe_dump(document))
    command = [str(PRISM), "run", str(path), "--out", str(out), "--seed", str(seed)]
    subprocess.run(command, check=True)


def read_all(folder: Path) -> dict[str, Summary]:
    """The summaries of a seed's runs."""
    return {name: read_summary(folder / name) for name in ("learned", *VARIANTS)}


def print_table(seeds: dict[int, dict[str, Summary]]) -> None:
    """Held-out accuracy (and caption accuracy) in percent, one column per seed."""
    table = Table(title="held-out accuracy (captions), %")
    table.add_column("after")
    for seed in seeds:
        table.add_column(f"seed {seed}", justify="right")
    for label, variant, stage in ROWS:
        table.add_row(label, *(_cell(runs[variant], stage) for runs in seeds.values()))
    minutes = (f"{runs['learned'].wall_seconds / 60:.1f} min" for runs in seeds.values())
    table.add_row("the whole quickstart took", *minutes)
    memory = (f"{runs['learned'].peak_rss_bytes / 1e9:.2f} GB" for runs in seeds.values())
    table.add_row("peak resident memory", *memory)
    Console(width=110).print(table)


ROWS: Sequence[tuple[str, str, str]] = (
    ("SFT", "learned", "sft"),
    ("SFT -> alignment (learned routing)", "learned", "align"),
    ("SFT -> alignment (segment routing)", "segment", "align"),
    ("control: SFT -> SFT on the teacher texts", "control", "align"),
    ("SFT -> alignment -> RLVR (learned routing)", "learned", "rlvr"),
    ("SFT -> alignment -> RLVR (segment routing)", "segment", "rlvr"),
    ("baseline: SFT -> RLVR, as many steps", "baseline", "rlvr"),
)


def _cell(summary: Summary, stage: str) -> str:
    figures = summary.stages[stage]  # type: ignore[index]
    if figures.accuracy is None or figures.caption_accuracy is None:
        return "-"
    return f"{100 * figures.accuracy:.1f} ({100 * figures.caption_accuracy:.1f})"


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        run_seed(int(sys.argv[2]), Path(sys.argv[3]) / f"seed-{sys.argv[2]}")
    else:
        main()
