"""Adapters against peft's; what is trained, merged, switched off and dropped."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import Qwen3VLForConditionalGeneration

from losses_by_split import context_of
from model_builders import (
    build_groups,
    build_model,
    build_policy,
    gradients_of,
    model_inputs,
    reference_logprobs,
    relative_difference,
)
from prism_api.optimization import Optimization
from prism_api.stages import Lora
from prism_trainer.engine.lora import add_adapters
from prism_trainer.engine.policy import Policy
from prism_trainer.models import export
from prism_trainer.stages.sft import supervised_update

LORA = Lora(rank=4, alpha=6.0)
SETTINGS = Optimization(learning_rate=1e-2, grad_clip=0.0)


def adapted(lora: Lora = LORA, train_tower: bool = False, seed: int = 3) -> Any:
    """A model with adapters that have learned something."""
    model = build_model()
    model.model.visual.requires_grad_(train_tower)
    add_adapters(model, lora, seed)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("lora_b"):
                parameter.normal_(0, 0.1, generator=generator)
    return model


def peft_of(model: Any, lora: Lora) -> Any:
    """The same adapters in peft's hands."""
    from peft import LoraConfig, get_peft_model

    modules = "|".join(lora.target_modules)
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        target_modules=rf".*\.language_model\..*\.({modules})",
    )
    theirs: Any = get_peft_model(build_model(), config)
    parameters = dict(theirs.named_parameters())
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            if name.endswith(("lora_a", "lora_b")):
                stem, letter = name[: -len(".lora_a")], name[-1].upper()
                parameters[f"base_model.model.{stem}.lora_{letter}.default.weight"].copy_(tensor)
    return theirs


@pytest.mark.references
@pytest.mark.parametrize("modules", [LORA.target_modules, ("q_proj", "v_proj")])
def test_logits_and_gradients_equal_those_of_peft(modules: Any) -> None:
    lora = Lora(rank=4, alpha=6.0, target_modules=modules)
    ours, group = adapted(lora), build_groups()[0]
    theirs = peft_of(ours, lora)
    inputs = model_inputs(group.prompt, group.continuations[0])
    torch.testing.assert_close(ours(**inputs).logits, theirs(**inputs).logits, rtol=1e-5, atol=1e-5)
    names = [name for name, p in ours.named_parameters() if p.requires_grad]
    assert len(names) == 2 * len(modules) * 3
    mine = gradients_of(ours, lambda: ours(**inputs).logits.logsumexp(-1).sum())
    other = gradients_of(theirs, lambda: theirs(**inputs).logits.logsumexp(-1).sum())
    stem = "base_model.model.{}.lora_{}.default.weight"
    expected = {n: other[stem.format(n[: -len(".lora_a")], n[-1].upper())] for n in names}
    differences = relative_difference({n: mine[n] for n in names}, expected)
    assert max(differences.values()) < 1e-5


def test_the_start_is_the_model_itself_and_a_function_of_the_seed() -> None:
    groups = build_groups()
    plain = reference_logprobs(build_model(), groups)
    models = []
    for seed in (1, 1, 2):
        model = build_model()
        add_adapters(model, LORA, seed)
        models.append(model)
    assert torch.equal(reference_logprobs(models[0], groups), plain)
    first, same, other = (dict(model.named_parameters()) for model in models)
    starts = [name for name in first if name.endswith("lora_a")]
    assert all(torch.equal(first[name], same[name]) for name in starts)
    assert not any(torch.equal(first[name], other[name]) for name in starts)


def test_the_merged_export_is_a_plain_model_with_the_same_logits(tmp_path: Any) -> None:
    class NoProcessor:
        def save_pretrained(self, folder: Any) -> None: ...

    model = adapted()
    policy = build_policy(model)
    export(tmp_path, policy.model, NoProcessor(), policy.weights())
    merged: Any = Qwen3VLForConditionalGeneration.from_pretrained(tmp_path)
    assert {n: t.shape for n, t in merged.state_dict().items()} == {
        n: t.shape for n, t in build_model().state_dict().items()
    }
    groups = build_groups()
    ours, theirs = reference_logprobs(model, groups), reference_logprobs(merged.eval(), groups)
    torch.testing.assert_close(theirs, ours, rtol=1e-4, atol=1e-4)
    plain = reference_logprobs(build_model(), groups)
    assert float((ours - plain).detach().abs().max()) > 0.1


def trained_names(policy: Policy) -> set[str]:
    assert policy.optimizer is not None
    suffix = ".exp_avg"
    state = policy.optimizer.state()
    return {name.removesuffix(suffix) for name in state if name.endswith(suffix)}


@pytest.mark.parametrize("train_tower", [False, True])
def test_the_optimizer_holds_the_adapters_and_the_tower_if_that_is_trained(
    train_tower: bool,
) -> None:
    policy = build_policy(adapted(train_tower=train_tower))
    before = copy.deepcopy(policy.model).state_dict()
    policy.start_training(SETTINGS, 1)
    supervised_update(context_of(policy), build_groups(), 0)
    names = trained_names(policy)
    tower = {name for name in names if ".visual." in name}
    assert bool(tower) == train_tower
    assert all(name.endswith(("lora_a", "lora_b")) for name in names - tower)
    changed = {n for n, t in policy.model.state_dict().items() if not torch.equal(t, before[n])}
    assert changed == names == set(policy.trained_weights())


def test_without_its_adapters_the_policy_is_the_initial_one() -> None:
    policy, groups = build_policy(adapted()), build_groups()
    packs = policy.packs(groups)
    initial = torch.cat([policy.initial_logprobs(pack) for pack in packs])
    plain = reference_logprobs(build_model(), groups)
    torch.testing.assert_close(initial, plain, rtol=1e-4, atol=1e-4)
    current = torch.cat(policy.detached_logprobs(packs))
    assert float((current - plain).detach().abs().max()) > 0.1


def first_loss(policy: Policy, step: int) -> float:
    """Of an update whose step changes nothing."""
    policy.start_training(Optimization(learning_rate=1e-30), 10)
    return supervised_update(context_of(policy), build_groups(), step)[1]


def test_dropout_is_keyed_by_step_and_acts_in_updates_only() -> None:
    lora = Lora(rank=4, alpha=6.0, dropout=0.3)
    policy, sure = build_policy(adapted(lora)), build_policy(adapted())
    packs = policy.packs(build_groups())
    assert torch.equal(
        torch.cat(policy.detached_logprobs(packs)), torch.cat(sure.detached_logprobs(packs))
    )
    first, second = first_loss(policy, 0), first_loss(policy, 1)
    assert first != second
    assert first == first_loss(policy, 0)
    assert first_loss(build_policy(adapted(lora, seed=4)), 0) != first
    assert first_loss(sure, 0) == first_loss(sure, 1) != first


def test_dropout_scales_what_it_keeps() -> None:
    model = adapted(Lora(rank=4, dropout=0.25))
    layer = model.model.language_model.layers[0].self_attn.q_proj
    ones = torch.ones(4000, layer.in_features)
    assert torch.equal(layer._dropped(ones), ones)
    layer._context.pass_key = (0, 0, 0)
    dropped: Tensor = layer._dropped(ones)
    assert float((dropped == 0).float().mean()) == pytest.approx(0.25, abs=0.01)
    assert dropped.unique().tolist() == pytest.approx([0.0, 4 / 3])
