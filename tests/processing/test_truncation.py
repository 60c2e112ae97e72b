"""A recording that was cut short is refused wherever it was cut, and none that is complete."""

import pytest
from recordings import ENCODED, WRITTEN, recording

from ttt_hf.processing.audio import audio_seconds, read_audio


# Their frames hold no size of the whole: a cut between two frames cannot be told from the end.
WITHOUT_SIZE = ("aac", "amr")


@pytest.mark.parametrize("kind", [*WRITTEN, *(kind for kind in ENCODED if kind not in WITHOUT_SIZE)])
def test_cut_anywhere(kind: str) -> None:
    if kind in ENCODED:
        pytest.importorskip("av")
    content = recording(kind)
    # In the header, in the samples, in the index at the end.
    places = {
        *range(1, 100, 3),
        *range(100, len(content), len(content) // 40),
        *range(len(content) - 20, len(content)),
    }
    for place in sorted(places):
        with pytest.raises(ValueError, match=r"cut short|not audio|no samples|is damaged"):
            read_audio(content[:place])


@pytest.mark.parametrize("kind", ["wav", "aiff", "au", "mp3", "flac"])
def test_how_much_is_there(kind: str) -> None:
    content = recording(kind)
    with pytest.raises(ValueError, match=r"cut short: only (49|50) % of what|cut short after 0\.\d s"):
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
