"""Finds files that were cut short, which decoders play as far as they come: by the sizes that their headers state.

Sources: RFC 3533 (Ogg), RFC 8794 and 9559 (WebM), ISO/IEC 11172-3 and 13818-3 (MP3), ISO/IEC 14496-12 (MP4), the
specifications of ASF, CAF, RIFF, RF64, AIFF and AU, and the Xing header. Files that hold no size at all (AAC, AMR, MP3
without a Xing header, WebM of a browser) show a cut within a frame, but none between two frames.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from typing import BinaryIO

from .fetching import MAX_BYTES


# What programs write that do not know the size when they begin, such as ffmpeg and sox into a pipe.
UNKNOWN_SIZES = (0, 0x80000000)
NEARLY_2_GIB = 0x7FFF0000
OGG_MAX_PAGE = 27 + 255 + 255 * 255
_KBITS = {
    # (MPEG 1, layer): kbit/s by index; 0 is of free format
    (True, 1): (0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_MPEG1_RATES = (44100, 48000, 32000)


def is_unknown_size(size: int) -> bool:
    """Whether the size in a header of 32 bits means that it was not known."""
    return size in UNKNOWN_SIZES or size >= NEARLY_2_GIB


def sample_chunk(file: BinaryIO) -> tuple[int, int] | None:
    """Finds the samples of a WAV or AIFF file.

    Returns:
        Position of their first byte and their size in bytes by the header; `None` if there is no such chunk.
    """
    file.seek(0)
    head = file.read(12)
    form = head[:4]
    if form not in (b"RIFF", b"RIFX", b"RF64", b"FORM") or len(head) < 12:
        return None
    order = "<" if form in (b"RIFF", b"RF64") else ">"
    size64 = None
    # Chunks that follow each other; a damaged file may have any number of them.
    for _ in range(1000):
        header = file.read(8)
        if len(header) < 8:
            return None
        (size,) = struct.unpack(order + "I", header[4:])
        if header[:4] in (b"data", b"SSND"):
            return file.tell(), size64 if size64 is not None and size == 0xFFFFFFFF else size
        start = file.tell()
        if header[:4] == b"ds64" and len(content := file.read(16)) == 16:
            size64 = int.from_bytes(content[8:], "little")
        # Chunks begin at even positions.
        file.seek(start + size + size % 2)
    return None


def missing_bytes(file: BinaryIO) -> tuple[int, int] | None:
    """Finds out whether a file ends before its end.

    Args:
        file: A seekable file; its position afterwards is its start.

    Returns:
        How many bytes there are and how many there should be; both are 0 where only the end is known to be missing.
        `None` if nothing is missing as far as the headers tell.
    """
    length = file.seek(0, os.SEEK_END)
    file.seek(0)
    head = file.read(40)
    try:
        if head[:4] == b"OggS":
            return (0, 0) if _ogg_is_cut(file, length) else None
        for place, magic, element_size in _ELEMENTS:
            if head.startswith(magic, place):
                return _first_missing(file, length, element_size)
        if head[:4] == b".snd" and len(head) >= 12:
            offset, size = struct.unpack(">II", head[4:12])
            return _compare(length, offset + size) if not is_unknown_size(size) else None
        if head[:4] == b"riff" and len(head) >= 24:  # W64
            return _compare(length, int.from_bytes(head[16:24], "little"))
        if (chunk := sample_chunk(file)) is not None:
            start, size = chunk
            return None if size <= 0xFFFFFFFF and is_unknown_size(size) else _compare(length, start + size)
        if head[:3] == b"ID3" or (head[:1] == b"\xff" and len(head) > 1 and head[1] & 0xE0 == 0xE0):
            file.seek(0)
            # Larger ones are longer than any audio that is taken.
            return _mp3_missing(file.read()) if length <= MAX_BYTES else None
        return None
    finally:
        file.seek(0)


def _compare(length: int, promised: int) -> tuple[int, int] | None:
    return (length, promised) if promised > length else None


def _first_missing(
    file: BinaryIO, length: int, element_size: Callable[[BinaryIO], int | None]
) -> tuple[int, int] | None:
    """Follows elements, each with its size in its header, and reports the one that goes beyond the end.

    Args:
        file: The file.
        length: Its size in bytes.
        element_size: Reads a header; returns the number of bytes to go on from its start, or `None` if the size is not
            known. A header that is incomplete raises a `struct.error` or an `IndexError`.
    """
    position = 0
    for _ in range(_MAX_ELEMENTS):
        if position >= length:
            return _compare(length, position)
        file.seek(position)
        try:
            size = element_size(file)
        except (struct.error, IndexError):
            return 0, 0
        if size is None:
            return None
        position += max(size, 1)
    return None


def _mp4_box(file: BinaryIO) -> int | None:
    (size,) = struct.unpack(">I4x", file.read(8))
    # 0: up to the end of the file; 1: the size follows in 64 bits.
    return struct.unpack(">Q", file.read(8))[0] if size == 1 else size or None


def _asf_object(file: BinaryIO) -> int | None:
    (size,) = struct.unpack("<16xQ", file.read(24))
    return size or None


def _caf_chunk(file: BinaryIO) -> int | None:
    if file.tell() == 0:
        return 8
    (size,) = struct.unpack(">4xq", file.read(12))
    return 12 + size if size >= 0 else None


def _matroska_element(file: BinaryIO) -> int | None:
    head = file.read(12)
    # The number of leading zeros is that of further bytes; of sizes, the bit after them is no part of the value.
    id_length = 9 - head[0].bit_length()
    size_length = 9 - head[id_length].bit_length()
    if len(head) < id_length + size_length:
        raise IndexError
    mark = 1 << 7 * size_length
    size = int.from_bytes(head[id_length : id_length + size_length], "big") - mark
    if size == mark - 1:
        # Written to a pipe: only segments and clusters have no size, and what they hold is followed instead.
        return id_length + size_length if head[:4] in _MATROSKA_PARENTS else None
    return id_length + size_length + size


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


_MAX_ELEMENTS = 1 << 20
_MATROSKA_PARENTS = (b"\x18\x53\x80\x67", b"\x1f\x43\xb6\x75")
_ELEMENTS = (
    *((4, box, _mp4_box) for box in (b"ftyp", b"moov", b"mdat")),
    (0, b"\x1a\x45\xdf\xa3", _matroska_element),
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", _asf_object),
    (0, b"caff", _caf_chunk),
)


def _mp3_missing(content: bytes) -> tuple[int, int] | None:
    position = 0
    if content[:3] == b"ID3" and len(content) >= 10:
        # Seven bits a byte
        position = 10 + sum((byte & 0x7F) << shift for byte, shift in zip(content[6:10], (21, 14, 7, 0)))
    start, frames, promised = position, 0, 0
    while position + 4 <= len(content):
        size = _mp3_frame_size(content[position : position + 4])
        if size is None:
            # A tag at the end, or a stream that cannot be followed.
            break
        if frames == 0:
            promised = _xing_bytes(content[position : position + size])
        if position + size > len(content):
            return len(content), max(position + size, start + promised)
        position += size
        frames += 1
    # The Xing header counts whole frames, its own included. A tag at the end shows that the file is complete.
    at_end = frames > 0 and position > len(content) - 4
    return (position, start + promised) if at_end and position < start + promised else None


def _mp3_frame_size(header: bytes) -> int | None:
    """Bytes of an MPEG audio frame by its header of four bytes; `None` if it is none or of free format."""
    if header[0] != 0xFF or header[1] & 0xE0 != 0xE0:
        return None
    version, layer = (header[1] >> 3) & 3, 4 - ((header[1] >> 1) & 3)
    rate_index, bit_rate_index = (header[2] >> 2) & 3, header[2] >> 4
    if version == 1 or layer == 4 or rate_index == 3 or bit_rate_index in (0, 15):
        return None
    is_mpeg1 = version == 3
    # MPEG 2 has half of the rates of MPEG 1, MPEG 2.5 a quarter.
    rate = _MPEG1_RATES[rate_index] >> (0 if is_mpeg1 else 1 if version == 2 else 2)
    bits = _KBITS[is_mpeg1, layer][bit_rate_index] * 1000
    padding = (header[2] >> 1) & 1
    if layer == 1:
        return (12 * bits // rate + padding) * 4
    return (144 if is_mpeg1 or layer == 2 else 72) * bits // rate + padding


def _xing_bytes(frame: bytes) -> int:
    """Bytes of all frames by the Xing or Info header in the first one; 0 if it has none."""
    for name in (b"Xing", b"Info"):
        place = frame.find(name, 4, 48)
        if place > 0 and len(frame) >= place + 16:
            flags = int.from_bytes(frame[place + 4 : place + 8], "big")
            # The number of frames (flag 1) comes before the number of bytes (flag 2).
            offset = place + 8 + (4 if flags & 1 else 0)
            return int.from_bytes(frame[offset : offset + 4], "big") if flags & 2 else 0
    return 0
