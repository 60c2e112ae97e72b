"""Pictures of replies: their numbers are those of the events, and the SVG holds a cell for each position and step."""

import re
import xml.etree.ElementTree as ElementTree
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from ttt_hf.loading import load_checkpoint
from ttt_hf.modeling.streamers_ttt import EventStreamer, StreamEvent
from ttt_hf.processing.reply_pictures import (
    COLOURS,
    PITCH,
    WIDTH,
    Block,
    ReplyPicture,
    Step,
    TextToken,
    colour_index,
    picture_reply,
)


@pytest.fixture
def fixed(checkpoint: Path) -> tuple[Any, Any]:
    """A model that always says "Hi", 26 codes and ".", and its processor."""
    return load_checkpoint(checkpoint)


def generate(loaded: tuple[Any, Any], **arguments: Any) -> tuple[list[StreamEvent], Any]:
    model, processor = loaded
    inputs = processor.apply_chat_template([{"role": "user", "content": "Hello"}], add_generation_prompt=True)
    events: list[StreamEvent] = []
    out = model.generate(**inputs, streamer=EventStreamer(events.append), return_dict_in_generate=True, **arguments)
    return events, out


def cells(svg: str) -> list[tuple[int, int, int, int]]:
    """Colour, left, top and size of the cells of all blocks."""
    found = []
    for colour, path in re.findall(r'<path fill="(#\w+)" d="([^"]*)"', svg):
        for x, y, size in re.findall(r"M(\d+) (\d+)h(\d+)v\3h-\3z", path):
            found.append((COLOURS.index(colour), int(x), int(y), int(size)))
    return found


def test_numbers_are_those_of_the_events(fixed: tuple[Any, Any]) -> None:
    events, out = generate(fixed)
    picture = picture_reply(events, fixed[1])
    drafts = [event for event in events if event.kind == "draft"]
    assert "".join(part.text for part in picture.parts if isinstance(part, TextToken)) == "Hi."
    assert picture.num_steps == len(drafts) > 3
    assert sum(block.num_codes for block in picture.blocks) == 26
    assert [block.length for block in picture.blocks] == [9, 9, 9]  # the last one with its end marker
    assert picture.seconds == pytest.approx(26 / 12.5)
    assert picture.steps_per_second == pytest.approx(len(drafts) / (26 / 12.5))
    # The forwards that are left are those of the marker that opens the span, and of the end.
    texts = sum(isinstance(part, TextToken) for part in picture.parts)
    assert int(out.num_forward_passes[0]) == texts + picture.num_steps + 2


def test_steps_are_those_of_the_drafts(fixed: tuple[Any, Any]) -> None:
    events, _ = generate(fixed, audio_steps_per_block=3)
    mask = fixed[0].config.mask_token_id
    steps = [step for block in picture_reply(events, fixed[1]).blocks for step in block.steps]
    drafts = [event for event in events if event.kind == "draft"]
    assert [list(step.is_committed) for step in steps] == [
        [token != mask for token in draft.token_ids] for draft in drafts
    ]
    assert [sum(step.is_committed) for step in steps[:3]] == [3, 6, 9]
    masked = [
        (value, draft.confidences[index])
        for step, draft in zip(steps, drafts)
        for index, value in enumerate(step.confidences)
        if not step.is_committed[index]
    ]
    assert masked and all(drawn == proposed for drawn, proposed in masked)


def test_a_committed_position_keeps_its_confidence(fixed: tuple[Any, Any]) -> None:
    _, processor = fixed
    mask, code = processor.token_ids.mask_token_id, processor.token_ids.audio_code_offset
    events = [
        StreamEvent("draft", (code, mask), confidences=(0.75, 0.25)),
        StreamEvent("draft", (code, code), confidences=(0.5, 0.375)),
        StreamEvent("block", (code, code)),
    ]
    (block,) = picture_reply(events, processor).blocks
    assert [step.confidences for step in block.steps] == [(0.75, 0.25), (0.75, 0.375)]


