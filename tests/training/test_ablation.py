"""The ablation: one table over all shipped objectives."""

import json

import pytest

from ttt_hf import TtTForConditionalGeneration, TtTProcessor, embedded_checkpoint
from ttt_hf.training import ablation


def test_a_measure_that_an_objective_lacks_is_a_dash():
    table = ablation.as_table({"ar": {"eval_text_loss": 1.25}, "nar": {}}).splitlines()
    assert table[2].split(" | ")[:2] == ["| ar", "1.25"]
    assert table[3].split(" | ")[1] == "-"
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


@pytest.mark.slow
def test_every_objective_is_trained_and_compared(dialogues, tmp_path):
    """A baseline whose audio is autoregressive speaks, too, code by code."""
    out = tmp_path / "ablation"
    words = [f"train_data={dialogues}", f"eval_data={dialogues}", f"output_dir={out}", "max_steps=1"]
    table = ablation.run_ablation(words)
    assert len(table) >= 7
    for name, measures in table.items():
        assert ("eval_text_loss" in measures) == (name != "nar")
        assert measures["eval_audio_loss"] > 0
    assert (out / "ablation.md").read_text() == ablation.as_table(table)
    assert ablation.run_ablation(words) == table  # nothing is trained again

    model = TtTForConditionalGeneration.from_pretrained(out / "ar")
    processor = TtTProcessor.from_pretrained(embedded_checkpoint())
    messages = [{"role": "user", "content": [{"type": "text", "text": "Say the number 3."}]}]
    inputs = processor.apply_chat_template(messages, task="chat", add_generation_prompt=True)
    reply = model.generate(**inputs, max_new_tokens=20, return_dict_in_generate=True)
    assert reply.segments[0]
