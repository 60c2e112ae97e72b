"""Loads what `checkpoint_files` finds: a model with its processor and codec, or an adapter merged into its base."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..names import ADAPTER_CONFIG_FILE, ADAPTER_WEIGHTS_FILE, PROCESSOR_FILE
from .checkpoint_files import base_folder, find_checkpoint, find_codec, find_named_codec, read_json, read_shapes
from .config_errors import clear_errors
from .model_checks import check_codec_size, check_finite, check_generation_config, check_model_size


if TYPE_CHECKING:
    import torch
    from peft import LoraConfig
    from transformers.modeling_utils import PreTrainedAudioTokenizerBase

    from ..modeling.modeling_ttt import TtTForConditionalGeneration
    from ..processing.processing_ttt import TtTProcessor

DTYPES = ("float32", "bfloat16", "float16")


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


def load_named_codec(name: str) -> PreTrainedAudioTokenizerBase:
    """Finds a codec by its name and loads it: the one way to a codec without a model.

    Args:
        name: As of `find_named_codec`.

    Returns:
        The codec, in evaluation mode.

    Raises:
        ImportError, OSError, ValueError: As of `find_named_codec` and `codecs.load_codec`.
    """
    from ..codecs import load_codec

    folder = find_named_codec(name)
    check_codec_size(folder)
    with clear_errors(folder / "config.json"):
        codec = load_codec(folder)
    check_finite(codec, folder)
    return codec


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
        bits: 8 or 4, to quantise the weights, see `quantization_config`; 4 need a GPU.
        attn_implementation: `"sdpa"`, `"eager"` or `"flex_attention"`; transformers' choice by default.
        audio_attention: `"span"` or `"block_causal"`; as in the checkpoint by default.
        audio_block_length: Positions per denoising block, in training and generation; as in the checkpoint by default.

    Returns:
        The model, in evaluation mode, and the processor, whose codec may be missing.

    Raises:
        ImportError: If bitsandbytes or PEFT is needed and not installed.
        ValueError: If the checkpoint has missing, unexpected or misshapen tensors, if model, tokenizer, codec and
            adapter do not fit together, or if the device cannot multiply weights in so few `bits`.
    """
    from transformers import AutoConfig

    from ..modeling.configuration_ttt import TtTConfig
    from ..processing.listening import MAX_SECONDS_KEY, check_limit
    from ..processing.tokenization import check_codec

    # Known to the Auto classes, the model type is not taken for one whose code comes with the checkpoint.
    AutoConfig.register(TtTConfig.model_type, TtTConfig, exist_ok=True)
    base = base_folder(folder)
    adapter = _read_adapter(folder) if base != folder else None
    # 1. Collect the arguments of from_pretrained.
    settings = _model_arguments(device, dtype, device_map, bits, attn_implementation)
    if adapter is not None and (folder / "config.json").is_file():  # as the adapter was trained
        config = read_json(folder, "config.json")
        settings |= {name: config[name] for name in ("audio_attention", "audio_block_length") if name in config}
    given = {"audio_attention": audio_attention, "audio_block_length": audio_block_length}
    # Given by the caller, so they replace those that the adapter was trained with.
    settings |= {name: value for name, value in given.items() if value is not None}

    # 2. Load processor and model; those of an adapter are its base's. Sizes come first: nothing is allocated for them.
    codec = codec or find_codec(base)
    check_model_size(base)
    if codec is not None:
        check_codec_size(codec)
    processor = _load_processor(base, codec)
    if adapter is not None and (folder / PROCESSOR_FILE).is_file():  # it may have learned longer recordings
        with clear_errors(folder / PROCESSOR_FILE):
            processor.max_audio_seconds = check_limit(read_json(folder, PROCESSOR_FILE).get(MAX_SECONDS_KEY))
    model = _load_model(base, settings)
    # 3. Check that they fit together: other ids would not fail anywhere, but decode to the wrong codes.
    fields = {name: getattr(model.config, name) for name in processor.token_ids.config_fields()}
    if fields != processor.token_ids.config_fields():
        raise ValueError(
            f"Tokenizer and model in {folder} number the audio tokens differently: fetch the checkpoint again."
        )
    if adapter is not None:
        # 4. Merge the adapter, which also brings the generation config that it was trained with.
        model = _merge(model, adapter, folder, base)
    # Only now, since merging replaces the generation config.
    if audio_block_length is not None:
        model.generation_config.audio_block_length = audio_block_length
    if bits is not None and "quantization_config" not in settings:
        from .int8_weights import quantize

        # Last: adapters are merged into numbers, which are checked as such.
        quantize(model)
    if processor.codec is not None:
        check_codec(model.config, processor.codec)
        check_finite(processor.codec, codec or base)
        processor.codec.to(model.device)
    source = folder if (folder / "generation_config.json").is_file() else base
    check_generation_config(model.eval(), processor.tokenizer, source / "generation_config.json")
    return model, processor


