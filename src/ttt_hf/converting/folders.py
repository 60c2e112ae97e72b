"""The folder that a conversion writes: new, and there only when it is complete."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError

from ..atomic_files import check_folder


if TYPE_CHECKING:
    from ..modeling import TtTForConditionalGeneration
    from ..processing import TtTProcessor


@dataclass(frozen=True)
class Converted:
    """What a conversion made.

    Args:
        out: The folder.
        parameters: Weights of the model; tied ones count once.
        dtype: Their type.
        vocabulary: Rows of the embedding matrix.
        codes: How many of its ids are codes.
        codec: `"codec"` if it lies in that sub-folder, otherwise its name, or `None`.
    """

    out: str
    parameters: int
    dtype: str
    vocabulary: int
    codes: int
    codec: str | None


def check_new_folder(out: Path) -> None:
    """Checks that a folder can be made, before anything slow begins.

    Args:
        out: Its name; an empty folder of that name may exist.

    Raises:
        FileExistsError: If there is something in it already.
        OSError: If it is a file, or nothing can be written there.
    """
    check_folder(out)
    if out.is_dir() and any(out.iterdir()):
        raise FileExistsError(f"{out} exists and is not empty: name another folder, or remove it first.")


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """Lets a folder appear under its name only when all that is in it is complete.

    Args:
        out: Its name, as `check_new_folder` passed it.

    Yields:
        The folder to write to, on the same file system. After an error nothing is left.

    Raises:
        OSError: If it cannot be written, for example because there is no space left.
    """
    part = out.with_name(f".{out.name}.part")
    try:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        yield part
        if out.is_dir():
            out.rmdir()
        part.rename(out)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise OSError(
            f"{out} cannot be written ({reason}): free some space, or choose another folder, and "
            "run the same command again."
        ) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def save(model: TtTForConditionalGeneration, processor: TtTProcessor, out: Path) -> Converted:
    """Saves a model with everything that is needed to talk to it.

    Args:
        model: The model, its generation config included.
        processor: Its processor, with the codec or its name, if there is one.
        out: The folder, as `check_new_folder` passed it.

    Returns:
        What is there now.

    Raises:
        OSError: As of `new_folder`.
    """
    with new_folder(out) as part:
        model.save_pretrained(part)
        processor.save_pretrained(part)
    codec = None
    if processor.codec is not None:
        codec = processor.codec_reference or "codec"
    return Converted(
        out=str(out),
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        dtype=str(model.dtype).removeprefix("torch."),
        vocabulary=model.config.get_text_config().vocab_size,
        codes=model.config.audio_vocab_size,
        codec=codec,
    )


def codec_reference(codec: str | None) -> str | None:
    """The name by which a checkpoint refers to a codec on the Hub; `None` for a folder, which is copied."""
    from ..codecs import CODEC_IDS
    from ..loading import EMBEDDED_NAMES

    if codec is None or codec in EMBEDDED_NAMES or Path(codec).expanduser().is_dir():
        return None
    return CODEC_IDS.get(codec, codec)
