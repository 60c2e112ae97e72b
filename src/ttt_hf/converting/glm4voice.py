"""Converts the published files of the GLM-4-Voice tokenizer and decoder into one codec of this package.

Nothing in them is executed: YAML tags are read as plain data, pickles as tensors only.
"""

import json
import os
import pickle
import re
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ..atomic_files import atomic_folder
from ..codecs import Glm4VoiceCodec, Glm4VoiceCodecConfig, Glm4VoiceDecoderConfig, Glm4VoiceTokenizerConfig
from .folders import check_new_folder


TOKENIZER_FILES = ("config.json", "model.safetensors")
DECODER_FILES = ("config.yaml", "flow.pt", "hift.pt")
# Used in training and by a decoder that was never published.
UNUSED_TOKENIZER_KEYS = {"ema_count", "ema_weight", "embed_positions2.weight"}
# Published name -> ours. Applied in order: later rules see the names that earlier ones made.
FLOW_NAMES = (
    (r"^spk_embed_affine_layer\.", "speaker."),
    (r"^encoder\.embed\.out\.", "encoder.embed."),
    (r"^encoder\.encoders\.", "encoder.layers."),
    (r"^length_regulator\.model\.", "length_regulator."),
    (r"^decoder\.estimator\.", "estimator."),
    (r"^(estimator\.time_mlp)\.linear_1\.", r"\1.0."),
    (r"^(estimator\.time_mlp)\.linear_2\.", r"\1.2."),
    (r"^(estimator\.(?:down|mid|up)_blocks\.\d+)\.0\.", r"\1.resnet."),
    (r"^(estimator\.(?:down|mid|up)_blocks\.\d+)\.1\.", r"\1.layers."),
    (r"^(estimator\.(?:down|up)_blocks\.\d+)\.2\.(?:conv\.)?", r"\1.resample."),
    (r"\.attn1\.", ".attn."),
    (r"\.to_out\.0\.", ".to_out."),
    (r"\.ff\.net\.0\.proj\.", ".ff.0."),
    (r"\.ff\.net\.2\.", ".ff.2."),
    (r"^(estimator\.final_block|.*\.block[12])\.block\.", r"\1."),
)
# PyTorch's newer names for weight normalisation, and its older ones.
WEIGHT_NORM_NAMES = (
    (r"(^|\.)parametrizations\.weight\.original0$", r"\1weight_g"),
    (r"(^|\.)parametrizations\.weight\.original1$", r"\1weight_v"),
)
VOCODER_NAMES = ((r"^m_source\.l_linear\.", "source_linear."),)
# Settings of the published configurations for which our code has the published value alone.
TOKENIZER_CONSTANTS = {
    "pooling_type": "avg",
    "quantize_encoder_only": True,
    "quantize_causal_encoder": False,
    "encoder_causal_convolution": True,
    "encoder_causal_attention": False,
    "scale_embedding": False,
}
FLOW_CONSTANTS = {
    "encoder.input_layer": "linear",
    "encoder.pos_enc_layer_type": "rel_pos_espnet",
    "encoder.selfattention_layer_type": "block_rel_selfattn",
    "encoder.normalize_before": True,
    "encoder.use_cnn_module": False,
    "encoder.macaron_style": False,
    "decoder.n_spks": 1,
    "decoder.cfm_params.solver": "euler",
    "decoder.cfm_params.t_scheduler": "cosine",
    "decoder.estimator.act_fn": "gelu",
}


