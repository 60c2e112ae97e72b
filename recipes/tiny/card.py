"""Writes the model card of the embedded checkpoint, and the table of scores in the repository's README.

    python -m recipes.tiny.card --out build/tiny                      # build/tiny/ttt-tiny/README.md
    python -m recipes.tiny.card --out build/tiny --readme README.md   # and the block of scores in README.md

Every number comes from `scores.json`, the tables of the data, the settings or the checkpoint; none is typed by hand.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jinja2
from huggingface_hub import EvalResult, ModelCardData

from .assemble import NAME
from .cases import read_rows
from .settings import TinySettings, load_settings
from .voices import HELD_OUT_VOICE, REPLY_VOICE, VOICES


TEMPLATE = Path(__file__).with_name("card.md.jinja")
BEGIN, END = "<!-- scores:begin -->", "<!-- scores:end -->"
SCORE_COMMAND = "python -m recipes.tiny.score --model embedded --data build/tiny/data --out build/tiny/scores.json"
RECIPE_COMMAND = "make tiny"
# What the programs and voices that made the speech are licensed under. None of them is part of the checkpoint.
LICENCES = {
    "piper": "Piper voice `joe`: voice MIT, its recordings CC0; the Piper runtime is GPL-3.0",
    "espeak-ng": "espeak-ng: GPL-3.0 (a program; its output is not covered)",
    "flite": "Flite and its CMU voices: BSD-like",
    "festival": "Festival and its voices: BSD-like",
}


@dataclass(frozen=True)
class Row:
    """One line of the table of scores.

    Args:
        split, entry: Where the number stands in `scores.json`.
        what: What was measured.
        bar: What the recipe aims at.
        task: Task name for the Hub's index.
    """

    split: str
    entry: str
    what: str
    bar: str
    task: str


ROWS = (
    Row("wording", "asr", "new wordings, known voices: transcript, word error rate", "<= 2 %", "speech recognition"),
    Row("wording", "chat", "new wordings, known voices: right answers", ">= 97 %", "spoken question answering"),
    Row("wording", "speech", "new wordings: spoken answer against its own text, word error rate", "<= 8 %", "speech"),
    Row("sums", "chat", "sums never seen: right answers", ">= 80 %", "spoken question answering"),
    Row("sums", "asr", "sums never seen: transcript, word error rate", "", "speech recognition"),
    Row("sentences", "tts", "sentences never seen, read aloud: word error rate", "<= 15 %", "text to speech"),
    Row("voice", "asr", "a voice never heard: transcript, word error rate", "<= 25 %", "speech recognition"),
    Row("voice", "chat", "a voice never heard: right answers", ">= 60 %", "spoken question answering"),
    Row("written", "text", "new wordings, asked in writing: right answers", "", "question answering"),
)


def write_card(out: Path, settings: TinySettings, note: str = "") -> Path:
    """Writes OUT/ttt-tiny/README.md.

    Args:
        out: The recipe's output root, with `scores.json`, `data/` and `ttt-tiny/`.
        settings: The recipe.
        note: What a reader has to know of this training beyond the recipe.

    Returns:
        The card.

    Raises:
        FileNotFoundError: The checkpoint or the scores are not there.
    """
    checkpoint = out / NAME
    if not (checkpoint / "config.json").is_file():
        raise FileNotFoundError(f"There is no checkpoint in {checkpoint}: run the stage assemble first.")
    scores = read_scores(out / "scores.json")
    card = model_card(scores, data_statistics(out / "data"), settings, checkpoint, note)
    _write_atomically(checkpoint / "README.md", card)
    return checkpoint / "README.md"


def fill_readme(readme: Path, scores: dict[str, Any]) -> None:
    """Replaces the block of scores of a README.

    Args:
        readme: A Markdown file that holds the two marks of the block.
        scores: Content of `scores.json`.

    Raises:
        ValueError: A mark is missing.
    """
    text = readme.read_text(encoding="utf-8")
    head, begin, rest = text.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{readme} lacks the line {BEGIN} or, behind it, {END}: add them where the scores belong.")
    block = f"{score_table(scores)}\n\n{score_notes(scores)}\n"
    _write_atomically(readme, f"{head}{BEGIN}\n{block}{END}{tail}")


def read_scores(path: Path) -> dict[str, Any]:
    """Reads `scores.json`.

    Args:
        path: The file.

    Returns:
        Its content.

    Raises:
        FileNotFoundError: The checkpoint has not been scored.
        ValueError: A split of the table was not measured.
    """
    if not path.is_file():
        raise FileNotFoundError(f"There is no {path}: run the stage score first.")
    scores = json.loads(path.read_text(encoding="utf-8"))
    missing = [split for split in dict.fromkeys(row.split for row in ROWS) if split not in scores["results"]]
    if missing:
        raise ValueError(f"{path} lacks the splits {', '.join(missing)}: run the stage score without --splits.")
    return scores


def aims_are_met(scores: dict[str, Any]) -> bool:
    """Whether every measured value reaches what the recipe aims at.

    Args:
        scores: Content of `scores.json`.

    Returns:
        False if a value misses its aim or was not measured.
    """
    for row in ROWS:
        value = scores["results"][row.split][row.entry]["value"]
        if row.bar:
            sign, number, _ = row.bar.split()
            if value is None or (value > float(number) if sign == "<=" else value < float(number)):
                return False
    return True


def score_table(scores: dict[str, Any]) -> str:
    """The table of scores in Markdown.

    Args:
        scores: Content of `scores.json`.

    Returns:
        The table.
    """
    rows = []
    for row in ROWS:
        entry = scores["results"][row.split][row.entry]
        rows.append((row.what, row.bar, f"**{_value(entry)}**", _interval(entry), str(entry["n"])))
    return _table(("what", "aim", "measured", "95 % interval", "n"), rows)


def score_notes(scores: dict[str, Any]) -> str:
    """What has to be said beside the table: yardsticks, failures, speed, settings, command.

    Args:
        scores: Content of `scores.json`.

    Returns:
        Markdown.
    """
    results, generation, transcriber = scores["results"], scores["generation"], scores["transcriber"]
    answers, sentences = results["wording"]["yardsticks"], results["sentences"]["yardsticks"]
    spoken = [results["wording"]["speech"], results["sentences"]["tts"]]
    silent = sum(entry["silent"] for entry in spoken)
    unfinished = sum(entry["unfinished"] for entry in spoken)
    single, batched = results["speed"]["single"], results["speed"]["batched"]
    versions = ", ".join(f"{name} {number}" for name, number in scores["versions"].items())
    blocks, steps = generation["audio_block_length"], generation["audio_steps_per_block"]
    paragraphs = [
        f"Whisper's own errors: on recordings of the reply voice {_value(answers['original'])} (the answers) and "
        f"{_value(sentences['original'])} (the sentences); on the same recordings through the codec "
        f"{_value(answers['codec'])} and {_value(sentences['codec'])}.",
        f"Of the {sum(entry['n'] for entry in spoken)} spoken replies {silent} were silent and {unfinished} did not "
        "end by themselves. Such replies count as wrong, and what they should have said as left out.",
        f"Generation takes {_per_second(single)} s for a second of speech on {scores['threads']} CPU threads, one "
        f"question at a time, and {_per_second(batched)} s in batches of {batched['batch_size']}.",
        "An answer is right when it equals the expected sentence after Whisper's English normalisation. Speech is "
        f"heard by {transcriber['model']} (beam {transcriber['beam_size']}). Decoding: blocks of {blocks} codes in "
        f"{steps} steps, audio temperature {generation['audio_temperature']}; seed {scores['settings']['seed']}. "
        f"Measured on {scores['date']} with {versions}:",
        f"```text\n{score_command(scores['settings'])}\n```",
    ]
    return "\n\n".join(paragraphs)


def score_command(settings: dict[str, Any]) -> str:
    """The command that measures again what was measured: the recipe's own, and where this run differed.

    Args:
        settings: The section `score` of the recipe as the measurement had it.

    Returns:
        A shell command.
    """
    recipe = asdict(load_settings().score)
    changed = [f"--set score.{name}={value}" for name, value in settings.items() if recipe.get(name) != value]
    return " ".join([SCORE_COMMAND, *changed])


def data_statistics(data: Path) -> dict[str, Any]:
    """Counts what the recipe's data holds.

    Args:
        data: Folder with `items.jsonl` and `utterances.jsonl`.

    Returns:
        `families` (items by family and split), `voices` (clips and hours by voice), `clips`, `hours`, `training` (what
        the training split holds) and `held_out_wordings`.
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


