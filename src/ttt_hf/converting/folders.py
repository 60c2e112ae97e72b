"""The folder that a conversion writes."""

from __future__ import annotations

import glob
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..atomic_files import LOCK_FILE, atomic_folder, check_folder, lock_folder
from ..codecs import CODEC_IDS
from ..names import CODEC_FOLDER, EMBEDDED_NAMES


if TYPE_CHECKING:
    from ..modeling import TtTForConditionalGeneration
    from ..processing import TtTProcessor


@dataclass(frozen=True)
class Converted:
    """Summary of a converted model.

    Args:
        out: The folder.
        parameters: Number of weights; tied ones count once.
        dtype: Data type of the weights.
        vocabulary: Rows of the embedding matrix.
        codes: How many of them are audio codes.
        codec: `"codec"` if it is in that sub-folder, otherwise its Hub id, or `None`.
    """

    out: str
    parameters: int
    dtype: str
    vocabulary: int
    codes: int
    codec: str | None


def check_new_folder(out: Path) -> None:
    """Checks that a new folder can be written, before anything slow begins.

    Args:
        out: The folder; it may exist if it is empty.

    Raises:
        FileExistsError: If it is not empty.
        OSError: If it is a file, or nothing can be written there.
    """
    check_folder(out)
    if out.is_dir() and any(path.name != LOCK_FILE for path in out.iterdir()):
        raise FileExistsError(f"{out} exists and is not empty: name another folder, or remove it first.")


@contextmanager
def new_folder(out: Path) -> Iterator[None]:
    """Keeps a new folder for one conversion, and removes what one that was killed has left of it.

    Args:
        out: The folder, as of `check_new_folder`.

    Raises:
        BlockingIOError: If another process is converting into it.
        OSError: As of `check_new_folder`.
    """
    check_new_folder(out)
    with lock_folder(out):
        for part in out.absolute().parent.glob(f".{glob.escape(out.name)}.*.part"):
            shutil.rmtree(part, ignore_errors=True)
        yield


def save(model: TtTForConditionalGeneration, processor: TtTProcessor, out: Path) -> Converted:
    """Saves a model with its generation config, processor and codec.

    Args:
        model: The model.
        processor: Its processor; a codec with a `codec_reference` is saved by that name alone.
        out: The folder, which `check_new_folder` has accepted.

    Returns:
        A summary.

    Raises:
        OSError: If it cannot be written.
    """
    with atomic_folder(out) as part:
        model.save_pretrained(part)
        processor.save_pretrained(part)
    return Converted(
        out=str(out),
        # parameters() yields tied weights once.
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        dtype=str(model.dtype).removeprefix("torch."),
        vocabulary=model.config.get_text_config().vocab_size,
        codes=model.config.audio_vocab_size,
        codec=(processor.codec_reference or CODEC_FOLDER) if processor.codec is not None else None,
    )


def codec_reference(codec: str | None) -> str | None:
    """The Hub id by which a checkpoint refers to a codec; `None` for one in a folder, which is copied."""
    # The embedded codec has no Hub id that a checkpoint could refer to.
    if codec is None or codec in EMBEDDED_NAMES or Path(codec).expanduser().is_dir():
        return None
    return CODEC_IDS.get(codec, codec)
