"""From the data that a recipe names to training samples."""

import json
import shutil
from pathlib import Path

import pytest

from ttt_hf import TtTForConditionalGeneration, TtTProcessor, embedded_checkpoint
from ttt_hf.training.arguments import DataArguments, ObjectiveArguments
from ttt_hf.training.preparation import parse_sources, prepare_samples
from ttt_hf.training.recipes import recipe_names


QUESTION = Path(__file__).parents[2] / "examples" / "question.wav"


@pytest.fixture(scope="module")
def processor():
    return TtTProcessor.from_pretrained(embedded_checkpoint())


@pytest.fixture(scope="module")
def config():
    return TtTForConditionalGeneration.config_class.from_pretrained(embedded_checkpoint())


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    path = tmp_path_factory.mktemp("recordings") / "rows.jsonl"
    rows = [{"audio": str(QUESTION), "text": f"What is a carrot, number {number}?"} for number in range(3)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture(scope="module")
def dialogues(tmp_path_factory):
    """Rows of all tasks whose audio is codes already."""
    path = tmp_path_factory.mktemp("dialogues") / "rows.jsonl"
    speech = {"type": "audio", "codes": list(range(40))}
    turns = [
        ("asr", [speech], [{"type": "text", "text": "Hello."}]),
        ("tts", [{"type": "text", "text": "Hello there."}], [{"type": "text", "text": "Hello there."}, speech]),
        ("chat", [speech], [{"type": "text", "text": "Good morning to you."}, speech]),
    ]
    rows = [
        {"task": task, "messages": [{"role": "user", "content": user}, {"role": "assistant", "content": reply}]}
        for task, user, reply in turns
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows * 4))
    return str(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[5]", "is a path or a mapping, not 5"),
        ("[[1]]", "is a path or a mapping, not"),
        ('{"path": 3}', "The path of a data set of the recipe must be a text, not 3"),
        ('{"path": "a", "task": ["asr"]}', "The task of a data set of the recipe must be a text"),
        (
            '{"path": "a", "allow_private": "yes"}',
            "The allow_private of a data set of the recipe must be true or false",
        ),
        ('{"path": "a", "ratio": Infinity}', "The ratio of a must be a positive number"),
        ('{"pth": "a"}', "has the unknown key pth"),
        ('{"path": ""}', "has no path"),
    ],
)
def test_data_that_name_no_source(text, message):
    with pytest.raises(ValueError, match=message):
        parse_sources(text)


def test_a_name_that_looks_like_json_is_a_name():
    assert parse_sources("[take 1].jsonl") == [{"path": "[take 1].jsonl"}]


def prepare(text, processor, config, work, **arguments):
    return prepare_samples(text, DataArguments(**arguments), ObjectiveArguments(), processor, config, work)


def test_sources_are_a_path_a_mapping_or_a_list():
    assert parse_sources("a/b") == [{"path": "a/b"}]
    assert parse_sources('{"path": "a", "task": "asr"}') == [{"path": "a", "task": "asr"}]
    assert parse_sources('["a", {"path": "b", "ratio": 0.5}]') == [{"path": "a"}, {"path": "b", "ratio": 0.5}]
    with pytest.raises(ValueError, match="unknown key pth"):
        parse_sources('{"pth": "a"}')
    with pytest.raises(ValueError, match="has no path"):
        parse_sources('{"task": "asr"}')


def test_the_same_recordings_serve_two_tasks(recordings, processor, config, tmp_path):
    sources = [{"path": recordings, "task": task, "ratio": 0.5} for task in ("asr", "tts")]
    samples = prepare(json.dumps(sources), processor, config, tmp_path)
    prompts = [processor.tokenizer.decode(ids) for ids in samples["input_ids"]]
    for phrase in ("Speech Recognition", "Text-to-Speech"):
        assert any(phrase in prompt for prompt in prompts)


