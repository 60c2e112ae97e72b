"""The strings of the official data, in which audio is written as names of tokens, parsed into content items."""

from __future__ import annotations

import re
from typing import Any

from ..modeling.growing_ttt import END_TOKENS, TEXT_SIDE_TOKENS


BEGIN, BEGIN_LAST, END_USER = TEXT_SIDE_TOKENS
END, END_LAST = END_TOKENS
# Markers of the user's audio, of a span in the middle of a reply, and of a reply's last span.
SPAN_MARKERS = {"user": (BEGIN, END_USER), "middle": (BEGIN, END), "last": (BEGIN_LAST, END_LAST)}
_SPAN_OF_MARKERS = {markers: span for span, markers in SPAN_MARKERS.items()}

# Without leading zeros, which the names of tokens do not have.
_CODE = r"<\|audio_(0|[1-9]\d*)\|>"
_BEGIN = f"(?:{re.escape(BEGIN)}|{re.escape(BEGIN_LAST)})"
_MARKER = "|".join(re.escape(name) for name in (*TEXT_SIDE_TOKENS, *END_TOKENS))
# A text may mention a marker: only one that a code follows makes a string official.
_OPENED_SPAN = re.compile(_BEGIN + _CODE)
_SPAN = re.compile(
    f"(?P<begin>{_BEGIN})(?P<codes>(?:{_CODE})*)(?P<end>{'|'.join(map(re.escape, (END_USER, *END_TOKENS)))})"
)
# In an official string any of these outside of a span is a mistake.
_AUDIO_TOKEN = re.compile(f"{_MARKER}|{_CODE}")


def is_official(text: str) -> bool:
    """Whether a string holds audio: a token that opens a span, directly followed by a code."""
    return _OPENED_SPAN.search(text) is not None


def parse_official(text: str) -> list[dict[str, Any]]:
    """Parses an official string.

    Source: sample data of the official code (`ai4ed/TtT`), which tokenizes such strings including their special
    tokens; the items give the same ids.

    Args:
        text: Text with spans such as `<|begin_of_audio|><|audio_12|><|audio_7|><|end_of_audio_new|>`.

    Returns:
        Its pieces in order, `{"type": "text", "text"}` and `{"type": "audio", "codes", "span"}` with the markers
        `span`: `"user"`, `"middle"` or `"last"`.

    Raises:
        ValueError: If an audio token stands outside of a span, or a span's markers do not belong together.
    """
    items: list[dict[str, Any]] = []
    position = 0
    for hit in _SPAN.finditer(text):
        _append_text(items, text[position : hit.start()])
        span = _SPAN_OF_MARKERS.get((hit["begin"], hit["end"]))
        if span is None:
            raise ValueError(f"A span of audio is opened by {hit['begin']} and closed by {hit['end']}: correct one.")
        codes = [int(code) for code in re.findall(_CODE, hit["codes"])]
        items.append({"type": "audio", "codes": codes, "span": span})
        position = hit.end()
    _append_text(items, text[position:])
    return items


def _append_text(items: list[dict[str, Any]], text: str) -> None:
    stray = _AUDIO_TOKEN.search(text)
    if stray is not None:
        raise ValueError(
            f"{stray[0]} stands outside of a whole span of audio: a span is a token that opens it, codes, and a token "
            "that closes it, with nothing between them."
        )
    if text:
        items.append({"type": "text", "text": text})
