"""Tables of recordings, in all formats, and folders of encoded recordings, damaged."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pyarrow
import pyarrow.parquet

from ..mutations import Damage
from .material import link, pick_file, run, write_checkpoint, write_jsonl, write_recordings


IMPORTS = ("datasets", "ttt_hf.data.encoding", "ttt_hf.evaluation.harness", "ttt_hf.evaluation.scoring.scorers")


def prepare(base: Path) -> None:
    write_checkpoint(base / "checkpoint")
    data = base / "data"
    rows = write_recordings(data)
    write_jsonl(data / "rows.jsonl", rows)
    (data / "rows.json").write_text(json.dumps(rows))
    for name, delimiter in (("rows.csv", ","), ("rows.tsv", "\t")):
        with (data / name).open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
            writer.writeheader()
            writer.writerows(rows)
    cells = [{**row, "audio": {"bytes": (data / row["audio"]).read_bytes(), "path": row["audio"]}} for row in rows]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(cells), data / "rows.parquet")
    dialogues = [
        {
            "messages": [
                {"role": "user", "content": [{"type": "audio", "path": row["audio"]}]},
                {
                    "role": "assistant",
                    "content": [{"type": "text", "text": row["text"]}, {"type": "audio", "codes": [1, 2]}],
                },
            ]
        }
        for row in rows
    ]
    write_jsonl(data / "dialogues.jsonl", dialogues)
    run(*_encode(base, data / "rows.jsonl"), "--task=asr", f"--out={base / 'encoded'}")


def make(damage: Damage, base: Path, folder: Path) -> list[str]:
    if damage.random() < 0.15:
        encoded = link(base / "encoded", folder / "out")
        damage.file(pick_file(damage, encoded, "*"))
        return [*_encode(base, base / "data" / "rows.jsonl"), "--task=asr", "--out=out"]
    data = link(base / "data", folder / "data")
    table = pick_file(damage, data, "rows.*", "dialogues.jsonl")
    if table.suffix == ".jsonl" and damage.random() < 0.5:
        # Rows that stay rows.
        rows = [json.loads(line) for line in table.read_text(encoding="utf-8").splitlines()]
        damaged = [damage.tree(row) if damage.chance(0.5) else row for row in rows]
        table.unlink()
        table.write_text("".join(json.dumps(row) + "\n" for row in damaged))
    else:
        damage.file(table if damage.random() < 0.8 else pick_file(damage, data, "*.wav"))
    if table.stem == "dialogues" or damage.random() < 0.5:
        task = [] if table.stem == "dialogues" else [f"--task={damage.choice(['asr', 'tts'])}"]
        return [*_encode(base, table), "--out=out", f"--max-broken={damage.choice([0, 1])}", *task]
    return ["eval", "run", "local", f"path={table}", "--out=out", f"--model={base / 'checkpoint'}"]


def _encode(base: Path, table: Path) -> list[str]:
    return ["encode", str(table), "--workers=1", "--shard-size=2", f"--model={base / 'checkpoint'}"]
