"""What a request receives while it is answered."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from ..processing.replies import Reply


@dataclass(frozen=True)
class Text:
    """New text.

    Attributes:
        text: Complete characters; it may be empty where a character is spread over several tokens.
        token_ids: The tokens that it comes of.
    """

    text: str
    token_ids: tuple[int, ...] = ()


@dataclass(frozen=True)
class Draft:
    """The block being denoised, after each denoising step; to be replaced by the next `Draft` or `Codes`.

    Attributes:
        token_ids: One id a position, `config.mask_token_id` where nothing is committed yet.
        confidences: Per position the probability of the token that this step has proposed there.
    """

    token_ids: tuple[int, ...]
    confidences: tuple[float, ...]


@dataclass(frozen=True)
class Codes:
    """A finished block of speech.

    Attributes:
        codes: Codec codes, without end markers.
    """

    codes: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Audio:
    """New samples of speech, which follow those before.

    Attributes:
        samples: Float32 of shape `(samples,)` at `Engine.sampling_rate`.
    """

    samples: np.ndarray


@dataclass(frozen=True, eq=False)
class End:
    """The end of a reply, with all of it.

    Attributes:
        reply: Text, waveform, segments and finish reason; without `audio` if speech was not asked for.
        prompt_ids: Ids of the prompt.
        token_ids: Ids that were generated.
        num_forward_passes: Number of forwards that the request took part in.
    """

    reply: Reply
    prompt_ids: tuple[int, ...]
    token_ids: tuple[int, ...]
    num_forward_passes: int


Event: TypeAlias = "Text | Draft | Codes | Audio | End"
