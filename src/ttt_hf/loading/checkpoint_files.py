"""Finds the folders of models, adapters and codecs by name, and checks their files without loading them."""

from __future__ import annotations

import os
import re
from pathlib import Path

from ..names import (
    ADAPTER_CONFIG_FILE,
    ADAPTER_WEIGHTS_FILE,
    CODEC_FOLDER,
    CODEC_KEY,
    EMBEDDED_NAME,
    EMBEDDED_NAMES,
    PROCESSOR_FILE,
    WEIGHTS_FILE,
    WEIGHTS_INDEX_FILE,
)
from .file_checks import check_files, read_json, walk


# Keys by which configurations count modules, and how many may be built before the weights are compared.
COUNTS = re.compile(r"layers|blocks|levels|stages|quantizers|codebooks|experts")
MAX_MODULES = 1000
# Files of a checkpoint that are downloaded. Pickled weights and code are never loaded, so they are not needed.
DOWNLOAD_PATTERNS = ["*.json", "*.safetensors", "*.jinja", "*.txt", "*.md"]


class OtherModelError(ValueError):
    """The checkpoint holds another kind of model."""


def find_checkpoint(name: str | None, revision: str | None = None) -> Path:
    """Finds the folder of a checkpoint and checks its files without loading them.

    Args:
        name: Folder or Hub id; the embedded checkpoint by default.
        revision: Branch, tag or commit on the Hub.

    Returns:
        Folder of a TtT model, or of an adapter whose base has been found and checked.

    Raises:
        OSError: If there is no such folder, or the Hub id cannot be fetched.
        OtherModelError: If the folder holds another kind of model.
        ValueError: If a file is damaged, or the base of an adapter cannot be used.
    """
    folder = find_folder(name, revision)
    if is_adapter(folder):
        check_weights(folder)
        # Configuration, tokenizer and codec are those of the base, which is checked in turn.
        base_folder(folder)
        return folder
    config = read_json(folder, "config.json")
    # Official checkpoints call themselves qwen2: only `mask_token` tells them from a text model.
    if config.get("model_type") != "ttt" and "mask_token" not in config:
        raise OtherModelError(f"{folder} holds a {config.get('model_type', 'different')} model, not a TtT model.")
    read_json(folder, "tokenizer_config.json")
    check_weights(folder)
    check_counts(folder)
    if (folder / CODEC_FOLDER).is_dir():
        check_codec_folder(folder / CODEC_FOLDER)
    return folder


def find_codec(folder: Path, name: str | None = None) -> Path | None:
    """Finds the codec of a model.

    Args:
        folder: Folder of the model; of an adapter, that of its base.
        name: A codec to use instead of the model's own, as of `find_named_codec`.

    Returns:
        Folder of the named codec, else the model's sub-folder `codec`, else the folder of the codec that
        processor_config.json names, else `None`.

    Raises:
        OSError, ValueError: As of `find_named_codec`, if a codec is named.
    """
    if name is None and (folder / CODEC_FOLDER).is_dir():
        return folder / CODEC_FOLDER
    if name is None and (folder / PROCESSOR_FILE).is_file():
        name = read_json(folder, PROCESSOR_FILE).get(CODEC_KEY)
        # A path would be one of the machine that the checkpoint was made on.
        if name is not None and (not isinstance(name, str) or _is_path(name)):
            raise ValueError(
                f"{folder / PROCESSOR_FILE} names the codec {str(name)[:80]!r}, which is neither a Hub id nor a short "
                f"name: put the codec into the sub-folder {CODEC_FOLDER}, or name it when you load the model."
            )
    return find_named_codec(name) if name is not None else None


def find_named_codec(name: str) -> Path:
    """Finds a codec by its name, downloads it if necessary, and checks its files without loading them.

    Args:
        name: Folder, Hub id or short name: a key of `codecs.CODEC_IDS`, or one of `EMBEDDED_NAMES`.

    Returns:
        Its folder.

    Raises:
        OSError: If it cannot be found or fetched, or a file is missing.
        ValueError: If a file is damaged.
    """
    if name in EMBEDDED_NAMES:
        return find_folder(name) / CODEC_FOLDER
    from ..codecs import CODEC_IDS

    folder = find_folder(CODEC_IDS.get(name, name))
    check_codec_folder(folder)
    return folder


def check_codec_folder(folder: Path) -> None:
    """Checks the files of a codec without loading them; raises like `find_named_codec`."""
    read_json(folder, "config.json")
    if is_adapter(folder):
        raise ValueError(f"{folder} holds an adapter, and the codec of a model has none: fetch the checkpoint again.")
    check_weights(folder)
    check_counts(folder)


def find_folder(name: str | None, revision: str | None = None) -> Path:
    """Finds a folder by its name, or downloads it from the Hub.

    Args:
        name: Folder or Hub id; the embedded checkpoint by default.
        revision: Branch, tag or commit on the Hub.

    Returns:
        The folder, whose files are safe to read, see `check_files`; they may be of any kind, or missing.

    Raises:
        OSError: If there is no such folder, or the Hub id cannot be fetched.
        ValueError: If the name is neither a folder nor a Hub id, or a file is not safe to read.
    """
    if name is None or name in EMBEDDED_NAMES:
        folder = Path(embedded_checkpoint())
    else:
        folder = Path(name).expanduser()
        if folder.is_file():
            raise NotADirectoryError(f"{name} is a file: name the folder of a model, or a Hub id.")
        if not folder.is_dir():
            # Anything that can only be a path fails without a request.
            if _is_path(name):
                raise FileNotFoundError(f"There is no folder {name}: name the folder of a model, or a Hub id.")
            folder = _download(name, revision)
    check_files(folder)
    return folder