def _model_arguments(
    device: str | None,
    dtype: torch.dtype | str | None,
    device_map: str | dict[str, Any] | None,
    bits: int | None,
    attn_implementation: str | None,
) -> dict[str, Any]:
    """Arguments of `from_pretrained`, from those of `load_checkpoint`."""
    import torch

    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    dtype = _torch_dtype(dtype) or (torch.float32 if device == "cpu" else "auto")
    settings: dict[str, Any] = {"dtype": dtype}
    if device_map is not None or device != "cpu":
        settings["device_map"] = device_map or {"": device}
    if bits is not None:
        quantization = quantization_config(bits, None if isinstance(dtype, str) else dtype, device)
        on_gpu = quantization.quant_method == "bitsandbytes"
        # A CPU's weights are loaded as they are, and quantised by load_checkpoint.
        settings |= {"quantization_config": quantization} if on_gpu else {"dtype": torch.float32}
    if attn_implementation is not None:
        settings["attn_implementation"] = attn_implementation
    return settings


def quantization_config(bits: int, compute_dtype: torch.dtype | None = None, device: str | None = None) -> Any:
    """Builds transformers' configuration for quantised weights.

    Args:
        bits: 8 (on a GPU LLM.int8 of bitsandbytes, on a CPU `DynamicInt8Config`) or, on a GPU, 4 (NF4, Dettmers et
            al., "QLoRA", 2023).
        compute_dtype: Data type in which 4-bit weights are multiplied, bfloat16 by default; on a CPU float32.
        device: Device of the model; the GPU if there is one, else the CPU.

    Returns:
        For `from_pretrained(quantization_config=...)`.

    Raises:
        ImportError: If bitsandbytes is needed and not installed, or PyTorch has no kernels for integers.
        ValueError: If the device or the data type is not one for this number of bits, or the number is another.
    """
    import torch

    if bits not in (4, 8):
        raise ValueError(f"Weights can be held in 8 or 4 bits, not in {bits}.")
    has_gpu = torch.cuda.is_available()
    if bits == 4 and not has_gpu:
        raise ValueError("Weights in 4 bits need a CUDA device, and there is none: hold them in 8 bits.")
    if bits == 8 and (device == "cpu" or not has_gpu):
        if compute_dtype not in (None, torch.float32):
            raise ValueError("On a CPU, weights in 8 bits are multiplied in float32: leave out the data type.")
        from .int8_weights import DynamicInt8Config, check_kernels

        check_kernels()
        return DynamicInt8Config()
    if find_spec("bitsandbytes") is None:
        raise ImportError(f"Weights in {bits} bits need bitsandbytes: pip install bitsandbytes.")
    from transformers import BitsAndBytesConfig

    if bits == 8:
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=compute_dtype or torch.bfloat16
    )


def _torch_dtype(dtype: torch.dtype | str | None) -> Any:
    """The data type by its name; `"auto"`, `None` and data types pass unchanged."""
    import torch

    if not isinstance(dtype, str) or dtype == "auto":
        return dtype
    if dtype not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, not {dtype!r}.")
    return getattr(torch, dtype)


