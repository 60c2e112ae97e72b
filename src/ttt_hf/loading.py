"""The one loader: finds, checks and loads a model with its processor and codec, or an adapter with its base.

Every fault of a checkpoint raises an error of one sentence, before weights are read if possible. Importing this module
imports neither torch nor transformers, so that a wrong name fails at once.
"""

from __future__ import annotations

import json
import os
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .names import (
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


if TYPE_CHECKING:
    import torch

    from .modeling.modeling_ttt import TtTForConditionalGeneration
    from .processing.processing_ttt import TtTProcessor

DTYPES = ("float32", "bfloat16", "float16")
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
    from .codecs import CODEC_IDS

    folder = find_folder(CODEC_IDS.get(name, name))
    check_codec_folder(folder)
    return folder


def check_codec_folder(folder: Path) -> None:
    """Checks the files of a codec without loading them; raises like `find_named_codec`."""
    read_json(folder, "config.json")
    check_weights(folder)


def find_folder(name: str | None, revision: str | None = None) -> Path:
    """Finds a folder by its name, or downloads it from the Hub.

    Args:
        name: Folder or Hub id; the embedded checkpoint by default.
        revision: Branch, tag or commit on the Hub.

    Returns:
        The folder, whose content is not checked.

    Raises:
        OSError: If there is no such folder, or the Hub id cannot be fetched.
        ValueError: If the name is neither a folder nor a Hub id.
    """
    if name is None or name in EMBEDDED_NAMES:
        folder = Path(embedded_checkpoint())
    else:
        folder = Path(name).expanduser()
        if folder.is_file():
            raise NotADirectoryError(f"{name} is a file: name the folder of a model, or a Hub id.")
        if not folder.is_dir():
            # A Hub id has at most one slash: anything that can only be a path fails without a request.
            if name.startswith((".", "~", os.sep)) or name.count("/") > 1 or "\\" in name:
                raise FileNotFoundError(f"There is no folder {name}: name the folder of a model, or a Hub id.")
            folder = _download(name, revision)
    return folder


def embedded_checkpoint() -> str:
    """Locates the small trained checkpoint that comes with the package.

    Returns:
        Path of a folder that `TtTForConditionalGeneration.from_pretrained` and `TtTProcessor.from_pretrained` take.

    Raises:
        FileNotFoundError: If this installation holds no checkpoint.
    """
    folder = Path(__file__).parent / "checkpoints" / EMBEDDED_NAME
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
        if not config.get("base_model_name_or_path"):
            # Raised within the try, so that the error below adds the adapter's name and the remedy.
            raise ValueError("It is not named.")
        base = find_folder(config["base_model_name_or_path"], config.get("revision"))
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

    Raises:
        FileNotFoundError: If it is missing.
        ValueError: If it does not hold a JSON object.
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
    """The safetensors files that a model or adapter consists of, missing ones included."""
    if is_adapter(folder):
        return [folder / ADAPTER_WEIGHTS_FILE]
    if (folder / WEIGHTS_INDEX_FILE).is_file():
        shards = read_json(folder, WEIGHTS_INDEX_FILE).get("weight_map", {})
        return [folder / name for name in sorted(set(shards.values()))]
    return [folder / WEIGHTS_FILE]


def read_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Reads the shapes of the tensors in a safetensors file by name, from its header alone."""
    from safetensors import safe_open

    # Not framework="pt", which would import torch.
    with safe_open(path, framework="numpy") as tensors:
        return {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118


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


def load_model_and_processor(
    name: str | None = None, revision: str | None = None, codec: str | None = None, **settings: Any
) -> tuple[TtTForConditionalGeneration, TtTProcessor]:
    """Finds a checkpoint by its name and loads it: the one way from a name to a model.

    Args:
        name: Folder or Hub id of a model or adapter, or an embedded name; the embedded checkpoint by default.
        revision: Branch, tag or commit on the Hub.
        codec: Codec to use instead of the checkpoint's own, as of `find_named_codec`.
        settings: Keyword arguments of `load_checkpoint`.

    Returns:
        The model, in evaluation mode, and the processor, whose codec may be missing.

    Raises:
        ImportError, OSError, ValueError: As of `find_checkpoint`, `find_codec` and `load_checkpoint`.
    """
    folder = find_checkpoint(name, revision)
    return load_checkpoint(folder, find_codec(base_folder(folder), codec), **settings)


def load_checkpoint(
    folder: Path,
    codec: Path | None = None,
    device: str | None = None,
    dtype: torch.dtype | str | None = None,
    device_map: str | dict[str, Any] | None = None,
    bits: int | None = None,
    attn_implementation: str | None = None,
    audio_attention: str | None = None,
    audio_block_length: int | None = None,
) -> tuple[TtTForConditionalGeneration, TtTProcessor]:
    """Loads a model and its processor. An adapter is merged into its base.

    Tensors are read from the files directly to their device, one after the other: there is never a second copy of the
    model, neither in the memory of the CPU nor in that of a GPU.

    Args:
        folder: As `find_checkpoint` returns it.
        codec: Folder of a codec to use instead of the checkpoint's own.
        device: Device of model and codec; the GPU if there is one, else the CPU.
        dtype: Data type of the weights or its name, `"auto"` for the checkpoint's own; by default float32 on a CPU,
            the checkpoint's elsewhere.
        device_map: Spreads the model over devices, instead of `device`, see `PreTrainedModel.from_pretrained`:
            `"auto"` fills GPUs, then the CPU's memory.
        bits: 8 or 4, to quantise the weights (bitsandbytes on a GPU).
        attn_implementation: `"sdpa"`, `"eager"` or `"flex_attention"`; transformers' choice by default.
        audio_attention: `"span"` or `"block_causal"`; as in the checkpoint by default.
        audio_block_length: Positions per denoising block, in training and generation; as in the checkpoint by default.

    Returns:
        The model, in evaluation mode, and the processor, whose codec may be missing.

    Raises:
        ImportError: If bitsandbytes or PEFT is needed and not installed.
        ValueError: If the checkpoint has missing, unexpected or misshapen tensors, if model, tokenizer, codec and
            adapter do not fit together, or if `bits` are given where there is no CUDA device.
    """
    import torch
    from transformers import AutoConfig

    from .modeling.configuration_ttt import TtTConfig
    from .processing.processing_ttt import TtTProcessor, check_codec

    # Known to the Auto classes, the model type is not taken for one whose code comes with the checkpoint.
    AutoConfig.register(TtTConfig.model_type, TtTConfig, exist_ok=True)
    base = base_folder(folder)
    if base != folder and find_spec("peft") is None:
        raise ModuleNotFoundError(f"{folder} is an adapter, which needs PEFT: pip install 'ttt-hf[train]'.")
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    # 1. Collect the arguments of from_pretrained.
    dtype = _torch_dtype(dtype) or (torch.float32 if device == "cpu" else "auto")
    # bitsandbytes computes in a data type that has to be named, which "auto" is not.
    compute_dtype = torch.bfloat16 if isinstance(dtype, str) else dtype
    settings: dict[str, Any] = {"dtype": dtype}
    if device_map is not None or device != "cpu":
        settings["device_map"] = device_map or {"": device}
    if bits is not None:
        settings["quantization_config"] = quantization_config(bits, compute_dtype)
    if attn_implementation is not None:
        settings["attn_implementation"] = attn_implementation
    if base != folder and (folder / "config.json").is_file():  # as the adapter was trained
        config = read_json(folder, "config.json")
        settings |= {name: config[name] for name in ("audio_attention", "audio_block_length") if name in config}
    given = {"audio_attention": audio_attention, "audio_block_length": audio_block_length}
    # Given by the caller, so they replace those that the adapter was trained with.
    settings |= {name: value for name, value in given.items() if value is not None}

    # 2. Load processor and model; those of an adapter are its base's.
    codec = codec or find_codec(base)
    processor = TtTProcessor.from_pretrained(base, codec=codec and str(codec), local_files_only=True)
    model = _load_model(base, settings)
    # 3. Check that they fit together: other ids would not fail anywhere, but decode to the wrong codes.
    fields = {name: getattr(model.config, name) for name in processor.token_ids.config_fields()}
    if fields != processor.token_ids.config_fields():
        raise ValueError(
            f"Tokenizer and model in {folder} number the audio tokens differently: fetch the checkpoint again."
        )
    if base != folder:
        # 4. Merge the adapter, which also brings the generation config that it was trained with.
        model = _merge(model, folder, base)
    # Only now, since merging replaces the generation config.
    if audio_block_length is not None:
        model.generation_config.audio_block_length = audio_block_length
    if processor.codec is not None:
        check_codec(model.config, processor.codec)
        processor.codec.to(model.device)
    return model.eval(), processor


def quantization_config(bits: int, compute_dtype: torch.dtype) -> Any:
    """Builds transformers' configuration for quantised weights.

    Args:
        bits: 8 (LLM.int8) or 4 (NF4, Dettmers et al., "QLoRA", 2023).
        compute_dtype: Data type in which 4-bit weights are multiplied.

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


def _torch_dtype(dtype: torch.dtype | str | None) -> Any:
    """The data type by its name; `"auto"`, `None` and data types pass unchanged."""
    import torch

    if not isinstance(dtype, str) or dtype == "auto":
        return dtype
    if dtype not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, not {dtype!r}.")
    return getattr(torch, dtype)


def _load_model(folder: Path, settings: dict[str, Any]) -> TtTForConditionalGeneration:
    """Loads a model whose tensors are exactly those that its configuration describes.

    transformers itself initialises missing weights at random and skips unknown tensors, with a warning.
    """
    import torch

    from .modeling.modeling_ttt import TtTForConditionalGeneration

    try:
        model, loaded = TtTForConditionalGeneration.from_pretrained(
            folder, local_files_only=True, output_loading_info=True, **settings
        )
    except torch.OutOfMemoryError:
        # A RuntimeError, too, but not the fault of the checkpoint.
        raise
    except RuntimeError as error:
        # transformers raises it for weights of a wrong shape, with a table of all of them.
        raise ValueError(f"The weights in {folder} do not fit its config.json: fetch the checkpoint again.") from error
    if loaded["missing_keys"]:
        missing = ", ".join(sorted(loaded["missing_keys"])[:3])
        raise ValueError(f"The weights in {folder} are incomplete ({missing} ...): fetch the checkpoint again.")
    if loaded["unexpected_keys"]:
        unknown = ", ".join(sorted(loaded["unexpected_keys"])[:3])
        raise ValueError(
            f"The weights in {folder} do not fit its config.json (it describes no {unknown} ...): fetch the "
            "checkpoint again."
        )
    return model


def _merge(model: TtTForConditionalGeneration, folder: Path, base: Path) -> TtTForConditionalGeneration:
    """Merges an adapter into the weights of a model."""
    from peft import PeftModel, get_peft_model_state_dict
    from transformers import GenerationConfig

    try:
        adapted = PeftModel.from_pretrained(model, str(folder))
        # PEFT only warns of weights that it does not find, and skips those for which there is no layer.
        stored = read_shapes(folder / ADAPTER_WEIGHTS_FILE).keys()
        # An adapter need not hold embeddings: they are allowed, but not required.
        missing = get_peft_model_state_dict(adapted, save_embedding_layers=False).keys() - stored
        unknown = stored - get_peft_model_state_dict(adapted, save_embedding_layers=True).keys()
        if missing or unknown:
            raise ValueError(f"missing: {sorted(missing)[:3]}, unknown: {sorted(unknown)[:3]}")
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
