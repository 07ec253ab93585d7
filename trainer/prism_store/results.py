"""The results that a stage's attempts leave in its store: `a<number>/result.json`."""

import hashlib
from dataclasses import dataclass

from prism_api.base import parse_json
from prism_api.errors import SpecError, StoreError
from prism_api.names import RESULT_FILE
from prism_api.stage_config import StageResult
from prism_store.attempts import attempt_numbers
from prism_store.store import Store


@dataclass(frozen=True)
class StoredResult:
    """A result and the object that holds it."""

    uri: str
    digest: str
    """SHA-256 of the object."""
    result: StageResult


def newest_result(store: Store) -> StoredResult | None:
    """The result of the latest attempt that has left one in a stage's store; raises StoreError if
    it cannot be read."""
    for number in reversed(attempt_numbers(store.names(""))):
        key = f"a{number}/{RESULT_FILE}"
        if store.exists(key):
            return _read(store, key)
    return None


def _read(store: Store, key: str) -> StoredResult:
    text, uri = store.get(key), f"{store.uri}/{key}"
    try:
        result = parse_json(StageResult, text, uri)
    except SpecError as error:
        raise StoreError(f"{error}\ndelete the file to do the stage's end again") from None
    return StoredResult(uri, hashlib.sha256(text).hexdigest(), result)