def convert_glm4voice(
    tokenizer_folder: str | os.PathLike[str], decoder_folder: str | os.PathLike[str], target: str | os.PathLike[str]
) -> Glm4VoiceCodecConfig:
    """Converts the published tokenizer and decoder.

    Args:
        tokenizer_folder: Folder with `config.json` and `model.safetensors`.
        decoder_folder: Folder with `config.yaml`, `flow.pt` and `hift.pt`.
        target: Folder for the codec, which must be empty or not there; it appears when it is complete.

    Returns:
        The configuration of the codec.

    Raises:
        OSError: If a file is missing, or the target cannot be written.
        ValueError: If a file is damaged, holds code, or does not fit its configuration.
    """
    tokenizer_folder, decoder_folder, target = Path(tokenizer_folder), Path(decoder_folder), Path(target)
    # 1. Check files and target before anything is read.
    _require_files(tokenizer_folder, TOKENIZER_FILES, "tokenizer")
    _require_files(decoder_folder, DECODER_FILES, "decoder")
    check_new_folder(target)
    # 2. Build the configuration, whose classes check types and ranges themselves.
    settings = read_tagged_yaml(decoder_folder / "config.yaml")
    try:
        config = Glm4VoiceCodecConfig(
            tokenizer_config=read_tokenizer_config(tokenizer_folder / "config.json"),
            decoder_config=read_decoder_config(settings, decoder_folder / "config.yaml"),
        )
    except (StrictDataclassError, TypeError) as error:
        reason = " ".join(str(error.__cause__ or error).split())
        raise ValueError(
            f"The configurations in {tokenizer_folder} and {decoder_folder} are not those of GLM-4-Voice: {reason}"
        ) from error
    # 3. Build an empty codec: on the meta device it takes neither memory nor time for an initialisation.
    with torch.device("meta"):
        codec = Glm4VoiceCodec(config)
    # 4. Load the parts into it, one file at a time.
    for module, path, convert in (
        (codec.tokenizer, tokenizer_folder / "model.safetensors", convert_tokenizer),
        (codec.decoder.flow, decoder_folder / "flow.pt", convert_flow),
        (codec.decoder.vocoder, decoder_folder / "hift.pt", convert_vocoder),
    ):
        _load(module, path, convert)
    # 5. Save it, now that all parts have been found to fit.
    with atomic_folder(target) as part:
        codec.save_pretrained(part)
    return config


# -- configurations --------------------------------------------------------------------------------------------------


def read_tokenizer_config(path: Path) -> Glm4VoiceTokenizerConfig:
    """Reads the published `config.json` of the tokenizer; a `ValueError` if it is damaged or describes another one."""
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}): fetch the tokenizer again.") from error
    get = _getter(settings, path, TOKENIZER_CONSTANTS)
    return Glm4VoiceTokenizerConfig(
        num_mel_bins=get("num_mel_bins"),
        d_model=get("d_model"),
        # The quantiser follows this layer, and quantize_encoder_only leaves out the later ones.
        encoder_layers=get("quantize_position"),
        encoder_attention_heads=get("encoder_attention_heads"),
        encoder_ffn_dim=get("encoder_ffn_dim"),
        activation_function=get("activation_function"),
        max_source_positions=get("max_source_positions"),
        block_size=get("quantize_causal_block_size"),
        pooling_kernel_size=get("pooling_kernel_size"),
        pooling_position=get("pooling_position"),
        codebook_size=get("quantize_vocab_size"),
    )


