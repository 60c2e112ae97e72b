"""The ablation: one table over all shipped objectives."""

import json
import re

import pytest

from ttt_hf import TtTForConditionalGeneration, TtTProcessor, embedded_checkpoint
from ttt_hf.training import ablation
from ttt_hf.training.arguments import load_recipe
from ttt_hf.training.finetuning import train
from ttt_hf.training.recipes import recipe_names


def test_a_measure_that_an_objective_lacks_is_a_dash():
    table = ablation.as_table({"ar": {"eval_text_loss": 1.25}, "nar": {}}).splitlines()
    assert table[2].split(" | ")[:3] == ["| ar", "-", "1.25"]
    assert table[3].split(" | ")[2] == "-"
    assert len({line.count("|") for line in table}) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["output_dir=x"], "eval_data="),
        (["train_data=x", "output_dir=x"], "eval_data="),
        (["train_data=x", "eval_data=x"], "output_dir="),
        (["train_dta=x"], "did you mean train_data"),
    ],
)
def test_what_is_missing_is_said_before_anything_is_trained(words, message, capsys):
    with pytest.raises(SystemExit, match=message):
        ablation.main(words)


@pytest.fixture
def dialogues(tmp_path):
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"Say the number {number}."},
                {
                    "role": "assistant",
                    "content": [
                        {"type": "text", "text": f"It is {number}."},
                        {"type": "audio", "codes": [number] * 30},
                    ],
                },
            ],
            "task": "chat",
        }
        for number in range(6)
    ]
    file = tmp_path / "dialogues.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    return file


@pytest.mark.slow  # seven trainings; test_trainer.py compares objectives quickly
def test_the_same_weights_have_the_same_loss_under_all_recipes(dialogues, tmp_path):
    """At a learning rate of 0 all recipes end with the weights of the embedded model."""
    found = {}
    names = [name for name in recipe_names() if name.startswith(ablation.GROUP)]
    for number, name in enumerate(names):
        keys = [f"train_data={dialogues}", f"eval_data={dialogues}", f"output_dir={tmp_path / str(number)}"]
        keys += ["max_steps=1", "learning_rate=0", "weight_decay=0", f"seed={number}"]
        metrics = train(load_recipe(name, [*keys, f"per_device_eval_batch_size={number + 1}"]))
        found[name] = {key: value for key, value in metrics.items() if re.fullmatch("eval.*_(loss|accuracy.*)", key)}
    assert len(found) == 7
    first = found[names[0]]
    assert {"eval_loss", "eval_text_loss", "eval_audio_accuracy_0_20", "eval_audio_accuracy_80_100"} <= first.keys()
    for name in names:
        # Batches of other sizes round differently.
        assert found[name] == pytest.approx(first, abs=2e-3), name


def test_strategies_without_effect_are_said(tiny_config):
    def sample(*spans):  # vocabulary of `tiny_config`: text below 40, codes 41..56, end marker 59
        return {"labels": [-100, 3, *(label for size in spans for label in [37, *[41] * size, 59, 3])]}

    config = tiny_config()
    assert "cannot differ" in ablation.without_effect([sample()], config)[0]
    (note,) = ablation.without_effect([sample(), sample(30)], config)
    assert "paper_without_ppm" in note
    (note,) = ablation.without_effect([sample(30, 4)], config)
    assert "paper_without_sst" in note
    assert ablation.without_effect([sample(30, 4), sample(30)], config) == []


@pytest.mark.slow
def test_every_objective_is_trained_and_compared(dialogues, tmp_path):
    """A baseline whose audio is autoregressive speaks, too, code by code."""
    out = tmp_path / "ablation"
    words = [f"train_data={dialogues}", f"eval_data={dialogues}", f"output_dir={out}", "max_steps=1"]
    table = ablation.run_ablation(words)
    assert len(table) >= 7
    for measures in table.values():
        assert measures["eval_text_loss"] > 0 and measures["eval_audio_loss"] > 0
    report = (out / "ablation.md").read_text()
    assert report.startswith(ablation.as_table(table))
    assert "paper_without_ppm` differs from `paper` by chance" in report and "without_sst" not in report.split("|")[-1]
    assert ablation.run_ablation(words) == table  # nothing is trained again
    with pytest.raises(ValueError, match=r"ar holds another training .*max_steps was 1 and is 2 here"):
        ablation.run_ablation([*words, "max_steps=2"])

    model = TtTForConditionalGeneration.from_pretrained(out / "ar")
    processor = TtTProcessor.from_pretrained(embedded_checkpoint())
    messages = [{"role": "user", "content": [{"type": "text", "text": "Say the number 3."}]}]
    inputs = processor.apply_chat_template(messages, task="chat", add_generation_prompt=True)
    reply = model.generate(**inputs, max_new_tokens=20, return_dict_in_generate=True)
    assert reply.segments[0]
