"""A discriminator from a checkpoint: dense and upcycled here, or a mixture already."""

from safetensors import SafetensorError
from transformers import AutoConfig

from prism_api.errors import DataError, SpecError
from prism_api.stages import Discriminator
from prism_trainer.discriminator.model import DiscriminatorModel, load_mixture, upcycle
from prism_trainer.discriminator.start import check_start, start_problems
from prism_trainer.model_tensors import MIXTURE
from prism_trainer.models import load_policy, model_folder


def load_discriminator(uri: str, settings: Discriminator, seed: int) -> DiscriminatorModel:
    """The discriminator that a model gives, in host memory in float32.

    Raises SpecError for a model that does not suit the settings, DataError for one
    that cannot be read.
    """
    folder = model_folder(uri)
    check_start(folder)
    config = AutoConfig.from_pretrained(folder)
    problems = start_problems(config.to_dict(), settings)
    if problems:
        raise SpecError(problems, uri)
    if config.model_type != MIXTURE:
        return upcycle(load_policy(uri, True).model, settings, seed)
    try:
        return load_mixture(folder, settings, seed)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise DataError(f"{uri}: cannot be loaded as a Qwen3-VL-MoE ({error})") from None
