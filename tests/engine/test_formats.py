"""Checkpoints as they are published, in and out: dense and mixtures of experts, tied and untied,
in one file or several; what is trained of them is what transformers then loads."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

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
from prism_api.errors import DataError, SpecError
from prism_api.model_shape import shape_of
from prism_api.optimization import Optimization
from prism_api.stages import Lora
from prism_api.uris import file_uri
from prism_trainer.distributed import Ranks
from prism_trainer.engine.lora import add_adapters
from prism_trainer.engine.policy import Policy
from prism_trainer.generation.generator import InProcessGenerator
from prism_trainer.model_headers import check_model
from prism_trainer.model_tensors import tensors_of
from prism_trainer.models import ExportedWeights, export, load_policy, published
from prism_trainer.rollouts import Request, SamplingParams
from prism_trainer.stages.sft import supervised_update
from prism_trainer.tensor_files import write_model

KINDS: dict[str, dict[str, Any]] = {
    "dense": {},
    "dense tied": {"tied": True},
    "mixture": {"mixture": True},
}
WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module", params=KINDS)
def model(request: pytest.FixtureRequest) -> Any:
    return build_model(**KINDS[request.param])


@pytest.fixture(scope="module")
def mixture() -> Any:
    return build_model(mixture=True)


def published_tensors(model: Any) -> dict[str, Tensor]:
    """Of a model in memory, written out by hand."""
    tensors = dict(model.named_parameters())
    return {
        n: (t.transpose(1, 2) if ".mlp.experts." in n else t).detach().contiguous()
        for n, t in tensors.items()
    }


def saved(model: Any, processor: Path, folder: Path, max_bytes: int = 10**9) -> Path:
    """As published: in several files if it exceeds so many bytes."""
    shutil.copytree(processor, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    model.config.save_pretrained(folder)
    tensors = published_tensors(model)
    half = sum(t.nbytes for t in tensors.values()) > max_bytes
    if not half:
        save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
        return folder
    files = [f"model-{i}-of-2.safetensors" for i in (1, 2)]
    places = {name: files[i % 2] for i, name in enumerate(tensors)}
    for file in files:
        part = {name: t for name, t in tensors.items() if places[name] == file}
        save_file(part, folder / file, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


@pytest.fixture
def processor(digits_folder: Path) -> Path:
    """A folder with a processor; its tokenizer is not used here."""
    return digits_folder / "model"


def loaded_by_transformers(model: Any, folder: Path) -> Any:
    twin, found = type(model).from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True, attn_implementation="sdpa"
    )
    assert not any(found[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    return twin.eval()


def assert_same(ours: Any, theirs: Any) -> None:
    mine, other = dict(ours.named_parameters()), dict(theirs.named_parameters())
    assert mine.keys() == other.keys()
    assert all(torch.equal(mine[name], other[name]) for name in mine)


@pytest.mark.parametrize("max_bytes", [10**9, 1000], ids=["one file", "several"])
def test_a_published_checkpoint_is_loaded_as_it_is(
    model: Any, processor: Path, tmp_path: Path, max_bytes: int
) -> None:
    folder = saved(model, processor, tmp_path / "model", max_bytes)
    assert (folder / WEIGHTS).exists() == (max_bytes > 1000)
    assert_same(load_policy(file_uri(folder), True).model, model)


def test_experts_as_transformers_writes_them_are_loaded_too(
    mixture: Any, processor: Path, tmp_path: Path
) -> None:
    folder = saved(mixture, processor, tmp_path / "model")
    mixture.save_pretrained(folder)
    names = [name for name in load_file(folder / WEIGHTS) if name.endswith("gate_up_proj")]
    assert load_file(folder / WEIGHTS)[names[0]].shape == (4, 48, 32)
    assert_same(load_policy(file_uri(folder), True).model, mixture)


def test_experts_that_lie_now_this_way_now_that_are_refused(
    mixture: Any, processor: Path, tmp_path: Path
) -> None:
    folder = saved(mixture, processor, tmp_path / "model")
    tensors = load_file(folder / WEIGHTS)
    name = "model.language_model.layers.1.mlp.experts.gate_up_proj"
    tensors[name] = tensors[name].transpose(1, 2).contiguous()
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    with pytest.raises(DataError, match=rf"{name} has shape \[4, 48, 32\], not \[4, 32, 48\]"):
        check_model(folder)


@pytest.mark.parametrize("inner", [32, 16])
def test_square_experts_are_refused(
    mixture: Any, processor: Path, tmp_path: Path, inner: int
) -> None:
    """transformers would transpose one of the two tensors and not the other."""
    folder = saved(mixture, processor, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["moe_intermediate_size"] = inner
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(DataError, match="which way they lie cannot be told"):
        check_model(folder)


@pytest.mark.parametrize("change", [{"decoder_sparse_step": 2}, {"mlp_only_layers": [0]}])
def test_mixtures_with_dense_layers_are_refused(
    mixture: Any, processor: Path, tmp_path: Path, change: dict[str, Any]
) -> None:
    folder = saved(mixture, processor, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    config["text_config"] |= change
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(DataError, match="only some of its layers have experts"):
        check_model(folder)


def test_names_and_shapes_are_those_of_torch(model: Any) -> None:
    config = model.config.to_dict()
    ours = tensors_of(config)
    assert ours == {name: tuple(t.shape) for name, t in published_tensors(model).items()}
    assert shape_of(config).parameters == sum(p.numel() for p in model.parameters())


class NoProcessor:
    """Has nothing to write."""

    def save_pretrained(self, folder: Path) -> None:
        """Write nothing."""


@pytest.mark.parametrize("train_tower", [True, False], ids=["tower trained", "tower frozen"])
def test_what_was_trained_is_what_transformers_loads(
    model: Any, processor: Path, tmp_path: Path, train_tower: bool
) -> None:
    folder = saved(model, processor, tmp_path / "before")
    before = published_tensors(model)
    policy = Policy(load_policy(file_uri(folder), train_tower).model, Ranks(), "fp32", 100)
    policy.start_training(Optimization(learning_rate=1e-3), 1)
    supervised_update(context_of(policy), build_groups(), 0)

    out = tmp_path / "after"
    export(out, policy.model, NoProcessor(), policy.weights())
    check_model(out)
    twin = loaded_by_transformers(model, out)

    groups = build_groups()
    ours = torch.cat(policy.detached_logprobs(policy.packs(groups)))
    torch.testing.assert_close(ours, reference_logprobs(twin, groups).detach(), rtol=0, atol=2e-5)
    after = load_file(out / WEIGHTS)
    assert after.keys() == before.keys()
    assert {n: t.shape for n, t in after.items()} == {n: t.shape for n, t in before.items()}
    same = {name for name in before if torch.equal(before[name], after[name])}
    assert same == (set() if train_tower else {n for n in before if ".visual." in n})


def test_an_export_gives_back_what_the_model_holds(mixture: Any, tmp_path: Path) -> None:
    policy = build_policy(mixture)
    export(tmp_path, policy.model, NoProcessor(), policy.weights())
    weights = ExportedWeights(tmp_path)
    held = dict(policy.model.named_parameters())
    assert weights.keys() == held.keys()
    assert all(torch.equal(weights[name], tensor) for name, tensor in held.items())


def test_large_exports_have_several_files_of_limited_size(model: Any, tmp_path: Path) -> None:
    policy = build_policy(model)
    model.config.save_pretrained(tmp_path)
    write_model(tmp_path, published(policy.weights()), max_bytes=70_000)
    sizes = [path.stat().st_size for path in tmp_path.glob("model-*.safetensors")]
    assert len(sizes) > 3
    assert max(sizes) < 80_000  # and its header
    check_model(tmp_path)
    assert_same(loaded_by_transformers(model, tmp_path), model)


def test_a_packed_mixture_has_transformers_logprobs_and_gradients(mixture: Any) -> None:
    groups, policy = build_groups(), build_policy(mixture)
    (pack,) = policy.packs(groups)
    theirs = reference_logprobs(mixture, groups)
    torch.testing.assert_close(policy.logprobs(pack)[0], theirs, rtol=0, atol=1e-4)
    weights = torch.linspace(-1, 1, len(theirs))
    mine = gradients_of(policy.model, lambda: (policy.logprobs(pack)[0] * weights).sum())
    other = gradients_of(mixture, lambda: (reference_logprobs(mixture, groups) * weights).sum())
    largest = max(float(t.norm()) for t in other.values())
    for name, difference in relative_difference(mine, other).items():
        size = float(other[name].norm())
        assert difference * size < 1e-4 * max(size, 0.01 * largest), name
        assert size > 0 or ".mlp." not in name


def test_a_mixture_writes_what_transformers_writes(mixture: Any) -> None:
    policy, limit = build_policy(mixture), 12
    prompts = [group.prompt for group in build_groups()]
    asked = [Request(prompt, (0,)) for prompt in prompts]
    generator = InProcessGenerator(policy, 10_000, batch_size=4)
    answers = [c for (c,) in generator.generate(asked, SamplingParams(limit, temperature=0.0))]
    for prompt, answer in zip(prompts, answers, strict=True):
        mixture.model.rope_deltas = None
        inputs = model_inputs(prompt)
        tokens = mixture.generate(
            **inputs,
            attention_mask=torch.ones_like(inputs["input_ids"]),
            max_new_tokens=limit,
            do_sample=False,
            eos_token_id=10_000,
            pad_token_id=0,
        )
        assert answer.tokens.tolist() == tokens[0, len(prompt.token_ids) :].tolist()


@pytest.mark.parametrize("modules", [Lora().target_modules, ("q_proj", "down_proj")])
def test_experts_have_no_adapters(modules: Any) -> None:
    with pytest.raises(SpecError, match=r"lora\.targetModules: this model has no linear layers"):
        add_adapters(build_model(mixture=True), Lora(target_modules=modules), 0)


def test_a_mixtures_attention_can_have_adapters() -> None:
    model = build_model(mixture=True)
    add_adapters(model, Lora(rank=4, target_modules=("q_proj", "v_proj")), 0)
    trained = [n for n, p in model.named_parameters() if p.requires_grad and ".visual." not in n]
    assert len(trained) == 3 * 2 * 2
