"""Decodes one batch of sequences token by token over a static key-value cache.

Prompts are right-aligned in the cache, so that every sequence writes its n-th token at the same
slot and a step needs no gather; what lies left of a shorter prompt is masked.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear, rms_norm, scaled_dot_product_attention, silu

from prism_trainer.engine.attention import KeyValueSink
from prism_trainer.engine.packing import Group, Prompt
from prism_trainer.engine.policy import Policy, hidden_states
from prism_trainer.generation.weights import DecoderWeights, LayerWeights


def prefill(policy: Policy, prompts: Sequence[Prompt], kv_sink: KeyValueSink) -> Tensor:
    """Final hidden states [tokens, width] of prompts laid out one after the other; where passes
    gather weights, all processes take part."""
    pack = policy.pack([Group(prompt, ()) for prompt in prompts])
    return policy.sharding.run(lambda model: hidden_states(model.model, pack, kv_sink))


class Decoder:
    """The state of one batch: caches, masks, positions of all its sequences."""

    def __init__(
        self,
        policy: Policy,
        weights: DecoderWeights,
        prompts: Sequence[Prompt],
        sequence_prompts: Tensor,
        max_tokens: int,
    ) -> None:
        """Encode each prompt once; sequence i continues prompt `sequence_prompts[i]`."""
        self.weights = weights
        self._slot = max(len(p.token_ids) for p in prompts)
        """Where the next token's keys and values go."""
        device = sequence_prompts.device
        first, caches = self._prefill(policy, prompts, max_tokens)
        self._caches = [cache.index_select(1, sequence_prompts) for cache in caches]
        self.logits = linear(first, weights.head).index_select(0, sequence_prompts)
        self._mask = (
            self._prompt_mask(prompts, max_tokens).to(device).index_select(0, sequence_prompts)
        )
        positions = torch.tensor([p.next_position for p in prompts], device=device)
        self._positions = positions.index_select(0, sequence_prompts)
        self._cos, self._sin = self._rope_table(policy.model, int(positions.max()) + max_tokens)

    def _prefill(
        self, policy: Policy, prompts: Sequence[Prompt], max_tokens: int
    ) -> tuple[Tensor, list[Tensor]]:
        """Last hidden state per prompt, and per layer a cache [2, prompts, kv_heads, slots,
        dim]."""
        sink: list[tuple[Tensor, Tensor]] = []
        hidden = prefill(policy, prompts, sink)
        shape = (2, len(prompts), self.weights.kv_heads, self._slot + max_tokens, self.weights.dim)
        caches = [hidden.new_zeros(shape, dtype=self.weights.head.dtype) for _ in sink]
        start, ends = 0, []
        for i, prompt in enumerate(prompts):
            length = len(prompt.token_ids)
            for cache, (keys, values) in zip(caches, sink, strict=True):
                place = slice(self._slot - length, self._slot)
                cache[0, i, :, place] = keys[start : start + length].transpose(0, 1)
                cache[1, i, :, place] = values[start : start + length].transpose(0, 1)
            start += length
            ends.append(start - 1)
        return hidden[ends], caches

    def _prompt_mask(self, prompts: Sequence[Prompt], max_tokens: int) -> Tensor:
        """Additive mask [prompts, 1, 1, slots]."""
        shape = (len(prompts), 1, 1, self._slot + max_tokens)
        mask = torch.zeros(shape, dtype=self.weights.head.dtype)
        for i, prompt in enumerate(prompts):
            mask[i, ..., : self._slot - len(prompt.token_ids)] = -torch.inf
        return mask

    @staticmethod
    def _rope_table(model: Any, length: int) -> tuple[Tensor, Tensor]:
        """Cosines and signed sines per position; generated text has equal positions on all axes."""
        rotary = model.model.language_model.rotary_emb
        positions = torch.arange(length, device=rotary.inv_freq.device).expand(3, 1, -1)
        cos, sin = rotary(torch.zeros(1, device=positions.device), positions)
        half = sin.shape[-1] // 2
        return cos[0], torch.cat([-sin[0, :, :half], sin[0, :, half:]], dim=-1)

    def advance(self, tokens: Tensor) -> None:
        """Append one token to every sequence; `logits` then predicts the next."""
        w = self.weights
        x = w.embedding.index_select(0, tokens)
        cos = self._cos.index_select(0, self._positions)[:, None]
        sin = self._sin.index_select(0, self._positions)[:, None]
        for layer, cache in zip(w.layers, self._caches, strict=True):
            x = x + self._attend(
                layer, cache, rms_norm(x, x.shape[-1:], layer.input_norm, w.eps), cos, sin
            )
            gate, up = linear(
                rms_norm(x, x.shape[-1:], layer.mlp_norm, w.eps), layer.gate_up
            ).chunk(2, dim=-1)
            x = x + linear(silu(gate).mul_(up), layer.down)
        self.logits = linear(rms_norm(x, x.shape[-1:], w.final_norm, w.eps), w.head)
        self._slot += 1
        self._positions = self._positions + 1

    def _attend(
        self, layer: LayerWeights, cache: Tensor, x: Tensor, cos: Tensor, sin: Tensor
    ) -> Tensor:
        w = self.weights
        batch, both = len(x), w.heads + w.kv_heads
        qkv = linear(x, layer.qkv).view(batch, both + w.kv_heads, w.dim)
        qk = rms_norm(qkv[:, :both], (w.dim,), None, w.eps) * layer.qk_norm
        half = w.dim // 2
        turned = torch.cat([qk[..., half:], qk[..., :half]], dim=-1)
        qk = torch.addcmul(qk * cos, turned, sin)
        cache[0, :, :, self._slot] = qk[:, w.heads :]
        cache[1, :, :, self._slot] = qkv[:, both:]
        keys, values = cache[:, :, :, : self._slot + 1]
        query = qk[:, : w.heads].reshape(batch, w.kv_heads, w.heads // w.kv_heads, w.dim)
        mask = self._mask[..., : self._slot + 1]
        out = scaled_dot_product_attention(query, keys, values, attn_mask=mask)
        return linear(out.reshape(batch, -1), layer.output)

    def keep(self, rows: Tensor) -> None:
        """Go on with these sequences only."""
        self._caches = [cache.index_select(1, rows) for cache in self._caches]
        self._mask = self._mask.index_select(0, rows)
        self._positions = self._positions.index_select(0, rows)
        self.logits = self.logits.index_select(0, rows)