def model_card(
    scores: dict[str, Any], data: dict[str, Any], settings: TinySettings, checkpoint: Path, note: str = ""
) -> str:
    """The whole card.

    Args:
        scores: Content of `scores.json`.
        data: Result of `data_statistics`.
        settings: The recipe.
        checkpoint: Folder of the checkpoint, for its size, shape and codebook; beside it lies
            `model/trainer_state.json`, which says how long it was trained.
        note: A sentence for the section on training.

    Returns:
        Markdown with the Hub's metadata in front.
    """
    codec = json.loads((checkpoint / "codec" / "config.json").read_text(encoding="utf-8"))
    config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    trained = json.loads((checkpoint.parent / "model" / "trainer_state.json").read_text(encoding="utf-8"))
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        name=NAME,
        metadata=_metadata(scores).to_yaml(),
        scores=scores,
        score_table=score_table(scores),
        score_notes=score_notes(scores),
        family_table=_by_family(scores["results"]),
        voice_table=_by_voice(scores["results"]),
        data=data,
        data_table=_data_table(data),
        clip_table=_clip_table(data),
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
        size=sum(path.stat().st_size for path in checkpoint.rglob("*") if path.is_file() and path.name != "README.md"),
        millions=lambda number: f"{number / 1e6:.1f}",
    )


