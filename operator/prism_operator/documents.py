"""Reads and writes PrismRun documents: YAML 1.2 numbers, no duplicate keys, clear errors."""

import re
from pathlib import Path
from typing import Any

import yaml

from prism_api.base import parse
from prism_api.errors import FieldProblem, SpecError
from prism_api.names import API_VERSION, KIND
from prism_api.run import PrismRun

_FLOAT = re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?$")


_MAX_INT_BITS = 64
"""More digits fit no field, and very many cannot even be shown."""
_EXACT = 2**53
"""Below, every whole number has its own float64."""
_KEY_TAGS = {
    f"tag:yaml.org,2002:{kind}" for kind in ("str", "int", "float", "bool", "null", "merge")
}
_BEGINNING = f"give a PrismRun: apiVersion: {API_VERSION}, kind: {KIND}, metadata, spec"


class _Loader(yaml.SafeLoader):
    """As Kubernetes reads YAML: 1e-5 is a number, 100.0 is 100, and a key may occur once."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """The value of a node; what is none, such as the 31st of June, is an error with a place."""
        try:
            value = super().construct_object(node, deep)
            if isinstance(value, int) and value.bit_length() > _MAX_INT_BITS:
                raise ValueError
            if isinstance(value, str):
                value.encode()  # half a surrogate pair is no text
            if isinstance(value, float) and value.is_integer() and abs(value) < _EXACT:
                return int(value)  # what kubectl sends
            return value
        except (ValueError, LookupError, AttributeError):
            problem = f"{str(node.value)[:40]!r} is no {node.tag.rpartition(':')[2]}"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark) from None


class _Dumper(yaml.SafeDumper):
    """Quotes texts that `_Loader` would take for numbers."""


for _side in (_Loader, _Dumper):
    _side.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))


def _mapping(loader: yaml.SafeLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen = set()
    for key, _ in node.value:
        name = (key.tag, str(key.value))
        if key.tag not in _KEY_TAGS:
            raise yaml.MarkedYAMLError(problem="a key is no text", problem_mark=key.start_mark)
        if name in seen:
            problem = f"the key {key.value!r} occurs for the second time"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
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
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise _refusal(path, f"cannot be read ({error.strerror})", "check the path") from None
    except UnicodeDecodeError as error:
        problem = f"is no text in UTF-8 (byte {error.start})"
        raise _refusal(path, problem, _BEGINNING) from None
    try:
        document = yaml.load(text, Loader=_Loader)
    except RecursionError:
        raise _refusal(path, "is not YAML: it is nested too deeply", _BEGINNING) from None
    except yaml.YAMLError as error:
        problem = f"is not YAML: {_described(error)}"
        raise _refusal(path, problem, "mend it there") from None
    if document is None:
        raise _refusal(path, "is empty", _BEGINNING)
    if not isinstance(document, dict):
        raise _refusal(path, "is not a mapping of fields", _BEGINNING)
    return parse(PrismRun, document, str(path))


def _refusal(path: Path, problem: str, remedy: str) -> SpecError:
    return SpecError([FieldProblem(str(path), problem, remedy)])


def _described(error: yaml.YAMLError) -> str:
    """What is wrong, and where: the parser's own text names no file and spreads over lines."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark:
        context = f"{error.context}, " if error.context else ""
        mark = error.problem_mark
        return f"{context}{error.problem} at line {mark.line + 1}, column {mark.column + 1}"
    if isinstance(error, yaml.reader.ReaderError):
        return f"the character {chr(error.character)!r} at {error.position} is not allowed"
    return str(error)