def test_the_svg_has_a_cell_for_each_position_and_step() -> None:
    steps = (Step((True, False, False), (0.99, 0.4, 0.05)), Step((True, True, False), (0.99, 0.6, 0.1)))
    svg = ReplyPicture((TextToken("a <b"), Block(steps, 2, 1)), 12.5).svg()
    ElementTree.fromstring(svg)
    assert "a &lt;b" in svg
    drawn = cells(svg)
    assert len(drawn) == 6
    large, small = max(size for *_, size in drawn), min(size for *_, size in drawn)
    centres = sorted((y + size / 2, x + size / 2, colour, size == large) for colour, x, y, size in drawn)
    assert large > small
    wanted = [
        (colour_index(confidence), is_committed)
        for step in steps
        for is_committed, confidence in zip(step.is_committed, step.confidences)
    ]
    assert [(colour, is_large) for _, _, colour, is_large in centres] == wanted
    assert centres[3][0] - centres[0][0] == centres[1][1] - centres[0][1] == PITCH
    # What follows the end marker is dimmed, and said.
    assert svg.count('class="unused"') == 1 and "1 code in 2 steps" in svg
    assert "0.1 s of speech in 2 denoising steps: 25.0 forwards a second of speech" in svg


def test_nothing_is_fetched_and_both_schemes_have_colours() -> None:
    svg = ReplyPicture((TextToken("Hi"),), 0.0).svg()
    assert "1 token of text, no speech" in svg
    assert svg.count("http") == 1  # the name space
    assert "prefers-color-scheme:dark" in svg and "<script" not in svg


def test_a_long_reply_goes_on_in_the_next_line() -> None:
    blocks = [Block((Step((True,) * 32, (0.9,) * 32),), 32, 32)] * 5
    svg = ReplyPicture((*blocks, *[TextToken(" and")] * 40), 12.5).svg()
    drawn = cells(svg)
    assert re.findall(r"block (\d)", svg) == list("12345")
    assert len(drawn) == 160
    assert max(x + size for _, x, _, size in drawn) < WIDTH
    assert len({y for _, _, y, _ in drawn}) == 3  # two blocks a line


def test_events_without_drafts_are_refused(fixed: tuple[Any, Any]) -> None:
    events, _ = generate(fixed)
    with pytest.raises(ValueError, match="has no drafts"):
        picture_reply([event for event in events if event.kind != "draft"], fixed[1])


@pytest.mark.parametrize(("confidence", "index"), [(0.0, 0), (0.09, 0), (0.1, 1), (0.5, 4), (0.97, 8), (1.0, 9)])
def test_colours_of_confidences(confidence: float, index: int) -> None:
    assert colour_index(confidence) == index


def test_the_png_has_the_words_and_the_colours() -> None:
    pytest.importorskip("resvg_py", reason="needs the extra pictures")
    image = pytest.importorskip("matplotlib.image", reason="needs the extra pictures")
    picture = ReplyPicture((TextToken("Hi"), Block((Step((0.05, 0.99), (False, True)),) * 2, 2, 1)), 12.5)
    pixels = image.imread(BytesIO(picture.png()))
    small = image.imread(BytesIO(picture.png(zoom=1.0)))
    assert pixels.shape == (2 * small.shape[0], 2 * small.shape[1], 4)
    colours = {tuple(round(255 * value) for value in pixel[:3]) for pixel in pixels.reshape(-1, 4)}
    assert {(0x44, 0x01, 0x54), (0xFD, 0xE7, 0x25)} <= colours
    # Of the title, and of the token in its box: without fonts there would be no dark pixels.
    dark = (pixels[..., :3].max(-1) < 0.3) & (pixels[..., 3] == 1)
    assert dark[20:60].sum() > 500
    assert dark[148:190, 32:70].sum() > 50
