"""The `prism` command: validate, plan, run, compare."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from prism_api.errors import PrismError, SpecError
from prism_api.run import PrismRun
from prism_operator.documents import read_run
from prism_operator.manifests.templates import run_template_problems
from prism_operator.model_files import known_shapes
from prism_operator.planning.plan import plan
from prism_operator.rendering import render_configs, render_plan

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Post-train vision-language models by PRISM: SFT, adversarial alignment, RLVR.",
    epilog="Exit codes: 0 done, 2 wrong command line, 64 bad document, 65 bad data, "
    "70 not finite, 73 folder taken, 74 storage, 75 stopped (run again to continue), "
    "1 anything else.",
)
File = Annotated[Path, typer.Argument(help="PrismRun as YAML", show_default=False)]
Seed = Annotated[int | None, typer.Option(help="Instead of spec.seed", min=0, max=2**31 - 1)]


@app.command()
def validate(file: File) -> None:
    """Check a PrismRun; every problem comes with its field, what is wrong and what would be
    right."""
    with _errors():
        run = read_run(file)
        if problems := run_template_problems(run):
            raise SpecError(problems, str(file))
        _out(f"{file}: valid ({', '.join(run.stages)})")


@app.command("plan")
def show_plan(
    file: File,
    as_json: Annotated[
        bool, typer.Option("--json", help="Only the resolved stage configs")
    ] = False,
) -> None:
    """Show the steps of a run: resolved settings, resources, hand-overs."""
    with _errors():
        run = read_run(file)
        store = run.spec.storage.uri if run.spec.storage else "file:///OUT/store"
        steps = plan(run, "00000000", store)
        if as_json:
            _out(render_configs(steps))
        else:
            _out(render_plan(run, steps, known_shapes(steps.model_uris, file.parent)))


@app.command("run")
def run_command(
    file: File,
    out: Annotated[Path | None, typer.Option(help="Output folder; absent: runs/NAME")] = None,
    seed: Seed = None,
) -> None:
    """Run on this machine, or continue where the last invocation stopped."""
    from prism_operator.local.runner import run_locally
    from prism_operator.progress import ProgressView

    with _errors():
        run = _with_seed(read_run(file), seed)
        folder = out or Path("runs") / run.metadata.name
        with ProgressView() as view:
            code = run_locally(run, file.parent, folder, view)
        raise typer.Exit(code)


@app.command()
def compare(
    runs: Annotated[
        list[Path], typer.Argument(help="Folders of finished runs", show_default=False)
    ],
    plot: Annotated[Path, typer.Option(help="Plot to write (.png or .svg)")] = Path(
        "comparison.png"
    ),
) -> None:
    """Print a table of several runs' accuracies and write a plot of them."""
    from prism_operator.local.finished import read_finished
    from prism_operator.report.compare import compare as table
    from prism_operator.report.compare import plot_comparison

    with _errors():
        summaries = read_finished(runs)
        Console().print(table(summaries))
        plot_comparison(summaries, plot)
        _out(f"plot: {plot}")


def _with_seed(run: PrismRun, seed: int | None) -> PrismRun:
    if seed is None:
        return run
    spec = run.spec.model_copy(update={"seed": seed})
    spec.model_fields_set.add("seed")
    return run.model_copy(update={"spec": spec})


@contextmanager
def _errors() -> Iterator[None]:
    """Errors of the platform as text and exit code; anything else is a defect and shows its
    trace."""
    try:
        yield
    except PrismError as error:
        sys.stderr.write(f"{error}\n")
        raise typer.Exit(error.exit_code) from None


def _out(text: str) -> None:
    sys.stdout.write(text + "\n")


def main() -> None:
    """Entry point of the `prism` script."""
    app()
