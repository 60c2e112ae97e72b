"""What trained the weights: recorded beside the checkpoints, and compared before a training goes on."""

import json

import pytest
from datasets import Dataset, IterableDataset

from ttt_hf.training.arguments import load_recipe, parse_recipe
from ttt_hf.training.finetuning import train
from ttt_hf.training.provenance import RUNS_FILE, UNRECORDED, History, Run, deciding_keys, samples_digest


def keys_of(**keys):
    return deciding_keys(parse_recipe({"output_dir": "x", "train_data": "rows", **keys}))


@pytest.fixture
def history():
    return History((Run(0, keys_of(), {"train": "abc", "eval": None}, []),), finished_step=4)


def test_no_difference_without_a_run_and_with_the_same_keys(history):
    assert History().differences(keys_of(learning_rate=1.0)) == []
    assert history.differences(keys_of(), {"train": "abc", "eval": None}) == []


@pytest.mark.parametrize(
    "keys",
    [
        {"logging_steps": 3, "report_to": "tensorboard", "run_name": "a", "disable_tqdm": True},
        {"push_to_hub": True, "hub_token": "secret", "hub_model_id": "me/model", "hub_private_repo": False},
        {"dataloader_num_workers": 2, "encoding_workers": 2, "gradient_checkpointing": True, "save_steps": 7},
        {
            "speak_steps": 5,
            "license": "mit",
            "language": ["en"],
            "attn_implementation": "eager",
            "save_total_limit": 1,
        },
    ],
)
def test_keys_that_cannot_change_the_weights_may_differ(history, keys):
    assert history.differences(keys_of(**keys)) == []


@pytest.mark.parametrize(
    ("keys", "difference"),
    [
        ({"learning_rate": 0.5}, "learning_rate was 0.0002 and is 0.5 here"),
        ({"train_data": "others"}, 'train_data was [{"path": "rows"}] and is [{"path": "others"}] here'),
        ({"seed": 1}, "seed was 42 and is 1 here"),
        ({"max_steps": 9}, "max_steps was -1 and is 9 here"),
        ({"lora_rank": 2, "objective": "paper"}, "objective was two_stream and is paper here"),
    ],
)
def test_keys_that_change_the_weights_are_named_with_both_values(history, keys, difference):
    found = history.differences(keys_of(**keys))
    assert difference in found and len(found) == len(keys)


def test_other_samples_under_the_same_name_are_a_difference(history):
    assert history.differences(keys_of(), {"train": "xyz"}) == ["train_data holds other samples than before"]
    # A stream has no hash: nothing is known.
    assert history.differences(keys_of(), {"train": None, "eval": "abc"}) == []


def test_names_of_one_model_and_of_one_folder_are_the_same(tmp_path, monkeypatch):
    assert keys_of(model="ttt-tiny") == keys_of(model="embedded")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows").mkdir()
    assert keys_of() == keys_of(train_data=str(tmp_path / "rows")) == keys_of(train_data=[{"path": "./rows"}])


def test_a_run_that_did_no_step_is_forgotten(history):
    other = Run(2, keys_of(learning_rate=0.5), {}, [])
    both = history.continued(other)
    assert [run.first_step for run in both.runs] == [0, 2] and both.finished_step is None
    # Killed before its first checkpoint: the next run goes on from the same step.
    assert both.continued(Run(2, keys_of(), {"train": "abc"}, [])).runs == history.runs
    assert History().continued(other).runs == (UNRECORDED, other)


def test_the_record_is_read_as_it_was_written(history, tmp_path):
    history.write(tmp_path)
    assert History.read(tmp_path) == history
    assert History.read(tmp_path / "nowhere") == History()
    for damage in ("{", "[]", "{}", '{"runs": [{}], "finished_step": 1}', '{"runs": 3, "finished_step": 1}'):
        (tmp_path / RUNS_FILE).write_text(damage)
        with pytest.raises(ValueError, match=f"{RUNS_FILE}, the record of what trained this folder, is damaged"):
            History.read(tmp_path)


def test_samples_are_hashed_by_content():
    samples = [{"input_ids": [1, 2, n], "labels": [-100, 2, n]} for n in range(5)]
    digest = samples_digest(Dataset.from_list(samples))
    assert digest == samples_digest(Dataset.from_list([samples[0], *samples]).select(range(1, 6)))
    samples[3]["input_ids"] = [1, 3, 3]
    assert digest != samples_digest(Dataset.from_list(samples))
    assert samples_digest(IterableDataset.from_generator(lambda: iter(samples))) is None


