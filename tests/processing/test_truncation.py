"""A recording that was cut short is refused wherever it was cut, and none that is complete."""

import pytest
from recordings import recording

from ttt_hf.processing.audio import audio_seconds, read_audio


@pytest.mark.parametrize("kind", ["wav", "wav float", "wav gsm", "aiff", "flac", "ogg vorbis", "ogg opus", "mp3"])
def test_cut_anywhere(kind: str) -> None:
    content = recording(kind)
    # In the header, in the samples, at the end.
    places = {
        *range(1, 100, 3),
        *range(100, len(content), len(content) // 40),
        *range(len(content) - 20, len(content)),
    }
    for place in sorted(places):
        with pytest.raises(ValueError, match=r"cut short|not audio|no samples|is damaged"):
            read_audio(content[:place])


@pytest.mark.parametrize("kind", ["webm", "m4a", "mp4 fragmented", "mp4 fast start", "wma", "aac", "amr"])
def test_cut_recording_of_a_phone_or_a_browser(kind: str) -> None:
    pytest.importorskip("av")
    content = recording(kind, 4.0)
    # A frame of AAC or AMR is decoded as far as it comes.
    for share in (0.05, 0.3, 0.505, 0.71, 0.9):
        with pytest.raises(ValueError, match="cut short"):
            read_audio(content[: int(share * len(content))])


@pytest.mark.parametrize("kind", ["wav", "aiff", "mp3", "flac"])
def test_how_much_is_there(kind: str) -> None:
    content = recording(kind)
    with pytest.raises(ValueError, match=r"cut short: only (49|50) % of it|cut short after 0\.\d s"):
        read_audio(content[: len(content) // 2])


@pytest.mark.parametrize("kind", ["wav", "ogg opus", "mp3"])
def test_duration_is_not_that_of_a_cut_file(kind: str) -> None:
    with pytest.raises(ValueError, match="cut short"):
        audio_seconds(recording(kind)[:-500])


def test_mp3_without_the_number_of_its_bytes() -> None:
    content = recording("mp3")
    place = max(content.find(b"Xing"), content.find(b"Info"))
    assert place > 0
    # The first frame becomes one of silence.
    content = content[:place] + bytes(4) + content[place + 4 :]
    read_audio(content)
    with pytest.raises(ValueError, match="cut short"):
        read_audio(content[:-1])
    # Tags at the end are no frames.
    read_audio(content + b"TAG" + bytes(125))


@pytest.mark.parametrize("kind", ["wav", "aiff"])
def test_chunks_after_the_samples_may_be_missing(kind: str) -> None:
    content = recording(kind)
    read_audio(content + b"LIST\x00")
