"""Reads and writes PrismRun documents: YAML 1.2 numbers, no duplicate keys, clear errors."""

import re
from pathlib import Path
from typing import Any

import yaml

from prism_api.base import parse
from prism_api.errors import FieldProblem, SpecError
from prism_api.run import PrismRun

_FLOAT = re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?$")


class _Loader(yaml.SafeLoader):
    """As Kubernetes reads YAML: 1e-5 is a number, and a key may occur once."""


class _Dumper(yaml.SafeDumper):
    """Quotes texts that `_Loader` would take for numbers."""


for _side in (_Loader, _Dumper):
    _side.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))


def _mapping(loader: yaml.SafeLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen = set()
    for key, _ in node.value:
        name = (key.tag, str(key.value))
        if name in seen:
            line = key.start_mark.line + 1
            raise yaml.YAMLError(f"the key {key.value!r} occurs for the second time at line {line}")
        seen.add(name)
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor("tag:yaml.org,2002:map", _mapping)


def to_yaml(document: dict[str, Any]) -> str:
    """A plain document as YAML that reads back as the same."""
    text: str = yaml.dump(document, Dumper=_Dumper, sort_keys=False)
    return text


def read_run(path: Path) -> PrismRun:
    """The PrismRun in a file; raises SpecError with every problem found."""
    try:
        document = yaml.load(path.read_text(), Loader=_Loader)
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(
            [FieldProblem(str(path), f"cannot be read ({error})", "check the path")]
        ) from None
    except (yaml.YAMLError, RecursionError) as error:
        text = " ".join(str(error).split())
        raise SpecError(
            [FieldProblem(str(path), f"is not YAML ({text})", "mend the file")]
        ) from None
    if not isinstance(document, dict):
        problem = FieldProblem(
            "$", "is not a mapping", "start with apiVersion, kind, metadata, spec"
        )
        raise SpecError([problem], str(path))
    return parse(PrismRun, document, str(path))
