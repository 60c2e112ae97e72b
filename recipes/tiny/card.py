"""Writes the model card of a checkpoint that the recipe made, and its scores into other Markdown files.

    python -m recipes.tiny.card --out build/tiny                  # build/tiny/ttt-tiny/README.md
    python -m recipes.tiny.card --out build/tiny --fill README.md # only the block of scores of README.md

Every number comes from the scores, the tables of the data, the settings or the checkpoint; none is typed by hand.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
from huggingface_hub import ModelCardData

from ttt_hf.atomic_files import atomic_write
from ttt_hf.evaluation.report.model_index import update_model_card
from ttt_hf.loading import read_shapes
from ttt_hf.names import CODEC_FOLDER, EMBEDDED_NAME, WEIGHTS_FILE

from .score_tables import Scores, aims_are_met, breakdown_block, fill_scores, markdown_table, read_scores, score_block
from .settings import TinySettings, load_settings
from .tables import read_rows
from .voices import HELD_OUT_VOICE, REPLY_VOICE, VOICES


TEMPLATE = Path(__file__).with_name("card.md.jinja")
RECIPE_COMMAND = "make tiny"
METADATA = ModelCardData(
    language="en",
    license="apache-2.0",
    library_name="transformers",
    pipeline_tag="any-to-any",
    tags=["ttt", "ttt-hf", "speech", "spoken-dialogue", "masked-diffusion", "text-to-speech", "speech-recognition"],
)
# Licences of the programs and voices that made the speech. None of them is part of the checkpoint.
LICENCES = {
    "piper": "Piper voice `joe`: voice MIT, its recordings CC0; the Piper runtime is GPL-3.0",
    "espeak-ng": "espeak-ng: GPL-3.0 (a program; its output is not covered)",
    "flite": "Flite and its CMU voices: BSD-like",
    "festival": "Festival and its voices: BSD-like",
}


def write_card(out: Path, settings: TinySettings, note: str = "") -> Path:
    """Writes OUT/ttt-tiny/README.md.

    Args:
        out: The recipe's output root, with `scores/`, `data/`, `model/` and `ttt-tiny/`.
        settings: The recipe.
        note: Extra sentence for the section on training.

    Returns:
        Path of the card.

    Raises:
        FileNotFoundError: The checkpoint or the scores are missing.
        ValueError: Only a part of the held-out data was scored.
    """
    checkpoint = out / EMBEDDED_NAME
    if not (checkpoint / "config.json").is_file():
        raise FileNotFoundError(f"There is no checkpoint in {checkpoint}: run the stage assemble first.")
    scores = read_scores(out)
    card = model_card(scores, data_statistics(out / "data"), settings, checkpoint, note)
    # The metadata are written into the unfinished file, so that no card without its scores is left behind.
    with atomic_write(checkpoint / "README.md") as part:
        part.write_text(card, encoding="utf-8")
        update_model_card(part, list(scores.checkpoint.values()))
    return checkpoint / "README.md"


def data_statistics(data: Path) -> dict[str, Any]:
    """Computes statistics of the recipe's data.

    Args:
        data: Folder with `items.jsonl` and `utterances.jsonl`.

    Returns:
        `families` (items by family and split), `voices` (clips and hours by voice), `clips`, `hours`, `training`
        (counts of the training split) and `held_out_wordings`.
    """
    items, utterances = read_rows(data / "items.jsonl"), read_rows(data / "utterances.jsonl")
    families: dict[str, Counter[str]] = defaultdict(Counter)
    for item in items:
        families[item["family"]][item["split"]] += 1
    clips = Counter(row["voice"] for row in utterances)
    seconds: Counter[str] = Counter()
    for row in utterances:
        seconds[row["voice"]] += row["seconds"]
    train = [item for item in items if item["split"] == "train"]
    # Items of the training split are spoken questions, written questions, and sentences without a question.
    spoken = [item for item in train if item["question_audio"]]
    return {
        "families": {family: dict(counts) for family, counts in sorted(families.items())},
        "voices": {voice: {"clips": clips[voice], "hours": seconds[voice] / 3600} for voice in sorted(clips)},
        "clips": len(utterances),
        "hours": sum(seconds.values()) / 3600,
        "training": {
            "pairs": len({item["fact"] for item in spoken}),
            "questions": len({item["question"] for item in spoken}),
            "written": len({item["fact"] for item in train if item["fact"]}),
            "wordings": len({item["wording"] for item in train if item["wording"]}),
            "sentences": len({item["answer"] for item in train if item["family"] == "read_aloud"}),
        },
        "held_out_wordings": len({item["wording"] for item in items if item["split"] == "wording"}),
    }


def model_card(scores: Scores, data: dict[str, Any], settings: TinySettings, checkpoint: Path, note: str = "") -> str:
    """Renders the card, without the scores in its metadata.

    Args:
        scores: The scores.
        data: Result of `data_statistics`.
        settings: The recipe.
        checkpoint: Folder of the checkpoint. The number of its training steps is read from
            `model/trainer_state.json` beside it.
        note: A sentence for the section on training.

    Returns:
        Markdown with metadata for the Hub in front.
    """
    codec = json.loads((checkpoint / CODEC_FOLDER / "config.json").read_text(encoding="utf-8"))
    config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    trained = json.loads((checkpoint.parent / "model" / "trainer_state.json").read_text(encoding="utf-8"))
    # A name that the template lacks a value for is an error, not an empty string.
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        name=EMBEDDED_NAME,
        metadata=METADATA.to_yaml(),
        parameters=_count_parameters(checkpoint),
        codec_parameters=_count_parameters(checkpoint / CODEC_FOLDER),
        score_block=score_block(scores),
        breakdown_block=breakdown_block(scores),
        data=data,
        data_table=_data_table(data),
        clip_table=_clip_table(data),
        # Each engine once, in the order of the voices.
        licences=[LICENCES[engine] for engine in dict.fromkeys(VOICES[voice].engine for voice in data["voices"])],
        reply_voice=REPLY_VOICE,
        held_out_voice=HELD_OUT_VOICE,
        recipe_command=RECIPE_COMMAND,
        settings=settings,
        note=note,
        unfinished=not aims_are_met(scores),
        lm=settings.lm,
        codec=codec,
        codebook_size=math.prod(codec["fsq_levels"]),
        code_rate=codec["sampling_rate"] / (codec["hop_length"] * codec["frames_per_code"]),
        backbone=config["text_config"],
        steps=trained["global_step"],
        samples_per_step=settings.lm.batch_size * settings.lm.gradient_accumulation * settings.lm.processes,
        # Without the card, whose size this number may change.
        size=sum(path.stat().st_size for path in checkpoint.rglob("*") if path.is_file() and path.name != "README.md"),
        millions=lambda number: f"{number / 1e6:.1f}",
    )


def _count_parameters(folder: Path) -> int:
    return sum(math.prod(shape) for shape in read_shapes(folder / WEIGHTS_FILE).values())


def _data_table(data: dict[str, Any]) -> str:
    rows = []
    for family, counts in data["families"].items():
        # All other splits are held out.
        train = counts.get("train", 0)
        rows.append((family, str(train), str(sum(counts.values()) - train)))
    return markdown_table(("family", "training items", "held-out items"), rows)


def _clip_table(data: dict[str, Any]) -> str:
    rows = [
        (f"`{name}`", VOICES[name].engine, str(voice["clips"]), f"{voice['hours']:.2f}")
        for name, voice in data["voices"].items()
    ]
    return markdown_table(("voice", "made by", "clips", "hours"), rows)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line of the stage; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m recipes.tiny.card", description="Writes the model card, or scores into other Markdown files."
    )
    parser.add_argument("--out", type=Path, default=Path("build/tiny"), help="output root (default: %(default)s)")
    parser.add_argument(
        "--fill",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE",
        help="write no card, but the scores between the marks of these Markdown files",
    )
    parser.add_argument("--note", default="", help="a sentence on this training that the recipe does not tell")
    parser.add_argument("overrides", nargs="*", metavar="SECTION.KEY=VALUE", help="settings the model was made with")
    options = parser.parse_args(arguments)
    try:
        for path in options.fill:
            fill_scores(path, read_scores(options.out))
        if not options.fill:
            print(write_card(options.out, load_settings(overrides=options.overrides), options.note))
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
