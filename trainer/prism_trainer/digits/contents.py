"""What the folder holds: the model and the data sets, written into an empty folder."""

import dataclasses
from pathlib import Path

import pyarrow.parquet as pq

from prism_trainer.digits.faults import measure_faults
from prism_trainer.digits.folder import About
from prism_trainer.digits.images import SPLITS, load_split
from prism_trainer.digits.processor import build_processor
from prism_trainer.digits.tables import TABLES, TableSpec, build_table, draw_rows
from prism_trainer.digits.tiny_model import build_model
from prism_trainer.digits.tokenizer import build_tokenizer

MODEL_FOLDER = "model"


def write_contents(folder: Path, seed: int) -> About:
    """Write everything, a function of the seed; returns what `about.json` is to say of it."""
    return {
        "digits": {split: len(load_split(split)) for split in SPLITS},
        "model": _write_model(folder / MODEL_FOLDER, seed),
        "tables": {spec.name: _write_table(folder, spec, seed) for spec in TABLES},
    }


def _write_model(folder: Path, seed: int) -> About:
    tokenizer = build_tokenizer()
    model = build_model(tokenizer, seed)
    model.save_pretrained(folder)
    build_processor(tokenizer).save_pretrained(folder)
    return {"parameters": model.num_parameters(), "vocabulary": len(tokenizer)}


def _write_table(folder: Path, spec: TableSpec, seed: int) -> About:
    drawn = list(draw_rows(spec, seed))
    pq.write_table(build_table([row for _, row in drawn]), folder / f"{spec.name}.parquet")
    about: About = {"rows": len(drawn), "digits_from": spec.split}
    if "messages" in drawn[0][1]:
        shown = [(scene, row["messages"][-1]["content"]) for scene, row in drawn]
        about["faults"] = dataclasses.asdict(measure_faults(shown))
    return about
