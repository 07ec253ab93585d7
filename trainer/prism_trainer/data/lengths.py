"""How long a teacher's text may be in alignment; imports no torch."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer

from prism_api.errors import DataError
from prism_trainer.data.rows import Row


def check_teacher(origin: str, tokens: int, limit: int) -> None:
    """Raise DataError for a teacher's text of more tokens than the policy's responses may have.

    The policy could never write as much, and no pass is planned for it.
    """
    if tokens > limit:
        raise DataError(
            f"{origin}: the teacher's text has {tokens} tokens, which exceeds maxResponseTokens "
            f"{limit} of stages.align; shorten it, remove the row or raise maxResponseTokens"
        )


@dataclass(frozen=True)
class TeacherLimit:
    """The most tokens that a teacher's text may have, and how they are counted."""

    tokenizer: Path
    tokens: int
    whole: bool
    """Whether the text is read whole (the control), or as a caption and a reasoning."""

    def checker(self) -> Callable[[Row], None]:
        """What every row has to pass; both raise DataError."""
        try:
            tokenizer = Tokenizer.from_file(str(self.tokenizer))
        except Exception as error:  # the library raises nothing more specific
            raise DataError(f"{self.tokenizer}: is no tokenizer ({error})") from None
        tokenizer.no_truncation()

        def check(row: Row) -> None:
            parts = [(text or "").strip() for text in (row.teacher_caption, row.teacher_reasoning)]
            texts = [row.response or ""] if self.whole else parts
            encoded = tokenizer.encode_batch(texts, add_special_tokens=False)
            length = sum(len(text.ids) + 1 for text in encoded)  # each ends its turn
            check_teacher(row.origin, length, self.tokens)

        return check