def _metadata(scores: dict[str, Any]) -> ModelCardData:
    results = []
    for row in ROWS:
        entry = scores["results"][row.split][row.entry]
        wer = entry["metric"] == "wer"
        results.append(
            EvalResult(
                task_type="automatic-speech-recognition" if row.entry == "asr" else "audio-text-to-text",
                task_name=row.task,
                dataset_type="ttt-tiny",
                dataset_name="ttt-tiny recipe data",
                dataset_split=row.split,
                metric_type="wer" if wer else "accuracy",
                metric_name=row.what,
                metric_value=entry["value"],
            )
        )
    return ModelCardData(
        language="en",
        license="apache-2.0",
        library_name="transformers",
        pipeline_tag="any-to-any",
        tags=[
            "ttt",
            "ttt-hf",
            "speech",
            "spoken-dialogue",
            "masked-diffusion",
            "text-to-speech",
            "speech-recognition",
        ],
        model_name=NAME,
        eval_results=results,
    )


def _data_table(data: dict[str, Any]) -> str:
    rows = []
    for family, counts in data["families"].items():
        train = counts.get("train", 0)
        rows.append((family, str(train), str(sum(counts.values()) - train)))
    return _table(("family", "training items", "held-out items"), rows)


def _clip_table(data: dict[str, Any]) -> str:
    rows = [
        (f"`{name}`", VOICES[name].engine, str(voice["clips"]), f"{voice['hours']:.2f}")
        for name, voice in data["voices"].items()
    ]
    return _table(("voice", "made by", "clips", "hours"), rows)


def _by_family(results: dict[str, Any]) -> str:
    wording = results["wording"]
    names = ("asr", "chat", "speech")
    families = wording["chat"]["by_family"]
    rows = [
        (family, *(_value(wording[name]["by_family"][family]) for name in names), str(families[family]["n"]))
        for family in families
    ]
    return _table(("family", "transcript WER", "right answers", "spoken answer WER", "n"), rows)


def _by_voice(results: dict[str, Any]) -> str:
    rows = []
    for split in ("wording", "voice"):
        for voice, entry in results[split]["chat"]["by_voice"].items():
            heard = results[split]["asr"]["by_voice"][voice]
            rows.append((f"`{voice}`", _value(heard), _value(entry), str(entry["n"])))
    return _table(("voice", "transcript WER", "right answers", "n"), rows)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _value(entry: dict[str, Any]) -> str:
    return "not measured" if entry["value"] is None else f"{entry['value']:.1f} %"


def _interval(entry: dict[str, Any]) -> str:
    low, high = entry["interval_95"]
    return "" if low is None else f"{low:.1f} to {high:.1f}"


def _per_second(speed: dict[str, Any]) -> str:
    seconds = speed["generate_seconds_per_audio_second"]
    return "an unmeasured number of" if seconds is None else f"{seconds:.2f}"


def _write_atomically(path: Path, text: str) -> None:
    temporary = path.with_name(path.name + ".part")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line of the stage; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m recipes.tiny.card", description="Writes the model card and the README's scores."
    )
    parser.add_argument("--out", type=Path, default=Path("build/tiny"), help="output root (default: %(default)s)")
    parser.add_argument("--readme", type=Path, help="README whose block of scores is filled in as well")
    parser.add_argument("--note", default="", help="a sentence on this training that the recipe does not tell")
    parser.add_argument("overrides", nargs="*", metavar="SECTION.KEY=VALUE", help="settings the model was made with")
    options = parser.parse_args(arguments)
    try:
        print(write_card(options.out, load_settings(overrides=options.overrides), options.note))
        if options.readme is not None:
            fill_readme(options.readme, read_scores(options.out / "scores.json"))
            print(options.readme)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