def test_a_model_that_learns_longer_recordings_takes_them(config, tmp_path):
    path = tmp_path / "rows.jsonl"
    speech = [{"type": "audio", "codes": list(range(150))}]
    text = [{"type": "text", "text": "Hello."}]
    path.write_text(
        "".join(
            json.dumps({"messages": [{"role": "user", "content": said}, {"role": "assistant", "content": reply}]})
            + "\n"
            for said, reply in ((speech, text), (text, [*text, *speech * 2]))
        )
    )
    for is_training, limit, expected in ((False, 8.0, 8.0), (True, 8.0, 12.0), (True, 20.0, 20.0), (True, None, None)):
        processor = TtTProcessor.from_pretrained(embedded_checkpoint())
        processor.max_audio_seconds = limit
        settings = (DataArguments(), ObjectiveArguments(), processor, config, tmp_path)
        prepare_samples(str(path), *settings, is_training=is_training)
        assert processor.max_audio_seconds == expected


def test_the_seed_orders_a_mixture_and_evaluation_counts_each_row_once(dialogues, processor, config, tmp_path):
    other = tmp_path / "other.jsonl"
    other.write_text('{"text": "A row of a small source."}\n')
    text = json.dumps([{"path": dialogues, "ratio": 1}, {"path": str(other), "ratio": 3}])
    settings = (DataArguments(), ObjectiveArguments(), processor, config, tmp_path)

    def ids(**arguments):
        return list(prepare_samples(text, *settings, **arguments)["input_ids"])

    assert ids(seed=1) == ids(seed=1) != ids(seed=2)
    evaluated = ids(is_training=False)
    assert len(evaluated) == 13 and sum(row == evaluated[-1] for row in evaluated) == 1


def test_what_is_encoded_is_not_encoded_again(recordings, processor, config, tmp_path):
    source = json.dumps({"path": recordings, "task": "asr"})
    first = prepare(source, processor, config, tmp_path)
    made = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.parquet")}
    again = prepare(source, processor, config, tmp_path)
    assert made and made == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.parquet")}
    assert list(first) == list(again)


def test_a_corrected_transcript_is_what_is_learned(recordings, processor, config, tmp_path, caplog):
    path = tmp_path / "rows.jsonl"
    path.write_text(Path(recordings).read_text())
    source = json.dumps({"path": str(path), "task": "asr"})
    prepare(source, processor, config, tmp_path / "work")
    path.write_text(path.read_text().replace("number 1?", "the corrected one?"))
    samples = prepare(source, processor, config, tmp_path / "work")
    learned = [processor.tokenizer.decode([id_ for id_ in labels if id_ >= 0]) for labels in samples["labels"]]
    assert sum("the corrected one?" in text for text in learned) == 1 and not any("number 1?" in t for t in learned)
    assert "1 of 3 rows changed: encoding them again" in caplog.text


def test_codes_that_cannot_be_learned_are_left_out_and_said(dialogues, processor, config, tmp_path, caplog):
    path = tmp_path / "rows.jsonl"
    bad = {"messages": [{"role": "user", "content": [{"type": "audio", "codes": [10**6]}]},
                        {"role": "assistant", "content": "Hello."}]}  # fmt: skip
    path.write_text(Path(dialogues).read_text() + json.dumps(bad) + "\n")
    assert len(prepare(str(path), processor, config, tmp_path)) == 12
    assert "cannot be learned: 1 (" in caplog.text and "line 13: Audio codes must lie in" in caplog.text
    with pytest.raises(ValueError, match="line 13: Audio codes must lie in"):
        prepare(str(path), processor, config, tmp_path, max_broken=0.0)


def test_variants_are_for_training(recordings, processor, config, tmp_path):
    source = json.dumps({"path": recordings, "task": "asr"})
    samples = prepare(source, processor, config, tmp_path, audio_variants=2)
    plain = prepare(source, processor, config, tmp_path)
    assert [len(entry["input_ids"]) for row in samples for entry in row["variants"]] == [2] * 3
    assert list(samples["input_ids"]) == list(plain["input_ids"])
    assert list(plain["variants"]) == [[]] * 3
    (with_variants,) = tmp_path.glob("*-variants-2")
    settings = (DataArguments(audio_variants=2), ObjectiveArguments(), processor, config, tmp_path)
    for data in (source, str(with_variants)):
        assert list(prepare_samples(data, *settings, is_training=False)["variants"]) == [[]] * 3
    row = prepare(str(with_variants), processor, config, tmp_path, row_length=600)[0]
    assert len(row["variants"]) == 3
    streamed = prepare(str(with_variants), processor, config, tmp_path, row_length=600, streaming=True)
    assert next(iter(streamed))["variants"] == row["variants"]