def _load_processor(folder: Path, codec: Path | None) -> TtTProcessor:
    """Loads a processor whose tokenizer works."""
    from ..processing.processing_ttt import TtTProcessor

    try:
        with clear_errors(folder / "tokenizer_config.json"):
            processor = TtTProcessor.from_pretrained(
                folder, codec=codec and str(codec), local_files_only=True, trust_remote_code=False
            )
            # Some settings are used only now.
            tokenizer = processor.tokenizer
            tokenizer.decode(tokenizer("Hello.", add_special_tokens=False)["input_ids"], skip_special_tokens=True)
    except ValueError:
        if (folder / "tokenizer.json").is_file():
            from tokenizers import Tokenizer

            # Raises if it is this file that is damaged.
            with clear_errors(folder / "tokenizer.json"):
                Tokenizer.from_file(str(folder / "tokenizer.json"))
        raise
    if not isinstance(processor.chat_template, str):
        raise ValueError(f"{folder} has a chat template that is no text: fetch the checkpoint again.")
    return processor


def _load_model(folder: Path, settings: dict[str, Any]) -> TtTForConditionalGeneration:
    """Loads a model whose tensors are exactly those that its configuration describes.

    transformers itself initialises missing weights at random and skips unknown tensors, with a warning.
    """
    import torch
    from transformers import GenerationConfig

    from ..modeling.modeling_ttt import TtTForConditionalGeneration

    if (folder / "generation_config.json").is_file():
        # Read on its own first, so that its errors are not taken for those of the model.
        with clear_errors(folder / "generation_config.json", GenerationConfig.from_dict):
            GenerationConfig.from_pretrained(folder)
    with clear_errors(folder):
        try:
            model, loaded = TtTForConditionalGeneration.from_pretrained(
                folder,
                local_files_only=True,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
                **settings,
            )
        except torch.OutOfMemoryError:
            # A RuntimeError, too, but not the fault of the checkpoint.
            raise
        except RuntimeError as error:
            # transformers raises it for weights of a wrong shape, with a table of all of them.
            raise ValueError(
                f"The weights in {folder} do not fit its config.json: fetch the checkpoint again."
            ) from error
    if loaded["missing_keys"]:
        missing = ", ".join(sorted(loaded["missing_keys"])[:3])
        raise ValueError(f"The weights in {folder} are incomplete ({missing} ...): fetch the checkpoint again.")
    if loaded["unexpected_keys"]:
        unknown = ", ".join(sorted(loaded["unexpected_keys"])[:3])
        raise ValueError(
            f"The weights in {folder} do not fit its config.json (it describes no {unknown} ...): fetch the "
            "checkpoint again."
        )
    check_finite(model, folder)
    return model


def _read_adapter(folder: Path) -> LoraConfig:
    """Reads the configuration of an adapter, before its base is loaded."""
    if find_spec("peft") is None:
        raise ModuleNotFoundError(f"{folder} is an adapter, which needs PEFT: pip install 'ttt-hf[train]'.")
    from .adapter_checks import read_adapter

    return read_adapter(folder, folder / ADAPTER_WEIGHTS_FILE)


def _merge(
    model: TtTForConditionalGeneration, adapter: LoraConfig, folder: Path, base: Path
) -> TtTForConditionalGeneration:
    """Merges an adapter into the weights of a model."""
    import torch
    from peft import PeftModel, get_peft_model_state_dict
    from transformers import GenerationConfig

    try:
        adapted = PeftModel.from_pretrained(model, str(folder), config=adapter)
        # PEFT only warns of weights that it does not find, and skips those for which there is no layer.
        stored = read_shapes(folder / ADAPTER_WEIGHTS_FILE).keys()
        # An adapter need not hold embeddings: they are allowed, but not required.
        missing = get_peft_model_state_dict(adapted, save_embedding_layers=False).keys() - stored
        unknown = stored - get_peft_model_state_dict(adapted, save_embedding_layers=True).keys()
        if missing or unknown:
            raise ValueError(f"missing: {sorted(missing)[:3]}, unknown: {sorted(unknown)[:3]}")
        merged = adapted.merge_and_unload()
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, ValueError, TypeError, LookupError, AttributeError) as error:
        raise ValueError(
            f"The adapter {folder} does not fit the model {base}: write the one that it was trained on into "
            f"{ADAPTER_CONFIG_FILE}, base_model_name_or_path."
        ) from error
    if (folder / "generation_config.json").is_file():
        with clear_errors(folder / "generation_config.json", GenerationConfig.from_dict):
            merged.generation_config = GenerationConfig.from_pretrained(folder)
    check_finite(merged, folder)
    return merged
