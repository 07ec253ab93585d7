"""A byte-level BPE tokenizer in Qwen's manner, trained on the quickstart's own texts."""

from collections.abc import Iterator
from itertools import product

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from tokenizers.processors import ByteLevel
from tokenizers.trainers import BpeTrainer
from transformers import PreTrainedTokenizerFast

from prism_trainer.digits.questions import QUESTIONS, Digits, Question
from prism_trainer.digits.teachers import demonstrate

MAX_VOCABULARY = 384
MAX_LENGTH = 4096
END_OF_TURN = "<|im_end|>"
PADDING = "<|endoftext|>"
SPECIAL_TOKENS = (
    PADDING,
    "<|im_start|>",
    END_OF_TURN,
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
"""Qwen's, in its order."""

# Qwen's split: every digit stands alone, words take the space before them.
_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def build_tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer, the same for every seed, so that runs with different seeds can be compared."""
    others = [token for token in SPECIAL_TOKENS if token not in (END_OF_TURN, PADDING)]
    return PreTrainedTokenizerFast(
        tokenizer_object=_train(),
        eos_token=END_OF_TURN,
        pad_token=PADDING,
        extra_special_tokens=others,
        model_max_length=MAX_LENGTH,
        clean_up_tokenization_spaces=False,
    )


def _train() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.post_processor = ByteLevel(trim_offsets=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=MAX_VOCABULARY - len(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_corpus(), trainer)
    special = [AddedToken(token, normalized=False, special=True) for token in SPECIAL_TOKENS]
    tokenizer.add_special_tokens(special)
    return tokenizer


def _corpus() -> Iterator[str]:
    yield from ("system\n", "user\n", "assistant\n") * 100
    for question, digits in product(QUESTIONS, product(range(10), repeat=3)):
        yield question.text
        yield _clean_response(question, digits)


def _clean_response(question: Question, digits: Digits) -> str:
    return demonstrate(question, digits, question.solve(digits)).text