def test_packed_rows(dialogues, processor, config, tmp_path):
    samples = prepare(dialogues, processor, config, tmp_path, row_length=600)
    assert all(length <= 600 for length in samples["length"])
    assert sum(map(len, samples["sample_lengths"])) == 12 > len(samples)


def test_streamed_data(dialogues, recordings, processor, config, tmp_path):
    whole = prepare(dialogues, processor, config, tmp_path)
    assert list(prepare(dialogues, processor, config, tmp_path, streaming=True)) == list(whole)
    with pytest.raises(ValueError, match="ttt-hf encode"):
        prepare(json.dumps({"path": recordings, "task": "asr"}), processor, config, tmp_path, streaming=True)


def test_rows_of_one_limit_with_and_without_audio(dialogues, processor, config, tmp_path, caplog):
    """A row without audio first, so that all rows have to be looked at; those that are broken count alike."""
    rows = [{"text": "Hello."}, {"audio": str(QUESTION)}, {"audio": "missing.wav"}, {"text": ""}]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    statistics = []
    samples = prepare_samples(
        str(path), DataArguments(), ObjectiveArguments(), processor, config, tmp_path / "work", statistics
    )
    assert len(samples) == 2
    assert statistics == [{"path": str(path), "rows": 2, "seconds": pytest.approx(2.0, abs=1.0)}]
    assert "rows left out because they cannot be used: 2, see" in caplog.text
    with pytest.raises(
        ValueError, match=r"rows.jsonl, line 3: There is no audio file .*rows.jsonl, line 4: .* is empty"
    ):
        prepare(str(path), processor, config, tmp_path / "other", max_broken=0.25)


def test_nothing_that_fits(dialogues, processor, config, tmp_path):
    with pytest.raises(ValueError, match="max_length"):
        prepare(dialogues, processor, config, tmp_path, max_length=8)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in recipe_names() if name != "qlora"])  # which needs a GPU
def test_shipped_recipes_train(name, dialogues, tmp_path):
    from ttt_hf.cli.main import main

    settings = ["model=embedded", "max_steps=2", "gradient_accumulation_steps=1", "per_device_train_batch_size=2"]
    assert main(["train", name, f"train_data={dialogues}", f"output_dir={tmp_path}", *settings]) == 0
    assert list(tmp_path.glob("*.safetensors"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        ["streaming=true"],
        ["eval_data={data}", "eval_strategy=steps", "eval_steps=1", "save_steps=1", "load_best_model_at_end=true",
         "early_stopping_patience=1"],
        ["gradient_checkpointing=true", "objective=paper"],
    ],
    ids=["streaming", "early stopping", "checkpointing"],
)  # fmt: skip
def test_keys_that_change_how_it_is_trained(settings, dialogues, tmp_path):
    from ttt_hf.cli.main import main

    words = [word.format(data=dialogues) for word in settings]
    fixed = [f"train_data={dialogues}", f"output_dir={tmp_path}", "max_steps=2", "per_device_train_batch_size=2"]
    assert main(["train", "lora_chat", *fixed, *words]) == 0


def test_rows_name_files_elsewhere_only_if_the_recipe_allows_it(recordings, processor, config, tmp_path):
    (tmp_path / "tables").mkdir()
    shutil.copy(QUESTION, tmp_path / "question.wav")
    table = tmp_path / "tables" / "rows.jsonl"
    table.write_text('{"audio": "../question.wav", "text": "What is a carrot?"}\n')
    source = {"path": str(table), "task": "asr"}
    with pytest.raises(ValueError, match="is not in the folder of these data"):
        prepare(json.dumps(source), processor, config, tmp_path)
    assert len(prepare(json.dumps({**source, "allow_private": True}), processor, config, tmp_path)) == 1
