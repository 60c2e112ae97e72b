"""The forms in which Python hands over audio, unpacked to a name, the content of a file, or an array with its rate."""

from __future__ import annotations

import io
import os
import reprlib
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias

import numpy as np

from .fetching import read_limited


if TYPE_CHECKING:
    import torch

AudioSource: TypeAlias = (
    "str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO | np.ndarray | torch.Tensor | list[Any] | "
    "tuple[Any, Any] | Mapping[str, Any]"
)
MIN_SAMPLING_RATE = 1000
MAX_SAMPLING_RATE = 768_000
# Keys of mappings that hold audio, the first one given counts, and the types of its value.
MAPPING_TYPES: dict[str, Any] = {
    "bytes": (bytes, bytearray), "array": object, "raw": object, "audio": object,
    "path": (str, os.PathLike), "url": (str, os.PathLike),
}  # fmt: skip
FORMS = (
    "Audio must be a file name, an address, bytes, an open file, a NumPy array, a torch tensor, a list of numbers, a "
    "pair of rate and samples, or a mapping such as {'array', 'sampling_rate'} or {'bytes'}"
)


def unpack_audio(source: Any, sampling_rate: Any = None) -> tuple[str | os.PathLike[str] | BinaryIO | np.ndarray, Any]:
    """Brings every form of audio to one of three.

    Args:
        source: What `read_audio` takes.
        sampling_rate: Rate in Hz of samples, if it is given beside them.

    Returns:
        A path or an address, a seekable file, or an array as it was given; and the rate in Hz, or `None`.

    Raises:
        ValueError: If the content is empty, or two rates are given.
        TypeError: If the source is none of the forms.
    """
    if isinstance(source, (str, os.PathLike)):
        return source, sampling_rate
    if isinstance(source, (bytes, bytearray, memoryview)):
        if not len(source):
            raise ValueError("The audio is empty (0 bytes).")
        return io.BytesIO(source), sampling_rate
    if isinstance(source, Mapping):
        return _unpack_mapping(source, sampling_rate)
    if hasattr(source, "get_all_samples"):  # an AudioDecoder of torchcodec, which `datasets` gives
        samples = source.get_all_samples()
        return _unpack_samples(samples.data, samples.sample_rate, sampling_rate)
    if hasattr(source, "read"):
        return read_limited(source.read, "The open file"), sampling_rate
    if isinstance(source, tuple) and len(source) == 2 and _is_number(source[0]) != _is_number(source[1]):
        # Gradio puts the rate first, librosa and soundfile put it last.
        rate, samples = source if _is_number(source[0]) else reversed(source)
        return _unpack_samples(samples, rate, sampling_rate)
    return _as_array(source), sampling_rate


def _unpack_mapping(source: Mapping[str, Any], sampling_rate: Any) -> Any:
    # As in `datasets`: undecoded (bytes, path) or decoded (array). Pipelines of transformers take `raw`, give `audio`.
    key = next((key for key in MAPPING_TYPES if source.get(key) is not None), None)
    if key is None or not isinstance(source[key], MAPPING_TYPES[key]):
        keys = ", ".join(repr(key) for key in list(source)[:5])
        raise TypeError(f"{FORMS}, not a mapping with {keys or 'nothing'}.")
    if MAPPING_TYPES[key] is object:
        return _unpack_samples(source[key], source.get("sampling_rate"), sampling_rate)
    return unpack_audio(source[key], sampling_rate)


def _unpack_samples(samples: Any, rate: Any, sampling_rate: Any) -> tuple[np.ndarray, Any]:
    array = _as_array(samples)
    if rate is None or sampling_rate is None:
        return array, sampling_rate if rate is None else rate
    if check_rate(rate) != check_rate(sampling_rate):
        raise ValueError(f"The samples come with a rate of {rate} Hz, but sampling_rate is {sampling_rate}.")
    return array, rate


def check_rate(rate: Any) -> int:
    """A sampling rate in Hz as a whole number; raises a `ValueError` if it is not one of audio."""
    if not _is_number(rate):
        raise ValueError(f"sampling_rate must be a number of Hz, not {reprlib.repr(rate)}.")
    # Comparing first: neither infinity nor NaN can be converted.
    if not MIN_SAMPLING_RATE <= rate <= MAX_SAMPLING_RATE or rate != int(rate):
        raise ValueError(
            f"A sampling rate of {reprlib.repr(rate)} Hz is not one of audio "
            f"({MIN_SAMPLING_RATE} to {MAX_SAMPLING_RATE} Hz)."
        )
    return int(rate)


def _is_number(value: Any) -> bool:
    # Also one in an array or a tensor without axes, whose storage may be missing.
    with suppress(RuntimeError):
        value = value.item() if getattr(value, "ndim", None) == 0 else value
    # `bool` is a subclass of `int`.
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _as_array(source: Any) -> np.ndarray:
    if not (hasattr(source, "__array__") or isinstance(source, (list, tuple))):
        raise TypeError(f"{FORMS}, not {type(source).__name__}.")
    try:
        if hasattr(source, "detach"):  # a tensor, without importing torch to know it
            tensor = source.detach().cpu()
            # NumPy has no bfloat16.
            array = (tensor.float() if tensor.is_floating_point() else tensor.resolve_conj()).numpy()
        else:
            array = np.asarray(source)
    # Sparse and quantised tensors and those without storage; lists of lists of different length.
    except (RuntimeError, ValueError, TypeError) as error:
        raise ValueError("The samples are no plain array: give a dense tensor or rows of equal length.") from error
    if array.dtype.kind in "OUSVMm":
        raise TypeError(f"{FORMS}, not a {type(source).__name__} of something else than numbers.")
    if array.ndim not in (1, 2):
        raise ValueError(f"Samples must have shape (samples,) or (channels, samples), not {tuple(array.shape)}.")
    return array


def is_one_audio(audio: Any) -> bool:
    """Whether it is one audio rather than a list of several: samples in a list, or in a pair with their rate, are."""
    if not isinstance(audio, (list, tuple)):
        return True
    # Of a list the first number tells; of a pair either part may be the rate.
    is_pair = isinstance(audio, tuple) and len(audio) == 2
    return any(_is_number(part) for part in audio[: 2 if is_pair else 1])
