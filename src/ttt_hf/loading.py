"""Finding and loading a checkpoint, and saying in one sentence what is wrong with it."""

from __future__ import annotations

import json
import os
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    import torch

    from .modeling.modeling_ttt import TtTForConditionalGeneration
    from .processing.processing_ttt import TtTProcessor

WEIGHTS_FILE = "model.safetensors"
WEIGHTS_INDEX_FILE = "model.safetensors.index.json"
PROCESSOR_FILE = "processor_config.json"
CODEC_FOLDER = "codec"
ADAPTER_CONFIG_FILE = "adapter_config.json"
ADAPTER_WEIGHTS_FILE = "adapter_model.safetensors"
# What the checkpoint of this package is called.
EMBEDDED_NAMES = ("embedded", "ttt-tiny")
# What of a model's configuration a recipe may change.
AUDIO_SETTINGS = ("audio_attention", "audio_block_length")
# What a checkpoint is made of. Pickled weights and code are never loaded, so there is no need to fetch them.
DOWNLOAD_PATTERNS = ["*.json", "*.safetensors", "*.jinja", "*.txt", "*.md"]


class OtherModelError(ValueError):
    """A model, but not a TtT model."""


def find_checkpoint(name: str | None, revision: str | None = None) -> Path:
    """Finds the folder of a checkpoint, and checks it without loading it.

    Args:
        name: Folder or Hub id; the embedded checkpoint by default.
        revision: Branch, tag or commit on the Hub.

    Returns:
        A folder that holds a TtT model, or an adapter for one that can be found, too.

    Raises:
        OSError: If there is no such folder, or the Hub id cannot be fetched.
        OtherModelError: If the folder holds another kind of model.
        ValueError: If the folder does not hold a model that can be read.
    """
    folder = find_folder(name, revision)
    if is_adapter(folder):
        check_weights(folder)
        base_folder(folder)
        return folder
    config = read_json(folder, "config.json")
    if config.get("model_type") != "ttt" and "mask_token" not in config:
        raise OtherModelError(f"{folder} holds a {config.get('model_type', 'different')} model, not a TtT model.")
    read_json(folder, "tokenizer_config.json")
    check_weights(folder)
    if (folder / CODEC_FOLDER).is_dir():
        check_codec_folder(folder / CODEC_FOLDER)
    return folder


def find_codec(folder: Path, name: str | None = None) -> Path | None:
    """Finds the codec of a model.

    Args:
        folder: The folder of a whole model.
        name: A codec to take in the place of the model's own, as of `find_named_codec`.

    Returns:
        Folder of the named codec; or the model's sub-folder `codec`; or that of the codec which its
        processor_config.json names; `None` if there is none of them.

    Raises:
        OSError, ValueError: As of `find_named_codec`, if a codec is named.
    """
    if name is None and (folder / CODEC_FOLDER).is_dir():
        return folder / CODEC_FOLDER
    if name is None and (folder / PROCESSOR_FILE).is_file():
        name = read_json(folder, PROCESSOR_FILE).get(CODEC_FOLDER)
    return find_named_codec(name) if name is not None else None


def find_named_codec(name: str) -> Path:
    """Finds a codec by its name, or fetches it from the Hub, and checks it by its files' headers.

    Args:
        name: Folder, Hub id or short name: a key of `codecs.CODEC_IDS`, or the embedded checkpoint's.

    Returns:
        Its folder.

    Raises:
        OSError: If it cannot be found or fetched.
        ValueError: If the folder does not hold a codec that can be read.
    """
    if name in EMBEDDED_NAMES:
        return find_folder(name) / CODEC_FOLDER
    from .codecs import CODEC_IDS

    folder = find_folder(CODEC_IDS.get(name, name))
    check_codec_folder(folder)
    return folder


def check_codec_folder(folder: Path) -> None:
    """Checks that a folder holds a codec, by its files' headers.

    Args:
        folder: The codec.

    Raises:
        OSError: If a file is missing.
        ValueError: If a file is damaged.
    """
    read_json(folder, "config.json")
    check_weights(folder)


