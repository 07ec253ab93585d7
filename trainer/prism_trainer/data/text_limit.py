"""Texts that are read whole, whatever the settings, have to fit into the model's context."""

from dataclasses import dataclass

from tokenizers import Tokenizer

from prism_api.errors import DataError

_GROWTH = 3
"""How much longer Unicode's normalisation makes a text at most, in bytes (Unicode, UAX 15)."""


@dataclass(frozen=True)
class TextLimit:
    """What a teacher's or student's text may have."""

    tokenizer: Tokenizer
    max_tokens: int
    """End-of-turn token included."""
    reason: str
    """Where the limit comes from."""

    def check(self, text: str, origin: str, what: str) -> None:
        """Raise DataError naming the row if the text is longer.

        A token is one byte or more, so nearly all texts need not be tokenised.
        """
        if _GROWTH * len(text.encode()) < self.max_tokens:
            return
        count = len(self.tokenizer.encode(text, add_special_tokens=False).ids) + 1
        if count > self.max_tokens:
            problem = f"{what} has {count} tokens, but only {self.max_tokens} fit ({self.reason})"
            raise DataError(f"{origin}: {problem}; shorten it or remove the row")
