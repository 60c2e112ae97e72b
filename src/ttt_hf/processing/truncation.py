"""Finds WAV, AIFF, Ogg and MP3 files that were cut short: their decoders play them as far as they come.

Sources: the specifications of RIFF and AIFF, RFC 3533 (Ogg), ISO/IEC 11172-3 and 13818-3 (MP3), the Xing header.
"""

from __future__ import annotations

import os
from typing import BinaryIO

from .fetching import MAX_BYTES


# What programs write that do not know the size when they begin, such as ffmpeg and sox into a pipe.
UNKNOWN_SIZES = (0, 0x80000000)
NEARLY_2_GIB = 0x7FFF0000
OGG_MAX_PAGE = 27 + 255 + 255 * 255
# kbit/s of layer III by index; 0 is of free format
_KBITS_MPEG1 = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
_KBITS_MPEG2 = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)


def check_complete(file: BinaryIO, name: str) -> None:
    """Raises a `ValueError` if a seekable file ends before its end; its position afterwards is its start."""
    length = file.seek(0, os.SEEK_END)
    file.seek(0)
    head = file.read(4)
    expected = 0
    if head == b"OggS" and _ogg_is_cut(file, length):
        raise ValueError(cut_short(name))
    if head in (b"RIFF", b"FORM") and (chunk := sample_chunk(file)) is not None and not is_unknown_size(chunk[1]):
        expected = sum(chunk)
    # Larger ones are longer than any audio that is taken.
    elif (head[:3] == b"ID3" or (head[:1] == b"\xff" and _mp3_frame_size(head))) and length <= MAX_BYTES:
        file.seek(0)
        expected = _mp3_end(file.read())
    file.seek(0)
    if expected > length:
        raise ValueError(cut_short(name, length / expected))


def cut_short(name: str, share: float | None = None) -> str:
    """The message for a file of which only a share is there."""
    # Never 100 %, however little is missing.
    missing = "its end is missing" if share is None else f"only {min(99, int(100 * share))} % of it is there"
    return f"{name} was cut short: {missing}. Download or record it again, or convert what is there to WAV."


def is_unknown_size(size: int) -> bool:
    """Whether the size in a header of 32 bits means that it was not known."""
    return size in UNKNOWN_SIZES or size >= NEARLY_2_GIB


def sample_chunk(file: BinaryIO) -> tuple[int, int] | None:
    """Finds the samples of a WAV or AIFF file.

    Returns:
        Position of their first byte and their size in bytes by the header; `None` if there is no such chunk.
    """
    file.seek(0)
    is_aiff = file.read(12)[:4] == b"FORM"
    # Chunks that follow each other; a damaged file may have any number of them.
    for _ in range(1000):
        header = file.read(8)
        if len(header) < 8:
            return None
        size = int.from_bytes(header[4:], "big" if is_aiff else "little")
        if header[:4] in (b"data", b"SSND"):
            return file.tell(), size
        # Chunks begin at even positions.
        file.seek(size + size % 2, os.SEEK_CUR)
    return None


def _ogg_is_cut(file: BinaryIO, length: int) -> bool:
    """Whether the last page of an Ogg file is incomplete, or does not end the stream."""
    file.seek(max(0, length - 2 * OGG_MAX_PAGE))
    tail = file.read()
    # The version, 0, tells a page from the same letters within one.
    start = tail.rfind(b"OggS\x00")
    page = tail[start:]
    if start < 0 or len(page) < 27 or len(page) < 27 + page[26]:
        return True
    end_of_stream = page[5] & 4
    return len(page) < 27 + page[26] + sum(page[27 : 27 + page[26]]) or not end_of_stream


def _mp3_end(content: bytes) -> int:
    """Where the last frame ends, by its own header or by the Xing header; 0 if that is not known."""
    position = 0
    if content[:3] == b"ID3" and len(content) >= 10:
        # Seven bits a byte
        position = 10 + sum((byte & 0x7F) << shift for byte, shift in zip(content[6:10], (21, 14, 7, 0)))
    promised = position + _xing_bytes(content[position : position + 64])
    while position + 4 <= len(content):
        size = _mp3_frame_size(content[position : position + 4])
        # A tag, which shows that the file is complete, or a stream that cannot be followed.
        if not size:
            return 0
        position += size
    return max(position, promised)


def _mp3_frame_size(header: bytes) -> int:
    """Bytes of a frame of MPEG layer III by its header of four bytes; 0 if it is none, or of free format."""
    if len(header) < 4:
        return 0
    sync, version, layer = header[0] << 3 | header[1] >> 5, header[1] >> 3 & 3, header[1] >> 1 & 3
    rate_index, kbits_index, padding = header[2] >> 2 & 3, header[2] >> 4, header[2] >> 1 & 1
    if sync != 0x7FF or version == 1 or layer != 1 or rate_index == 3 or kbits_index in (0, 15):
        return 0
    # MPEG 2 has half of the rates of MPEG 1, MPEG 2.5 a quarter; a frame has 1152 samples, or half of them.
    rate = (44100, 48000, 32000)[rate_index] >> {3: 0, 2: 1, 0: 2}[version]
    if version == 3:
        return 144_000 * _KBITS_MPEG1[kbits_index] // rate + padding
    return 72_000 * _KBITS_MPEG2[kbits_index] // rate + padding


def _xing_bytes(frame: bytes) -> int:
    """Bytes of all frames by the Xing or Info header in the first one; 0 if it has none."""
    place = max(frame.find(b"Xing"), frame.find(b"Info"))
    if place < 0:
        return 0
    flags = int.from_bytes(frame[place + 4 : place + 8], "big")
    # The number of frames (flag 1) comes before the number of bytes (flag 2).
    offset = place + 8 + 4 * (flags & 1)
    return int.from_bytes(frame[offset : offset + 4], "big") if flags & 2 else 0
