"""Ways to tamper with the record of a stage, and what the audit says of each."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from prism_trainer.audit.checks import Evidence, find_problems
from prism_trainer.record import IterationRecord

Change = Callable[[list[IterationRecord]], object]


def changed(evidence: Evidence, change: Change) -> list[str]:
    """What the audit finds then."""
    rows = list(evidence.rows)
    change(rows)
    return find_problems(replace(evidence, rows=tuple(rows)))


def edit(rows: list[IterationRecord], place: int, **changes: Any) -> None:
    """One step."""
    rows[place] = rows[place].model_copy(update=changes)


def drawing(rows: list[IterationRecord]) -> list[int]:
    """Steps that draw prompts; with a surplus some do not."""
    return [place for place, row in enumerate(rows) if row.drawn]


def edit_prompts(rows: list[IterationRecord], change: Callable[[IterationRecord], Any]) -> None:
    """What the last step that draws any has drawn."""
    place = drawing(rows)[-1]
    edit(rows, place, **change(rows[place]))


def edit_group(rows: list[IterationRecord], **changes: Any) -> None:
    """The first group of the last step that draws any which it trains on."""
    place = drawing(rows)[-1]
    row = rows[place]
    used = {use.position for part in row.trained for use in part}
    chosen = next(group for group in row.drawn if group.position in used)
    drawn = [g.model_copy(update=changes) if g is chosen else g for g in row.drawn]
    edit(rows, place, drawn=tuple(drawn))


def edit_sample(rows: list[IterationRecord], **changes: Any) -> None:
    """The first of that group."""
    place = drawing(rows)[-1]
    used = {use.position for part in rows[place].trained for use in part}
    chosen = next(group for group in rows[place].drawn if group.position in used)
    first, *others = chosen.samples
    edit_group(rows, samples=(first.model_copy(update=changes), *others))


def train_again(rows: list[IterationRecord]) -> None:
    """The last step on what the one before has had."""
    (*parts, last), (before, *_) = rows[-1].trained, rows[-2].trained
    edit(rows, -1, trained=(*parts, (*last[:-1], before[0])))


def train_twice(rows: list[IterationRecord]) -> None:
    (first, *more), *others = rows[-1].trained
    edit(rows, -1, trained=((first, first, *more[1:]), *others))


def train_on_old(rows: list[IterationRecord]) -> None:
    """On something that was drawn three steps before."""
    (_, *more), *others = rows[-1].trained
    edit(rows, -1, trained=((rows[-4].trained[0][0], *more), *others))


def train_on_other_samples(rows: list[IterationRecord]) -> None:
    (use, *more), *others = rows[-1].trained
    edit(rows, -1, trained=((use.model_copy(update={"digest": "0" * 16}), *more), *others))


def draw_a_batch_again(rows: list[IterationRecord]) -> None:
    before, last = drawing(rows)[-2:]
    edit(rows, last, first=rows[before].first, end=rows[before].end)


def draw_a_row_again(rows: list[IterationRecord]) -> None:
    edit_group(rows, draw=rows[drawing(rows)[-2]].drawn[0].draw)


def draw_another(rows: list[IterationRecord]) -> None:
    edit_group(rows, draw=rows[drawing(rows)[-1]].drawn[0].draw + 1000)


def share_a_sample(rows: list[IterationRecord]) -> None:
    edit_sample(rows, seed=rows[drawing(rows)[-2]].drawn[0].samples[0].seed)


def repeat_a_step(rows: list[IterationRecord]) -> None:
    rows.insert(2, rows[1])


STEPS: dict[str, tuple[Change, str]] = {
    "a step missing": (lambda rows: rows.pop(2), r"line 3 is step \d of \w+, step 3 of \w+ was"),
    "a step repeated": (repeat_a_step, r"line 3 is step 2 of \w+, step 3 of \w+ was"),
    "the last step missing": (lambda rows: rows.pop(), "record and metrics are of different"),
    "two steps exchanged": (lambda rows: rows.reverse(), "line 1 is step"),
}
PROMPTS: dict[str, tuple[Change, str]] = {
    "a batch drawn before": (draw_a_batch_again, r"begins with prompt \d+, \d+ was to come"),
    "a larger batch": (
        lambda rows: edit_prompts(rows, lambda row: {"end": row.end + 1}),
        r"has drawn \d+ prompts",
    ),
    "a prompt lost": (
        lambda rows: edit_prompts(rows, lambda row: {"drawn": row.drawn[1:]}),
        r"\d+ prompts are missing, \d\.0 were counted as too long",
    ),
    "a prompt twice": (
        lambda rows: edit_prompts(rows, lambda row: {"drawn": (row.drawn[0], *row.drawn)}),
        "prompts repeated",
    ),
    "a row again in its epoch": (draw_a_row_again, r"has row \d+ again in epoch"),
    "another row": (draw_another, "is not the one in the seed's order"),
    "an optimizer step lost": (
        lambda rows: edit(rows, -1, trained=rows[-1].trained[1:]),
        r"took \d optimizer steps instead of \d",
    ),
    "trained on it again": (train_again, r"trains on prompt \d+ again"),
    "trained on it twice": (train_twice, r"trains on prompt \d+ again"),
    "trained on too little": (
        lambda rows: edit(rows, -1, trained=(rows[-1].trained[0][1:], *rows[-1].trained[1:])),
        r"trains on \d prompts instead of \d",
    ),
    "trained on old ones": (train_on_old, "drawn long before or never"),
}
SAMPLES: dict[str, tuple[Change, str]] = {
    "a sample lost": (lambda rows: edit_group(rows, samples=()), "has other samples than it shou"),
    "a sample used again": (share_a_sample, r"the sample of seed \d+ occurs 2 times"),
    "older weights": (lambda rows: edit_sample(rows, version=1), "a sample of weights 1 instead"),
    "a server's weights": (lambda rows: edit_sample(rows, weights="0" * 16), "with a weights dig"),
    "other tokens": (lambda rows: edit_sample(rows, digest="0" * 16), "trains on other samples"),
    "trained on other samples": (train_on_other_samples, "trains on other samples of prompt"),
}
