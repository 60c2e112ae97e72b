"""How a reply was generated: text token by token, speech block by block in denoising steps; its numbers, an SVG."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from itertools import count
from typing import TYPE_CHECKING

from ..modeling.streamers_ttt import StreamEvent
from .svg_rendering import render_png


if TYPE_CHECKING:
    from .processing_ttt import TtTProcessor

# Viridis (van der Walt and Smith, 2015) at ten places, and the lowest confidence of each colour after the first. Most
# confidences are high, so that colours there are closer together.
COLOURS = (
    "#440154", "#482878", "#3e4989", "#31688e", "#26828e", "#1f9e89", "#35b779", "#6ece58", "#b5de2b", "#fde725",
)  # fmt: skip
BOUNDS = (0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 0.95, 0.98)
LABELLED = (0, 0.5, 0.9, 0.98)
# All lengths are in pixels.
WIDTH, MARGIN = 880, 16
CELL, PITCH = 10, 11
# A position that is still masked is drawn as a dot.
DOT = 4
TRACK_GAP = 9
LETTER, CHIP_HEIGHT, CHIP_GAP = 7.3, 20, 3
LABEL_HEIGHT, LINE_GAP = 22, 18
HEADER_HEIGHT = 74
STYLE = """
.page{fill:#ffffff}.ink{fill:#1b1f24}.faint{fill:#59636e}.chip{fill:#eef1f4;stroke:#c8d1da}
.panel{fill:#10141a}.unused{fill:#10141a;fill-opacity:.8}.end{stroke:#ffffff;stroke-opacity:.8}
text{font:12px ui-sans-serif,system-ui,sans-serif}text.token{font:12px ui-monospace,monospace}
text.tick{font-size:9px;text-anchor:middle}
@media (prefers-color-scheme:dark){.page{fill:#0d1117}.ink{fill:#e6edf3}.faint{fill:#9198a1}
.chip{fill:#1c232c;stroke:#3d444d}.panel{fill:#161c25}.unused{fill:#161c25}}
"""


@dataclass(frozen=True)
class Step:
    """The state of a block after a denoising step.

    Attributes:
        is_committed: Per position whether its token is final.
        confidences: Per position the probability of its token: of the one that is final, at the step that chose it, or
            of the one that this step has proposed.
    """

    is_committed: tuple[bool, ...]
    confidences: tuple[float, ...]


@dataclass(frozen=True)
class TextToken:
    """A token of text, which took one forward.

    Attributes:
        text: What it adds to the text; empty within a character of several tokens.
    """

    text: str


@dataclass(frozen=True)
class Block:
    """A block of speech.

    Attributes:
        steps: Its denoising steps, each of which took one forward.
        length: Positions that entered the reply: those up to an end marker.
        num_codes: Codes among them.
    """

    steps: tuple[Step, ...]
    length: int
    num_codes: int


@dataclass(frozen=True)
class ReplyPicture:
    """How a reply was generated.

    Attributes:
        parts: Tokens of text and blocks of speech, in their order.
        frame_rate: Codes a second of speech; 0 without a codec.

    Example:
        ```python
        events = []
        model.generate(**inputs, streamer=EventStreamer(events.append))
        picture = picture_reply(events, processor)
        Path("reply.svg").write_text(picture.svg(), encoding="utf-8")
        ```
    """

    parts: tuple[TextToken | Block, ...]
    frame_rate: float

    @property
    def blocks(self) -> list[Block]:
        """Its blocks."""
        return [part for part in self.parts if isinstance(part, Block)]

    @property
    def num_steps(self) -> int:
        """Denoising steps of all blocks."""
        return sum(len(block.steps) for block in self.blocks)

    @property
    def seconds(self) -> float:
        """Duration of the speech."""
        return sum(block.num_codes for block in self.blocks) / self.frame_rate if self.frame_rate else 0.0

    @property
    def steps_per_second(self) -> float:
        """Forwards that a second of speech took; 0 without speech. One code a forward would take `frame_rate`."""
        return self.num_steps / self.seconds if self.seconds else 0.0

    def svg(self) -> str:
        """An SVG for light and dark pages, without scripts or anything that is fetched."""
        return draw_svg(self)

    def png(self, zoom: float = 2.0) -> bytes:
        """The same as a PNG for light pages; arguments and errors as those of `render_png`."""
        return render_png(self.svg(), zoom)


def picture_reply(events: Iterable[StreamEvent], processor: TtTProcessor) -> ReplyPicture:
    """Reads how a reply was generated.

    Args:
        events: All events of one reply, drafts included.
        processor: Decodes its text.

    Raises:
        ValueError: If there are blocks without drafts.
    """
    from .reply_streams import ReplyStream

    stream = ReplyStream(processor, speech=False)
    parts: list[TextToken | Block] = []
    drafts: list[StreamEvent] = []
    for event in events:
        if event.kind == "text":
            # A token whose character is not complete adds nothing yet, and took a forward all the same.
            parts += [TextToken(stream.text([token])) for token in event.token_ids]
        elif event.kind == "draft":
            drafts.append(event)
        elif event.kind == "block":
            if not drafts:
                raise ValueError("A block has no drafts: the picture needs all events of a reply.")
            steps = tuple(_steps(drafts, processor.token_ids.mask_token_id))
            parts.append(Block(steps, len(event.token_ids), len(stream.codes(event.token_ids))))
            drafts = []
    codec = processor.codec
    return ReplyPicture(tuple(parts), codec.config.frame_rate if codec is not None else 0.0)


def _steps(drafts: Sequence[StreamEvent], mask_token_id: int) -> Iterator[Step]:
    final: dict[int, float] = {}
    for draft in drafts:
        is_committed = tuple(token != mask_token_id for token in draft.token_ids)
        # A later step has proposals for what is committed, too; the confidence that counts is the first one.
        for position, confidence in enumerate(draft.confidences):
            if is_committed[position]:
                final.setdefault(position, confidence)
        yield Step(is_committed, tuple(final.get(index, value) for index, value in enumerate(draft.confidences)))


# -- the drawing ------------------------------------------------------------------------------------------------------


def colour_index(confidence: float) -> int:
    """Index of the colour of a confidence."""
    return bisect_right(BOUNDS, confidence)


def draw_svg(picture: ReplyPicture) -> str:
    """Draws a picture: two tracks, text above and speech below, from left to right in lines as in a score.

    A token of text is a box. A block is a grid: a column for a position, a row for a denoising step from top to
    bottom, the colour for the confidence; a square is committed, a dot still masked.
    """
    body: list[str] = []
    numbers = count(1)
    top = HEADER_HEIGHT
    for number, line in enumerate(_lines(picture.parts)):
        top += LINE_GAP if number else 0
        body.extend(_draw_line(line, top, numbers))
        heights = _track_heights(line)
        top += sum(heights) + (TRACK_GAP if all(heights) else 0)
    height = top + MARGIN
    title = escape(_summary(picture))
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}"'
            ' role="img">',
            f"<title>{title}</title><style>{STYLE}</style>",
            f'<rect class="page" width="{WIDTH}" height="{height}"/>',
            *_header(picture),
            *body,
            "</svg>\n",
        ]
    )


def _summary(picture: ReplyPicture) -> str:
    if not picture.seconds:
        return f"{_counted(len(picture.parts), 'token')} of text, no speech"
    return (
        f"{picture.seconds:.1f} s of speech in {_counted(picture.num_steps, 'denoising step')}: "
        f"{picture.steps_per_second:.1f} forwards a second of speech "
        f"(one code a forward: {picture.frame_rate:g})"
    )


def _counted(number: int, name: str) -> str:
    return f"{number} {name}{'' if number == 1 else 's'}"


def _header(picture: ReplyPicture) -> Iterator[str]:
    yield f'<text class="ink" x="{MARGIN}" y="26" font-weight="600">{escape(_summary(picture))}</text>'
    y = 48
    yield f'<text class="faint" x="{MARGIN}" y="{y}">confidence</text>'
    left, width = MARGIN + 72, 14
    for index, colour in enumerate(COLOURS):
        yield f'<rect x="{left + index * width}" y="{y - 10}" width="{width}" height="10" fill="{colour}"/>'
        bound = (0, *BOUNDS)[index]
        if bound in LABELLED:
            yield f'<text class="faint tick" x="{left + index * width}" y="{y + 12}">{bound:g}</text>'
    left += width * len(COLOURS) + 16
    words = "■ committed   ▪ still masked   column: position   row: denoising step, from top to bottom"
    yield f'<text class="faint" x="{left}" y="{y}" xml:space="preserve">{words}</text>'


def _width(part: TextToken | Block) -> float:
    if isinstance(part, Block):
        return max(len(part.steps[0].confidences), 8) * PITCH + 2 * CHIP_GAP
    return max(len(part.text), 1) * LETTER + 6


def _lines(parts: Iterable[TextToken | Block]) -> Iterator[list[tuple[float, TextToken | Block]]]:
    """Parts with their left edges, line by line."""
    line: list[tuple[float, TextToken | Block]] = []
    left: float = MARGIN
    for part in parts:
        if line and left + _width(part) > WIDTH - MARGIN:
            yield line
            line, left = [], MARGIN
        line.append((left, part))
        left += _width(part) + CHIP_GAP
    if line:
        yield line


def _track_heights(line: Sequence[tuple[float, TextToken | Block]]) -> tuple[int, int]:
    """Heights of the text and of the speech of a line, 0 where it has none."""
    parts = [part for _, part in line]
    steps = max((len(part.steps) for part in parts if isinstance(part, Block)), default=0)
    has_text = any(isinstance(part, TextToken) for part in parts)
    return CHIP_HEIGHT if has_text else 0, steps * PITCH + LABEL_HEIGHT if steps else 0


def _draw_line(line: Sequence[tuple[float, TextToken | Block]], top: int, numbers: Iterator[int]) -> Iterator[str]:
    text_height, _ = _track_heights(line)
    for left, part in line:
        if isinstance(part, Block):
            yield from _draw_block(part, next(numbers), left, top + text_height + (TRACK_GAP if text_height else 0))
        else:
            width = _width(part)
            yield (
                f'<rect class="chip" x="{left:.1f}" y="{top}" width="{width:.1f}" height="{CHIP_HEIGHT}" rx="3"/>'
                f'<text class="ink token" x="{left + 3:.1f}" y="{top + 14}" xml:space="preserve">'
                f"{escape(part.text)}</text>"
            )


def _draw_block(block: Block, number: int, left: float, top: int) -> Iterator[str]:
    width, height = len(block.steps[0].confidences) * PITCH, len(block.steps) * PITCH
    yield f'<rect class="panel" x="{left:.0f}" y="{top - 2}" width="{width + 5}" height="{height + 3}" rx="3"/>'
    # One path a colour: a rectangle for each cell would make the file several times as large.
    paths = [""] * len(COLOURS)
    for row, step in enumerate(block.steps):
        for column, (is_committed, confidence) in enumerate(zip(step.is_committed, step.confidences)):
            size = CELL if is_committed else DOT
            x = round(left) + 3 + column * PITCH + (CELL - size) // 2
            y = top + row * PITCH + (CELL - size) // 2
            paths[colour_index(confidence)] += f"M{x} {y}h{size}v{size}h-{size}z"
    yield from (f'<path fill="{colour}" d="{path}"/>' for colour, path in zip(COLOURS, paths) if path)
    if block.length < len(block.steps[0].confidences):
        # What follows an end marker is dropped.
        used = block.length * PITCH
        x = round(left) + 3 + used
        yield (
            f'<rect class="unused" x="{x}" y="{top - 2}" width="{width - used}" height="{height + 3}"/>'
            f'<path class="end" d="M{x} {top - 2}v{height + 3}"/>'
        )
    label = f"block {number}: {_counted(block.num_codes, 'code')} in {_counted(len(block.steps), 'step')}"
    yield f'<text class="faint" x="{left:.0f}" y="{top + height + 16}">{label}</text>'