@pytest.fixture
def trained(train_adapter, tmp_path):
    return train_adapter(tmp_path / "adapter", "save_steps=1")


def files_of(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_finished_training_with_other_keys_is_refused_and_nothing_is_written(trained, train_adapter):
    before = files_of(trained)
    with pytest.raises(ValueError, match=r"holds another training \(learning_rate was 0.0005 and is 0.3 here\)"):
        train_adapter(trained, "save_steps=1", "learning_rate=0.3")
    assert files_of(trained) == before


def test_a_finished_training_says_so_and_reports_what_it_measured(trained, short_dialogues, caplog):
    before = files_of(trained)
    keys = [f"train_data={short_dialogues}", f"output_dir={trained}", "max_steps=2", "per_device_train_batch_size=3"]
    keys += ["lora_rank=2", "lora_dropout=0.2", "warmup_steps=0", "logging_steps=5"]
    with caplog.at_level("INFO"):
        metrics = train(load_recipe("lora_chat", keys))
    assert "is finished" in caplog.text
    assert metrics == json.loads((trained / "all_results.json").read_text()) and metrics["train_loss"] > 1
    assert files_of(trained) == before


def test_other_data_under_the_same_name_are_refused(train_adapter, short_dialogues, tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text(short_dialogues.read_text())
    out = train_adapter(tmp_path / "adapter", f"train_data={rows}")
    rows.write_text(short_dialogues.read_text().replace("A vegetable.", "A root."))
    with pytest.raises(ValueError, match="train_data holds other samples than before"):
        train_adapter(out, f"train_data={rows}")


def test_force_goes_on_and_the_card_says_which_steps_had_which_keys(trained, train_adapter):
    loss = json.loads((trained / "all_results.json").read_text())["train_loss"]
    train_adapter(trained, "save_steps=1", "learning_rate=0.3", "resume=force")
    # Nothing was left to train: the card still says what did, and the loss is that of these steps.
    card = (trained / "README.md").read_text()
    assert "learning_rate: 0.0005" in card and "0.3" not in card.split("## Training")[1]
    assert json.loads((trained / "all_results.json").read_text())["train_loss"] == pytest.approx(loss)
    train_adapter(trained, "save_steps=1", "learning_rate=0.3", "max_steps=3", "resume=force")
    card = (trained / "README.md").read_text()
    assert "Steps 1 to 2: keys" in card and "Steps 3 to 3: keys" in card and "learning_rate: 0.3" in card
    assert History.read(trained).finished_step == 3


def test_checkpoints_without_a_record_are_refused(trained, train_adapter):
    (trained / RUNS_FILE).unlink()
    with pytest.raises(ValueError, match=r"what trained it is not recorded.*resume=force"):
        train_adapter(trained, "max_steps=3")
    train_adapter(trained, "max_steps=3", "resume=force")
    assert "Steps 1 to 2: not recorded." in (trained / "README.md").read_text()


def test_a_loss_is_that_of_all_steps_after_a_resumption(train_adapter, tmp_path):
    keys = ("max_steps=4", "save_steps=2", "logging_steps=1")
    whole = train_adapter(tmp_path / "whole", *keys)
    resumed = train_adapter(tmp_path / "resumed", *keys)
    record = json.loads((resumed / RUNS_FILE).read_text())
    (resumed / RUNS_FILE).write_text(json.dumps({**record, "finished_step": None}))
    (resumed / "checkpoint-4" / "trainer_state.json").unlink()
    train_adapter(resumed, *keys)
    losses = [json.loads((out / "all_results.json").read_text())["train_loss"] for out in (whole, resumed)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_no_token_is_stored(train_adapter, tmp_path):
    out = train_adapter(tmp_path / "adapter", "save_steps=1", "hub_token=hf_secret_word")
    assert not [path for path, content in files_of(out).items() if b"hf_secret_word" in content]


def test_a_named_checkpoint_has_to_be_there(train_adapter, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"There is no checkpoint .*nowhere: name a folder"):
        train_adapter(tmp_path / "adapter", f"resume_from_checkpoint={tmp_path / 'nowhere'}")
    with pytest.raises(ValueError, match="resume must be same or force, not again"):
        train_adapter(tmp_path / "adapter", "resume=again")
