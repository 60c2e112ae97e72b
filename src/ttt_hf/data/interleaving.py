"""The interleaved format of replies: pieces of text and spans of audio in turn, then the rest of the audio."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..modeling.configuration_ttt import TtTConfig


def interleave(
    text_ids: Sequence[int],
    codes: Sequence[int],
    config: TtTConfig,
    text_per_span: int = 13,
    audio_per_span: int = 26,
) -> list[int]:
    """Interleaves a reply's text with its audio in the format that TtT was trained on.

    `text_per_span` text tokens are followed by a span of `audio_per_span` codes, repeatedly; after the last text the
    rest of the audio follows as one last span with its own markers:

        text[:13] <begin_of_audio> codes[:26] <end_of_audio_new> text[13:] <begin_of_quad> codes[26:] <end_..._last>

    Source: sample data of the official code (`ai4ed/TtT`); the ratio 13:26 is its default.

    Args:
        text_ids: Ids of the reply's text, without special tokens.
        codes: Audio codes of the spoken reply, each in `[0, config.audio_vocab_size)`; empty for a reply of text
            alone.
        config: Names the audio ids: `begin_audio_token_ids` and `end_audio_token_ids` hold the markers of a span in
            the middle first, those of the last span second.
        text_per_span: Text tokens before each span.
        audio_per_span: Codes in each span but the last.

    Returns:
        Token ids of the reply.

    Raises:
        ValueError: If a ratio is not positive, a code is not in the codebook, or the config does not name the markers.
    """
    if text_per_span < 1 or audio_per_span < 1:
        raise ValueError(f"The ratio of text to audio must be positive, got {text_per_span}:{audio_per_span}.")
    starts = range(0, len(text_ids), text_per_span)
    texts = [text_ids[start : start + text_per_span] for start in starts]
    return interleave_texts(texts, codes, config, audio_per_span)


def interleave_texts(
    texts: Sequence[Sequence[int]], codes: Sequence[int], config: TtTConfig, audio_per_span: int = 26
) -> list[int]:
    """Interleaves pieces of text with audio: each piece is followed by a span, the last one by the rest of the audio.

    Args:
        texts: Ids of the pieces; a piece may be empty. Pieces after the end of the audio follow each other without
            spans.
        codes: Audio codes, each in `[0, config.audio_vocab_size)`.
        audio_per_span: Codes in each span but the last.

    Returns:
        Token ids of the reply.

    Raises:
        ValueError: If the number of codes is not positive, a code is not in the codebook, or the config does not name
            the markers.
    """
    if audio_per_span < 1:
        raise ValueError(f"A span must hold at least one code, not {audio_per_span}.")
    audio = list(codes)
    reply: list[int] = []
    for index, text in enumerate(texts):
        # Text comes before its audio, so that speech is conditioned on the words that it says.
        reply += text
        if index + 1 < len(texts) and audio:
            reply += span_ids(audio[:audio_per_span], config)
            audio = audio[audio_per_span:]
    # After the last text all remaining audio is one span, however long, with markers of its own.
    if audio:
        reply += span_ids(audio, config, is_last=True)
    return reply


def span_ids(codes: Sequence[int], config: TtTConfig, is_last: bool = False) -> list[int]:
    """Writes one span of a reply.

    Args:
        codes: Its audio codes, each in `[0, config.audio_vocab_size)`.
        is_last: Whether it gets the markers of a reply's last span.

    Returns:
        Ids of the codes between those of the markers.

    Raises:
        ValueError: If a code is not in the codebook, or the config does not name the markers.
    """
    begins, ends = config.begin_audio_token_ids or [], config.end_audio_token_ids or []
    if len(begins) != 2 or len(ends) != 2:
        raise ValueError("The config must name two begin and two end markers of audio: set begin_audio_token_ids.")
    # Index 0 is the marker of a span in the middle, 1 that of the last span.
    return [begins[is_last], *code_ids(codes, config), ends[is_last]]


def code_ids(codes: Sequence[int], config: TtTConfig) -> list[int]:
    """Token ids of audio codes; a `ValueError` that names the first code that is not in the codebook."""
    wrong = next((code for code in codes if not 0 <= code < config.audio_vocab_size), None)
    if wrong is not None:
        raise ValueError(
            f"Audio codes must lie in [0, {config.audio_vocab_size}), and {int(wrong)} does not: encode with the "
            "model's own codec."
        )
    return [config.audio_code_offset + int(code) for code in codes]


def split_by_time(text: str, words: Sequence[Mapping[str, Any]], seconds_per_span: float, spans: int) -> list[str]:
    """Cuts a text by the time stamps of its words: each span of audio follows the words that begin before it ends, so
    that the text never lags behind the speech.

    Args:
        text: The text; characters between words (punctuation) stay with the word before them.
        words: Its words in order, each `{"text", "start"}` with `start` in seconds; an `end` is allowed and not
            needed.
        seconds_per_span: Length of a span in seconds.
        spans: Number of spans of the audio; words that begin later follow all of them.

    Returns:
        At most `spans + 1` pieces, which together are the text. A piece is empty where no word begins.

    Raises:
        ValueError: If a word is not in the text where it should be, or the times are not in order.
    """
    pieces: list[str] = []
    cut = cursor = 0
    previous = 0.0
    for word in words:
        name, start = str(word.get("text") or "").strip(), word.get("start")
        if start is None or not previous <= start < float("inf"):
            raise ValueError(f"The word {name!r} begins at {start}, but words must come with times in order.")
        # Searched from the end of the word before, or a repeated word would be found again.
        position = text.find(name, cursor)
        if not name or position < 0:
            raise ValueError(f"The time stamps name the word {name!r}, which the text does not hold at that place.")
        # Each span that ends before the word begins closes its piece; pieces of spans without a word are empty.
        while len(pieces) < min(int(start // seconds_per_span), spans):
            # Blanks go with the word after them: tokenizers join a word with the blank in front of it.
            border = max(cut, len(text[:position].rstrip()))
            pieces.append(text[cut:border])
            cut = border
        cursor, previous = position + len(name), start
    return [*pieces, text[cut:]]