def find_folder(name: str | None, revision: str | None = None) -> Path:
    """Finds a folder by its name, or fetches it from the Hub.

    Args:
        name: Folder or Hub id; the embedded checkpoint by default.
        revision: Branch, tag or commit on the Hub.

    Returns:
        The folder, of whatever it holds.

    Raises:
        OSError: If there is no such folder, or the Hub id cannot be fetched.
        ValueError: If the name is neither.
    """
    if name is None or name in EMBEDDED_NAMES:
        from . import embedded_checkpoint

        folder = Path(embedded_checkpoint())
    else:
        folder = Path(name).expanduser()
        if folder.is_file():
            raise NotADirectoryError(f"{name} is a file: name the folder of a model, or a Hub id.")
        if not folder.is_dir():
            if name.startswith((".", "~", os.sep)) or name.count("/") > 1 or "\\" in name:
                raise FileNotFoundError(f"There is no folder {name}: name the folder of a model, or a Hub id.")
            folder = _download(name, revision)
    return folder


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter of PEFT in the place of a whole model."""
    return (folder / ADAPTER_CONFIG_FILE).is_file()


def base_folder(folder: Path) -> Path:
    """Finds the model that an adapter is for.

    Args:
        folder: A folder that `find_checkpoint` or `find_folder` gave.

    Returns:
        The folder of the model, where tokenizer and codec are, too; that of a whole model is its own.

    Raises:
        OSError, ValueError: As of `find_checkpoint`, if that model cannot be found or read.
    """
    if not is_adapter(folder):
        return folder
    name = read_json(folder, ADAPTER_CONFIG_FILE).get("base_model_name_or_path")
    try:
        if not name:
            raise ValueError("It is not named.")
        base = find_folder(name)
        if is_adapter(base):
            raise ValueError(f"{base} is an adapter itself.")
        return find_checkpoint(str(base))
    except (OSError, ValueError) as error:
        raise ValueError(
            f"The model that the adapter {folder} is for cannot be used: {error} Write where it is into "
            f"{ADAPTER_CONFIG_FILE}, base_model_name_or_path."
        ) from error


def read_json(folder: Path, name: str) -> dict[str, Any]:
    """Reads a JSON file of a checkpoint.

    Args:
        folder: The checkpoint.
        name: Name of the file in it.

    Returns:
        Its content.

    Raises:
        OSError: If it is missing.
        ValueError: If it is not JSON.
    """
    try:
        content = json.loads((folder / name).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(
            f"{folder} is not the folder of a model, it has no {name}: name one that save_pretrained wrote, or a Hub "
            "id."
        ) from None
    except ValueError as error:
        raise ValueError(f"{folder / name} is damaged ({error}): fetch the checkpoint again.") from error
    if not isinstance(content, dict):
        raise ValueError(f"{folder / name} is damaged (not an object): fetch the checkpoint again.")
    return content


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a model, of one piece or of several; a missing one is in the list, too."""
    if is_adapter(folder):
        return [folder / ADAPTER_WEIGHTS_FILE]
    if (folder / WEIGHTS_INDEX_FILE).is_file():
        shards = read_json(folder, WEIGHTS_INDEX_FILE).get("weight_map", {})
        return [folder / name for name in sorted(set(shards.values()))]
    return [folder / WEIGHTS_FILE]


def check_weights(folder: Path) -> None:
    """Checks that a model's weights are there and whole, by their headers.

    Args:
        folder: The model.

    Raises:
        OSError: If a file is missing.
        ValueError: If a file is damaged.
    """
    from safetensors import SafetensorError, safe_open

    for path in weight_files(folder):
        if not path.is_file():
            raise FileNotFoundError(
                f"{folder} has no {path.name}, the model's weights (only safetensors are read): fetch the checkpoint "
                "again."
            )
        try:
            with safe_open(path, framework="numpy"):
                pass
        except SafetensorError as error:
            raise ValueError(f"{path} is damaged ({error}): fetch the checkpoint again.") from error


