"""Where the model of a server lies on this machine."""

from pathlib import Path

from huggingface_hub import snapshot_download

from prism_api.errors import DataError

_FILES = ("*.json", "*.jinja", "*.txt", "*.safetensors")
"""What a model on a hub is loaded from; the trainer fetches the same."""


def model_folder(name: str) -> Path:
    """The folder of that name, or of the model that a hub has under it, fetched into its cache.

    Raises DataError if there is none, or no config in it.
    """
    folder = Path(name).resolve()
    if not folder.is_dir():
        try:
            folder = Path(snapshot_download(name, allow_patterns=[*_FILES]))
        except (OSError, ValueError) as error:
            said = str(error).partition("\n")[0]
            raise DataError(f"{name}: is no folder and cannot be fetched ({said})") from None
    if not (folder / "config.json").is_file():
        raise DataError(f"{folder}: has no config.json; give a model in Hugging Face layout")
    return folder