def read_decoder_config(settings: Any, path: Path) -> Glm4VoiceDecoderConfig:
    """Turns the content of the published `config.yaml` into our configuration.

    Args:
        settings: As `read_tagged_yaml` returns it.
        path: The file, for errors.

    Raises:
        ValueError: If settings are missing or describe another decoder.
    """
    top = _getter(settings, path, {})
    flow = _getter(top("flow"), path, FLOW_CONSTANTS)
    hift = _getter(top("hift"), path, {})
    channels = flow("decoder.estimator.channels")
    # Our U-Net has one width for all levels.
    if len(set(channels)) != 1:
        raise ValueError(f"{path} describes a U-Net of unequal channels {channels}, which this package does not know.")
    bins, hidden = flow("output_size"), flow("encoder.output_size")
    # The file repeats some sizes, of which only the first is read: they have to agree.
    repeated = {"input_size": hidden, "encoder.input_size": hidden, "length_regulator.channels": bins}
    # The U-Net gets noisy mel, mean, speaker and known frames, stacked as channels.
    repeated |= {"decoder.estimator.in_channels": 4 * bins, "decoder.estimator.out_channels": bins}
    for name, size in repeated.items():
        if flow(name) != size:
            raise ValueError(
                f"{path} says {name}: {flow(name)}, but by its other sizes that is {size}: fetch it again."
            )
    return Glm4VoiceDecoderConfig(
        codebook_size=flow("vocab_size"),
        frame_rate=float(flow("input_frame_rate")),
        num_mel_bins=bins,
        speaker_size=flow("spk_embed_dim"),
        hidden_size=hidden,
        num_hidden_layers=flow("encoder.num_blocks"),
        num_attention_heads=flow("encoder.attention_heads"),
        intermediate_size=flow("encoder.linear_units"),
        block_size=flow("encoder.block_size"),
        regulator_layers=len(flow("length_regulator.sampling_ratios")),
        unet_channels=channels[0],
        unet_levels=len(channels),
        unet_mid_blocks=flow("decoder.estimator.num_mid_blocks"),
        unet_layers=flow("decoder.estimator.n_blocks"),
        unet_heads=flow("decoder.estimator.num_heads"),
        unet_head_size=flow("decoder.estimator.attention_head_dim"),
        guidance=float(flow("decoder.cfm_params.inference_cfg_rate")),
        sampling_rate=hift("sampling_rate"),
        vocoder_channels=hift("base_channels"),
        upsample_rates=hift("upsample_rates"),
        upsample_kernel_sizes=hift("upsample_kernel_sizes"),
        n_fft=hift("istft_params.n_fft"),
        hop_length=hift("istft_params.hop_len"),
        resblock_kernel_sizes=hift("resblock_kernel_sizes"),
        resblock_dilations=hift("resblock_dilation_sizes"),
        source_resblock_kernel_sizes=hift("source_resblock_kernel_sizes"),
        source_resblock_dilations=hift("source_resblock_dilation_sizes"),
        pitch_channels=hift("f0_predictor.cond_channels"),
        num_harmonics=hift("nb_harmonics"),
        source_amplitude=float(hift("nsf_alpha")),
        source_noise=float(hift("nsf_sigma")),
        voiced_threshold=hift("nsf_voiced_threshold"),
        leaky_slope=float(hift("lrelu_slope")),
        audio_limit=float(hift("audio_limit")),
    )


class _PlainLoader(yaml.SafeLoader):
    """Reads YAML and ignores tags, which would name Python classes to create."""


def _construct_untagged(loader: yaml.SafeLoader, node: yaml.Node) -> Any:
    if isinstance(node, yaml.MappingNode):
        return loader.construct_mapping(node, deep=True)
    if isinstance(node, yaml.SequenceNode):
        return loader.construct_sequence(node, deep=True)
    return loader.construct_scalar(node)


# None stands for all tags that have no constructor of their own.
_PlainLoader.add_constructor(None, _construct_untagged)


def read_tagged_yaml(path: Path) -> Any:
    """Reads YAML with tags (`!new:`, `!name:`, `!apply:`, `!ref`) as plain data.

    Returns:
        Its content; `<name>`, a reference, becomes the value of that name at the top level.

    Raises:
        ValueError: If it is not YAML.
    """
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_PlainLoader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} is damaged ({reason}): fetch the decoder again.") from error
    names = content if isinstance(content, dict) else {}

    def resolve(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: resolve(part) for key, part in value.items()}
        if isinstance(value, list):
            return [resolve(part) for part in value]
        reference = re.fullmatch(r"<(\w+)>", value) if isinstance(value, str) else None
        return names.get(reference[1], value) if reference else value

    return resolve(content)


def _getter(settings: Any, path: Path, constants: Mapping[str, Any]) -> Callable[[str], Any]:
    """Checks the settings that must have a certain value; returns a function that looks up dotted names."""

    def get(name: str) -> Any:
        value = settings
        for part in name.split("."):
            # Arguments of a tagged class may lie in a mapping named content.
            if isinstance(value, dict) and part not in value and isinstance(value.get("content"), dict):
                value = value["content"]
            if not isinstance(value, dict) or part not in value:
                raise ValueError(f"{path} has no {name}: it is not the configuration of GLM-4-Voice.")
            value = value[part]
        return value

    for name, expected in constants.items():
        # Another value would need code that this package lacks.
        if get(name) != expected:
            raise ValueError(
                f"{path} has {name}: {get(name)!r}, and this package knows GLM-4-Voice with {expected!r} only."
            )
    return get


