"""What transformers itself makes of a prompt of turns and images: inputs, greedy tokens, scores."""

import io
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from transformers import PreTrainedModel

from prism_trainer.data.rows import Row
from prism_trainer.engine.packing import Tokens


class Reference:
    """A model and its processor, used as their documentation says."""

    def __init__(self, model: PreTrainedModel, processor: Any) -> None:
        self._model: Any = model
        self._processor = processor

    def greedy(self, row: Row, max_tokens: int) -> list[int]:
        """Tokens of `generate`."""
        inputs = self._inputs(row)
        self._model.model.rope_deltas = None
        tokens = self._model.generate(**inputs, max_new_tokens=max_tokens, do_sample=False)
        answer: list[int] = tokens[0, inputs["input_ids"].shape[1] :].tolist()
        return answer

    def logprobs(self, row: Row, tokens: Tokens, temperature: float = 1.0) -> NDArray[np.float32]:
        """Of each token of a response; it must hold no image placeholder, which transformers would
        look for an image for."""
        log_p = self.distributions(row, tokens, temperature)[:-1]
        chosen = log_p.gather(1, torch.from_numpy(tokens)[:, None])[:, 0]
        scores: NDArray[np.float32] = chosen.numpy()
        return scores

    def distributions(self, row: Row, tokens: Tokens, temperature: float) -> Tensor:
        """[tokens + 1, vocabulary] log-probabilities of each next token."""
        inputs = self._inputs(row)
        start = inputs["input_ids"].shape[1]
        for name, tail in {
            "input_ids": torch.from_numpy(tokens)[None],
            "attention_mask": torch.ones(1, len(tokens), dtype=torch.long),
            "mm_token_type_ids": torch.zeros(1, len(tokens), dtype=torch.long),
        }.items():
            inputs[name] = torch.cat([inputs[name], tail.to(inputs[name].dtype)], dim=1)
        self._model.model.rope_deltas = None
        with torch.no_grad():
            logits = self._model(**inputs).logits[0, start - 1 :].float()
        log_p: Tensor = (logits / temperature).log_softmax(-1)
        return log_p

    def can_score(self, tokens: Tokens) -> bool:
        """Whether a response is free of image placeholders."""
        config = self._model.config
        marks = [config.image_token_id, config.video_token_id, config.vision_start_token_id]
        return not bool(np.isin(tokens, marks).any())

    def _inputs(self, row: Row) -> dict[str, Tensor]:
        images = iter(row.images)
        turns = []
        for turn in row.messages:
            parts: list[dict[str, Any]] = []
            for i, piece in enumerate(turn["content"].split("<image>")):
                if i:
                    content = next(images).content
                    assert content is not None
                    parts.append({"type": "image", "image": Image.open(io.BytesIO(content))})
                if piece:
                    parts.append({"type": "text", "text": piece})
            turns.append({"role": turn["role"], "content": parts})
        return dict(
            self._processor.apply_chat_template(
                turns,
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
                add_generation_prompt=True,
            )
        )
