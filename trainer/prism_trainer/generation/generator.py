"""InProcessGenerator: the RolloutClient that samples in the trainer's own process."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from prism_api.memory import sequences_that_fit
from prism_trainer.engine.policy import Policy
from prism_trainer.generation.cache import bytes_per_sequence, usable_bytes
from prism_trainer.generation.decoder import Decoder, prefill
from prism_trainer.generation.weights import DecoderWeights, snapshot
from prism_trainer.rollouts import Completion, Request, SamplingParams
from prism_trainer.seeds import numpy_generator

_COMPACT_BELOW = 0.75
"""Finished sequences are dropped from the batch once fewer than this share are left."""


class InProcessGenerator:
    """Samples from the policy's own weights, at most `batch_size` sequences at a time."""

    def __init__(self, policy: Policy, eos_id: int, batch_size: int) -> None:
        self._policy, self._eos_id, self._batch_size = policy, eos_id, batch_size
        self._version = 0

    def update_weights(self, version: int) -> None:
        """The weights are shared with the trainer; only the version is noted."""
        self._version = version

    def generate(
        self, requests: Sequence[Request], params: SamplingParams
    ) -> list[list[Completion]]:
        """See RolloutClient.generate."""
        wanted = [(i, seed) for i, request in enumerate(requests) for seed in request.seeds]
        results: list[list[Completion]] = [[] for _ in requests]
        if not wanted and not self._policy.sharding.in_step:
            return results
        with torch.no_grad(), self._autocast():
            weights = snapshot(self._policy, self._compute_dtype())
            size = self._sequences_at_once(weights, requests, len(wanted), params)
            batches = [wanted[start : start + size] for start in range(0, len(wanted), size)]
            for batch in self._policy.in_step(batches, []):
                completions = self._decode_batch(weights, requests, batch, params)
                for (i, _), completion in zip(batch, completions, strict=True):
                    results[i].append(completion)
        return results

    def _sequences_at_once(
        self,
        weights: DecoderWeights,
        requests: Sequence[Request],
        wanted: int,
        params: SamplingParams,
    ) -> int:
        """As many as are wanted, allowed, and fit into memory if all reach the length limit."""
        longest = max((len(r.prompt.token_ids) for r in requests), default=0)
        slots = longest + params.max_tokens
        size = bytes_per_sequence(weights, slots)
        usable = usable_bytes(self._policy.ranks.device)
        return sequences_that_fit(min(max(1, wanted), self._batch_size), size, usable)

    def _decode_batch(
        self,
        weights: DecoderWeights,
        requests: Sequence[Request],
        batch: Sequence[tuple[int, int]],
        params: SamplingParams,
    ) -> list[Completion]:
        """Complete the sequences of a batch; an empty one takes part in the others' passes."""
        if not batch:
            assert not list(prefill(self._policy, [])), "no prompts, no packs"
            return []
        samples = Counter(i for i, _ in batch)
        decoder = Decoder(
            self._policy,
            weights,
            [requests[i].prompt for i in samples],
            list(samples.values()),
            params.max_tokens,
        )
        uniforms = None
        if params.temperature > 0:
            draws = [numpy_generator(seed).random(params.max_tokens) for _, seed in batch]
            uniforms = torch.from_numpy(np.stack(draws)).to(self._policy.ranks.device)
        tokens, logprobs, lengths = self._loop(decoder, uniforms, params, len(batch))
        return self._completions(tokens, logprobs, lengths, [seed for _, seed in batch])

    def _autocast(self) -> torch.autocast:
        """Decoding casts for each product, also where the engine's passes need no autocast: its
        matrices are in half precision, what they add to is in float32."""
        device = self._policy.ranks.device.type
        return torch.autocast(device, torch.bfloat16, enabled=self._policy.half_precision)

    def _compute_dtype(self) -> torch.dtype:
        return torch.bfloat16 if self._policy.half_precision else torch.float32

    def _loop(
        self, decoder: Decoder, uniforms: Tensor | None, params: SamplingParams, count: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens and log-probabilities [count, max_tokens] and lengths [count]."""
        device = decoder.logits.device
        tokens = torch.zeros(count, params.max_tokens, dtype=torch.long, device=device)
        logprobs = torch.zeros(count, params.max_tokens, device=device)
        lengths = torch.full((count,), params.max_tokens, device=device)
        active = torch.arange(count, device=device)
        running = torch.ones(count, dtype=torch.bool, device=device)
        for step in range(params.max_tokens):
            uniform = None if uniforms is None else uniforms[active, step]
            chosen, logprob = _choose(decoder.logits, uniform, params.temperature)
            tokens[active, step], logprobs[active, step] = chosen, logprob
            ended = running & (chosen == self._eos_id)
            lengths[active[ended]] = step + 1
            running &= ~ended
            left = int(running.sum())
            if left == 0 or step + 1 == params.max_tokens:
                break
            if left < _COMPACT_BELOW * len(running):
                rows = running.nonzero().flatten()
                decoder.keep(rows)
                active, chosen, running = active[rows], chosen[rows], running[rows]
            decoder.advance(chosen)
        return tokens, logprobs, lengths

    def _completions(
        self, tokens: Tensor, logprobs: Tensor, lengths: Tensor, seeds: Sequence[int]
    ) -> list[Completion]:
        ids, scores = tokens.cpu().numpy(), logprobs.float().cpu().numpy()
        return [
            Completion(
                ids[i, :n].copy(),
                scores[i, :n].copy(),
                bool(ids[i, n - 1] == self._eos_id),
                self._version,
                seed,
            )
            for i, (n, seed) in enumerate(zip(lengths.tolist(), seeds, strict=True))
        ]


def _choose(logits: Tensor, uniform: Tensor | None, temperature: float) -> tuple[Tensor, Tensor]:
    """One token per row, by inverse transform of one uniform number, or the likeliest."""
    if uniform is None:
        logits = logits.float()
        best, chosen = logits.max(dim=-1)
        return chosen, best - torch.logsumexp(logits, dim=-1)
    log_p = torch.log_softmax(logits.float() / temperature, dim=-1)
    cumulative = log_p.exp().cumsum(dim=-1)
    threshold = uniform.to(cumulative.dtype)[:, None] * cumulative[:, -1:]
    # A uniform number that rounds to 1 must not pass the last token that has any probability.
    last = (cumulative < cumulative[:, -1:]).sum(dim=-1)
    chosen = torch.minimum((cumulative <= threshold).sum(dim=-1), last)
    return chosen, log_p.gather(1, chosen[:, None]).squeeze(1)