# -- weights ---------------------------------------------------------------------------------------------------------


def convert_tokenizer(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of the published tokenizer, bare or under `model.encoder.`, under our names."""
    bare = {name.removeprefix("model.encoder."): tensor for name, tensor in weights.items()}
    return {name: tensor for name, tensor in bare.items() if name not in UNUSED_TOKENIZER_KEYS}


def convert_flow(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of the published flow under our names."""
    return _rename(weights, FLOW_NAMES)


def convert_vocoder(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of the published vocoder under our names, weight normalisation multiplied out.

    Salimans and Kingma, "Weight Normalization", 2016: a weight is g v / |v|, the norm taken over all but the first
    dimension.
    """
    # 1. Bring the names to one spelling; weights without normalisation stay as they are.
    modern = _rename(weights, WEIGHT_NORM_NAMES)
    merged = {name: tensor for name, tensor in modern.items() if not name.endswith(("weight_g", "weight_v"))}
    # 2. Multiply each pair of magnitude g and direction v out to one weight.
    for name, direction in modern.items():
        base = name.removesuffix("_v")
        if name.endswith("weight_v") and f"{base}_g" in modern:
            # The same operation as in the original, so that the weights are bit-identical.
            merged[base] = torch._weight_norm(direction, modern[f"{base}_g"], 0)
    return _rename(merged, VOCODER_NAMES)


def _rename(weights: Mapping[str, Tensor], rules: tuple[tuple[str, str], ...]) -> dict[str, Tensor]:
    renamed = {}
    for name, tensor in weights.items():
        # All rules, not the first that matches: one name may need several.
        for pattern, replacement in rules:
            name = re.sub(pattern, replacement, name)
        renamed[name] = tensor
    return renamed


def read_weights(path: Path) -> dict[str, Tensor]:
    """Reads a file of tensors, safetensors or a pickle that holds nothing else.

    Returns:
        Its tensors, by name.

    Raises:
        ValueError: If it is damaged or holds anything but tensors, code above all.
    """
    damaged = f"{path} is damaged or cut short: fetch it again."
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except SafetensorError as error:
            raise ValueError(damaged) from error
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # torch's word for classes and functions that weights_only does not allow.
        if "Unsupported" in str(error):
            raise ValueError(
                f"{path} holds more than tensors, it may be code: it is refused, fetch the published file."
            ) from error
        raise ValueError(damaged) from error
    except (RuntimeError, EOFError, OSError, ValueError, LookupError, struct.error) as error:
        # What torch raises for damaged files depends on where the damage is, and on the format.
        raise ValueError(damaged) from error
    if not isinstance(weights, dict) or not all(isinstance(tensor, Tensor) for tensor in weights.values()):
        raise ValueError(f"{path} does not hold tensors by name: fetch the published file.")
    return weights


def _load(module: torch.nn.Module, path: Path, convert: Callable[[Mapping[str, Tensor]], dict[str, Tensor]]) -> None:
    """Loads weights into a module on the meta device; every name and shape has to match."""
    weights = {name: tensor.float() for name, tensor in convert(read_weights(path)).items()}
    expected = {name: tensor.shape for name, tensor in module.state_dict().items()}
    shared = expected.keys() & weights.keys()
    for problem, names in (
        ("lacks", expected.keys() - shared),
        ("also has", weights.keys() - shared),
        ("has another size of", {name for name in shared if weights[name].shape != expected[name]}),
    ):
        if names:
            first = min(names)
            raise ValueError(
                f"{path} does not fit its configuration: of the {len(expected)} tensors that this describes, it "
                f"{problem} {len(names)}, such as {first}; take both from the same model."
            )
    # assign=True: parameters on the meta device have no memory to copy into.
    module.load_state_dict(weights, assign=True)


# -- files -----------------------------------------------------------------------------------------------------------


def _require_files(folder: Path, names: tuple[str, ...], what: str) -> None:
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {folder}: name that of the published {what}.")
    # All missing files in one message, so that they can be fetched at once.
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise FileNotFoundError(
            f"{folder} has no {' and no '.join(missing)}: name the folder of the published {what}, with "
            f"{', '.join(names)}."
        )
