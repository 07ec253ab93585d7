"""`make golden`: writes what tests/manifests compares children with.

What it writes is reviewed like code: `git diff tests/manifests/golden` says what a change does to
the objects in a cluster.
"""

from pathlib import Path
from typing import Any

import yaml

from child_builders import named_children

FOLDER = Path(__file__).parents[1] / "manifests" / "golden"


class _Dumper(yaml.SafeDumper):
    """Long texts as they are read, nothing by reference."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)


def main() -> None:
    """Write all files anew."""
    for path in FOLDER.glob("*.yaml"):
        path.unlink()
    for name, manifests in named_children().items():
        text = yaml.dump_all(manifests, Dumper=_Dumper, sort_keys=False, width=100)
        (FOLDER / f"{name}.yaml").write_text(text)


if __name__ == "__main__":
    main()
