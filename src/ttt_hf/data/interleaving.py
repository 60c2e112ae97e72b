"""The interleaved reply format: a little text, a span of audio, a little more text, and the rest of the audio."""

from __future__ import annotations

from collections.abc import Sequence

from ..modeling.configuration_ttt import TtTConfig


def interleave(
    text_ids: Sequence[int],
    codes: Sequence[int],
    config: TtTConfig,
    text_per_span: int = 13,
    audio_per_span: int = 26,
) -> list[int]:
    """
    Interleaves a reply's text with its audio in the format that TtT was trained on.

    `text_per_span` text tokens are followed by a span of `audio_per_span` codes, again and again; behind the last text
    comes the rest of the audio as one last span with markers of its own:

        text[:13] <begin_of_audio> codes[:26] <end_of_audio_new> text[13:] <begin_of_quad> codes[26:] <end_..._last>

    Source: sample data of the official code (`ai4ed/TtT`); the ratio 13:26 is its default.

    Args:
        text_ids (`Sequence[int]`): Ids of the reply's text, without special tokens.
        codes (`Sequence[int]`): Audio codes of the spoken reply, each in `[0, config.audio_vocab_size)`; may be empty,
            which gives a reply of text alone.
        config (`TtTConfig`): Names the audio ids: `begin_audio_token_ids` and `end_audio_token_ids` hold the markers
            of a span in the middle first, those of the last span second.
        text_per_span (`int`, defaults to 13): Text tokens before each span.
        audio_per_span (`int`, defaults to 26): Codes in each span but the last.

    Returns:
        `list[int]`: Token ids of the reply.

    Raises:
        ValueError: If a ratio is not positive, a code is not in the codebook, or the config does not name the markers.
    """
    if text_per_span < 1 or audio_per_span < 1:
        raise ValueError(f"The ratio of text to audio must be positive, got {text_per_span}:{audio_per_span}.")
    if any(not 0 <= code < config.audio_vocab_size for code in codes):
        raise ValueError(f"Audio codes must lie in [0, {config.audio_vocab_size}): encode with the model's own codec.")
    begins, ends = config.begin_audio_token_ids or [], config.end_audio_token_ids or []
    if len(begins) != 2 or len(ends) != 2:
        raise ValueError("The config must name two begin and two end markers of audio: set begin_audio_token_ids.")
    (begin, begin_last), (end, end_last) = begins, ends
    audio_ids = [config.audio_token_start_id + 1 + int(code) for code in codes]
    reply: list[int] = []
    for start in range(0, len(text_ids), text_per_span):
        reply.extend(text_ids[start : start + text_per_span])
        if start + text_per_span < len(text_ids) and audio_ids:
            reply += [begin, *audio_ids[:audio_per_span], end]
            audio_ids = audio_ids[audio_per_span:]
    if audio_ids:
        reply += [begin_last, *audio_ids, end_last]
    return reply