def load_checkpoint(
    folder: Path,
    codec: Path | None = None,
    device: str | None = None,
    dtype: torch.dtype | str | None = None,
    device_map: str | dict[str, Any] | None = None,
    bits: int | None = None,
) -> tuple[TtTForConditionalGeneration, TtTProcessor]:
    """Loads a model and its processor. An adapter is merged into its base.

    Weights are read from their files into their place, one tensor after the other: there is never a second copy of
    the model, neither in the memory of the CPU nor in that of a GPU.

    Args:
        folder: As `find_checkpoint` gives it.
        codec: Folder of a codec, in the place of the checkpoint's own.
        device: Device of model and codec; the GPU if there is one.
        dtype: Type of the weights, `"auto"` for the checkpoint's own; by default float32 on a CPU, the checkpoint's
            elsewhere.
        device_map: Spreads the model over devices in the place of `device`, see `PreTrainedModel.from_pretrained`:
            `"auto"` fills GPUs, then the CPU's memory.
        bits: 8 or 4, to hold the weights in so many bits (bitsandbytes on a GPU).

    Returns:
        The model, in evaluation mode, and the processor, whose codec may be missing.

    Raises:
        ImportError: If `bits` are asked for where bitsandbytes is not installed.
        ValueError: If parts are missing or do not fit together, or `bits` are asked for where there is no CUDA.
    """
    import torch
    from transformers import AutoConfig

    from .modeling.configuration_ttt import TtTConfig
    from .modeling.modeling_ttt import TtTForConditionalGeneration
    from .processing.processing_ttt import TtTProcessor, check_codec

    # Known to the Auto classes, the model type is not taken for one whose code comes with the checkpoint.
    AutoConfig.register(TtTConfig.model_type, TtTConfig, exist_ok=True)
    base = base_folder(folder)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    settings: dict[str, Any] = {}
    if device_map is not None or device != "cpu":
        settings["device_map"] = device_map or {"": device}
    if bits is not None:
        compute_dtype = dtype if isinstance(dtype, torch.dtype) else torch.bfloat16
        settings["quantization_config"] = quantization_config(bits, compute_dtype)
    if base != folder and (folder / "config.json").is_file():  # as the adapter was trained
        config = read_json(folder, "config.json")
        settings |= {name: config[name] for name in AUDIO_SETTINGS if name in config}
    codec = codec or find_codec(base)
    processor = TtTProcessor.from_pretrained(base, codec=codec and str(codec), local_files_only=True)
    try:
        model, loading = TtTForConditionalGeneration.from_pretrained(
            base,
            dtype=dtype or (torch.float32 if device == "cpu" else "auto"),
            local_files_only=True,
            output_loading_info=True,
            **settings,
        )
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        # transformers raises it for weights of a wrong shape, with a table of all of them.
        raise ValueError(f"The weights in {base} do not fit its config.json: fetch the checkpoint again.") from error
    if loading["missing_keys"]:
        missing = ", ".join(sorted(loading["missing_keys"])[:3])
        raise ValueError(f"The weights in {folder} are incomplete ({missing} ...): fetch the checkpoint again.")
    fields = {name: getattr(model.config, name) for name in processor.token_ids.config_fields()}
    if fields != processor.token_ids.config_fields():
        raise ValueError(
            f"Tokenizer and model in {folder} number the audio tokens differently: fetch the checkpoint again."
        )
    if base != folder:
        model = _merge(model, folder, base)
    if processor.codec is not None:
        check_codec(model.config, processor.codec)
        processor.codec.to(model.device)
    return model.eval(), processor


def quantization_config(bits: int, compute_dtype: torch.dtype) -> Any:
    """What transformers needs to know to hold weights in few bits.

    Args:
        bits: 8 (LLM.int8) or 4 (NF4, Dettmers et al., "QLoRA", 2023).
        compute_dtype: Type in which 4-bit weights are multiplied.

    Returns:
        For `from_pretrained(quantization_config=...)`.

    Raises:
        ImportError: If bitsandbytes is not installed.
        ValueError: If there is no CUDA device, or the number of bits is another.
    """
    import torch

    if bits not in (4, 8):
        raise ValueError(f"Weights can be held in 8 or 4 bits, not in {bits}.")
    if not torch.cuda.is_available():
        raise ValueError(f"Weights in {bits} bits need a CUDA device, and there is none: load them in bfloat16.")
    if find_spec("bitsandbytes") is None:
        raise ImportError(f"Weights in {bits} bits need bitsandbytes: pip install bitsandbytes.")
    from transformers import BitsAndBytesConfig

    if bits == 8:
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=compute_dtype)


def _merge(model: TtTForConditionalGeneration, folder: Path, base: Path) -> TtTForConditionalGeneration:
    """The model with the adapter in its weights."""
    try:
        from peft import PeftModel
    except ImportError as error:
        raise ModuleNotFoundError(f"{folder} is an adapter, which needs PEFT: pip install 'ttt-hf[train]'.") from error
    from transformers import GenerationConfig

    try:
        adapted = PeftModel.from_pretrained(model, str(folder))
    except (RuntimeError, ValueError) as error:
        raise ValueError(
            f"The adapter {folder} does not fit the model {base}: write the one that it was trained on into "
            f"{ADAPTER_CONFIG_FILE}, base_model_name_or_path."
        ) from error
    merged = adapted.merge_and_unload()
    if (folder / "generation_config.json").is_file():
        merged.generation_config = GenerationConfig.from_pretrained(folder)
    return merged


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