def embedded_checkpoint() -> str:
    """Locates the small trained checkpoint that comes with the package.

    Returns:
        Path of a folder that `TtTForConditionalGeneration.from_pretrained` and `TtTProcessor.from_pretrained` take.

    Raises:
        FileNotFoundError: If this installation holds no checkpoint.
    """
    folder = Path(__file__).parents[1] / "checkpoints" / EMBEDDED_NAME
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(
            f"This installation of ttt-hf holds no embedded checkpoint ({folder}): install the released wheel, or "
            "build it in the source tree with `make tiny`."
        )
    return str(folder)


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter in PEFT's format."""
    return (folder / ADAPTER_CONFIG_FILE).is_file()


def base_folder(folder: Path) -> Path:
    """Finds the base model of an adapter.

    Args:
        folder: Folder of a model or an adapter.

    Returns:
        Folder of the base model, which holds tokenizer and codec, too; `folder` itself if it is a model.

    Raises:
        ValueError: If the base is not named, cannot be found or cannot be used.
    """
    if not is_adapter(folder):
        return folder
    config = read_json(folder, ADAPTER_CONFIG_FILE)
    try:
        name, revision = config.get("base_model_name_or_path"), config.get("revision")
        if not isinstance(name, str) or not name or not isinstance(revision, (str, type(None))):
            # Raised within the try, so that the error below adds the adapter's name and the remedy.
            raise ValueError("It is not named.")
        base = find_folder(name, revision)
        if is_adapter(base):
            raise ValueError(f"{base} is an adapter itself.")
        return find_checkpoint(str(base))
    except (OSError, ValueError) as error:
        raise ValueError(
            f"The model that the adapter {folder} is for cannot be used: {error} Write where it is into "
            f"{ADAPTER_CONFIG_FILE}, base_model_name_or_path."
        ) from error


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files that a model or adapter consists of, missing ones included."""
    if is_adapter(folder):
        return [folder / ADAPTER_WEIGHTS_FILE]
    # In the order of transformers: an index beside the file is not read.
    if (folder / WEIGHTS_FILE).is_file() or not (folder / WEIGHTS_INDEX_FILE).is_file():
        return [folder / WEIGHTS_FILE]
    shards = read_json(folder, WEIGHTS_INDEX_FILE).get("weight_map")
    names = list(shards.values()) if isinstance(shards, dict) else []
    # Another folder's file would be one that this checkpoint does not hold.
    if not names or not all(isinstance(name, str) and Path(name).name == name for name in names):
        raise ValueError(f"{folder / WEIGHTS_INDEX_FILE} is damaged (it names no files): fetch the checkpoint again.")
    return [folder / name for name in sorted(set(names))]


def read_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Reads the shapes of the tensors in a safetensors file by name, from its header alone."""
    from safetensors import safe_open

    # Not framework="pt", which would import torch.
    with safe_open(path, framework="numpy") as tensors:
        return {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118


def check_counts(folder: Path) -> None:
    """Raises a `ValueError` if a configuration has many more modules than tensors, since building them takes time."""
    limit = max(MAX_MODULES, sum(len(read_shapes(path)) for path in weight_files(folder)))
    for key, value in walk(read_json(folder, "config.json")):
        if COUNTS.search(key) and isinstance(value, (int, float)) and value > limit:
            raise ValueError(
                f"{folder / 'config.json'} cannot be used: {key}={value} does not fit the weights, fetch the "
                "checkpoint again."
            )


def check_weights(folder: Path) -> None:
    """Checks that the weights of a model are there and complete, by the headers of their files.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a file is damaged or cut short.
    """
    from safetensors import SafetensorError, safe_open

    for path in weight_files(folder):
        if not path.is_file():
            raise FileNotFoundError(
                f"{folder} has no {path.name}, the model's weights (only safetensors are read): fetch the checkpoint "
                "again."
            )
        try:
            # Opening parses the header and compares the sizes in it with the file's; it reads no tensor.
            with safe_open(path, framework="numpy"):
                pass
        except SafetensorError as error:
            raise ValueError(f"{path} is damaged ({error}): fetch the checkpoint again.") from error


def _is_path(name: str) -> bool:
    """Whether a name can only be that of a folder: a Hub id has at most one slash."""
    return name.startswith((".", "~", os.sep)) or name.count("/") > 1 or "\\" in name


def _download(name: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=DOWNLOAD_PATTERNS))
    except HFValidationError:
        raise ValueError(f"{name} is neither a folder nor a Hub id (organisation/name).") from None
    except RepositoryNotFoundError as error:
        # A subclass of HfHubHTTPError, which is why that one comes last. Gated models raise it, too.
        raise FileNotFoundError(
            f"There is no folder {name}, and no such model on the Hub, or it is private: check the name, or log in "
            "with `hf auth login`."
        ) from error
    except (LocalEntryNotFoundError, ConnectionError) as error:
        raise FileNotFoundError(
            f"There is no folder {name}, no such model in the local cache, and the Hub cannot be reached: check the "
            "name, or connect to the network."
        ) from error
    except HfHubHTTPError as error:
        raise OSError(f"{name} cannot be fetched from the Hub: {str(error).splitlines()[0]}") from error
