"""Decodes one batch of sequences token by token over a key-value cache.

Prompts are right-aligned in the cache, so that every sequence writes its n-th token at the same
slot and a step needs no gather; what lies left of a shorter prompt is masked.
"""

from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear, rms_norm, scaled_dot_product_attention, silu

from prism_trainer.engine.attention import KeyValueSink
from prism_trainer.engine.packing import Group, Pack, Prompt, split_into_packs
from prism_trainer.engine.policy import Policy, hidden_states
from prism_trainer.generation.cache import KeyValueCache
from prism_trainer.generation.weights import DecoderWeights, LayerWeights


def prefill(
    policy: Policy, prompts: Sequence[Prompt]
) -> Iterator[tuple[list[Group], Tensor, KeyValueSink]]:
    """Prompts pack by pack, with final hidden states [tokens, width] and each layer's keys and
    values.

    Where passes gather weights, all processes take part until the one with most packs is through,
    those without prompts too.
    """
    packs = split_into_packs([Group(prompt, ()) for prompt in prompts], policy.max_tokens)
    for groups in policy.in_step(packs, []):
        sink: KeyValueSink = []
        with policy.autocast():
            hidden = _hidden(policy, policy.pack(groups), sink)
        if groups:
            yield groups, hidden, sink


def _hidden(policy: Policy, pack: Pack, sink: KeyValueSink) -> Tensor:
    return policy.sharding.run(lambda model: hidden_states(model.model, pack, sink))


class Decoder:
    """The state of one batch: cache, mask, positions of all its sequences."""

    def __init__(
        self,
        policy: Policy,
        weights: DecoderWeights,
        prompts: Sequence[Prompt],
        samples: Sequence[int],
        max_tokens: int,
    ) -> None:
        """Encode each prompt once; prompt i has `samples[i]` sequences, one after the other."""
        self.weights = weights
        self._slot = max(len(p.token_ids) for p in prompts)
        """Where the next token's keys and values go."""
        limit = self._slot + max_tokens
        self._cache = KeyValueCache(weights, sum(samples), self._slot, limit)
        counts = torch.tensor(samples, device=weights.head.device)
        self.logits = self._prefill(policy, prompts, samples).repeat_interleave(counts, 0)
        self._mask = self._prompt_mask(prompts, limit).repeat_interleave(counts, 0)
        positions = torch.tensor([p.next_position for p in prompts], device=counts.device)
        self._positions = positions.repeat_interleave(counts)
        self._cos, self._sin = self._rope_table(policy.model, int(positions.max()) + max_tokens)

    def _prefill(self, policy: Policy, prompts: Sequence[Prompt], samples: Sequence[int]) -> Tensor:
        """Fill the cache, pack by pack; returns logits [prompts, vocabulary] of the first token."""
        stops = accumulate(samples)
        rows = iter([slice(stop - n, stop) for stop, n in zip(stops, samples, strict=True)])
        last = []
        for groups, hidden, sink in prefill(policy, prompts):
            ends = list(accumulate(group.num_tokens for group in groups))
            for group, end in zip(groups, ends, strict=True):
                self._store(next(rows), slice(end - group.num_tokens, end), sink)
            last.append(hidden[[end - 1 for end in ends]])
        # It holds all weights in half precision; decoding has its own.
        torch.clear_autocast_cache()
        return linear(torch.cat(last), self.weights.head)

    def _store(self, rows: slice, tokens: slice, sink: KeyValueSink) -> None:
        """Copy one prompt's keys and values from its pack to its sequences."""
        place = slice(self._slot - (tokens.stop - tokens.start), self._slot)
        for layer, (keys, values) in zip(self._cache.layers, sink, strict=True):
            layer[0, rows, :, place] = keys[tokens].transpose(0, 1)
            layer[1, rows, :, place] = values[tokens].transpose(0, 1)

    def _prompt_mask(self, prompts: Sequence[Prompt], limit: int) -> Tensor:
        """Additive mask [prompts, 1, 1, limit]."""
        mask = torch.zeros((len(prompts), 1, 1, limit), dtype=self.weights.head.dtype)
        for i, prompt in enumerate(prompts):
            mask[i, ..., : self._slot - len(prompt.token_ids)] = -torch.inf
        return mask.to(self.weights.head.device)

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
        self._cache.make_room(self._slot)
        x = w.embedding.index_select(0, tokens)
        cos = self._cos.index_select(0, self._positions)[:, None]
        sin = self._sin.index_select(0, self._positions)[:, None]
        for layer, cache in zip(w.layers, self._cache.layers, strict=True):
            x = x + self._attend(
                layer, cache, rms_norm(x, x.shape[-1:], layer.input_norm, w.eps), cos, sin
            )
            normed = rms_norm(x, x.shape[-1:], layer.mlp_norm, w.eps)
            if layer.router is None:
                x = x + _mlp(normed, layer.gate_up, layer.down)
            else:
                x = x + _mixture(normed, layer, layer.router, w.experts_per_token)
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
        self._cache.keep(rows)
        self._mask = self._mask.index_select(0, rows)
        self._positions = self._positions.index_select(0, rows)
        self.logits = self.logits.index_select(0, rows)


def _mlp(x: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    gate, up = linear(x, gate_up).chunk(2, dim=-1)
    return linear(silu(gate).mul_(up), down)


def _mixture(x: Tensor, layer: LayerWeights, router: Tensor, experts_per_token: int) -> Tensor:
    """Each token by the experts of its largest router probabilities, which are scaled to sum to
    one (transformers' Qwen3VLMoeTextTopKRouter)."""
    probabilities = torch.softmax(linear(x, router).float(), dim=-1)
    shares, chosen = probabilities.topk(experts_per_token, dim=-1)
    shares = shares / shares.sum(-1, keepdim=True)
    result = torch.zeros_like(x)
    for expert in chosen.unique().tolist():
        rows, ranks = (chosen == expert).nonzero(as_tuple=True)
        output = _mlp(x[rows], layer.gate_up[expert], layer.down[expert])
        result[rows] += (output * shares[rows, ranks, None]).to(x.dtype)
    return result
