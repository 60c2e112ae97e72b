"""Arguments of generate(): where settings come from, lengths, forms of the output, what a user reads on a mistake."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GenerationConfig
from transformers.generation import MaxLengthCriteria, StoppingCriteriaList

from ttt_hf.modeling import TtTForConditionalGeneration, TtTGenerateOutput
from ttt_hf.modeling.settings_ttt import AudioGenerationSettings


Models = Callable[..., TtTForConditionalGeneration]


def test_output_is_a_tensor_unless_a_dictionary_is_asked_for(tiny_model: Models) -> None:
    model, prompt = tiny_model("qwen2"), torch.tensor([[5, 6, 7]])
    sequences = model.generate(prompt, max_new_tokens=9)
    assert isinstance(sequences, torch.Tensor)
    assert torch.equal(model.generate(inputs=prompt, max_new_tokens=9), sequences)
    out = model.generate(prompt, max_new_tokens=9, return_dict_in_generate=True)
    assert isinstance(out, TtTGenerateOutput)
    assert torch.equal(out.sequences, sequences)


def test_lengths_count_from_the_rows_own_prompt(tiny_model: Models) -> None:
    model = tiny_model("qwen2", seed=2)
    # Prompts of 3 and 7 tokens.
    inputs = {
        "input_ids": torch.tensor([[1, 1, 1, 1, 5, 6, 7], [8, 9, 10, 11, 12, 13, 14]]),
        "attention_mask": torch.tensor([[0, 0, 0, 0, 1, 1, 1], [1] * 7]),
    }
    keys = {"suppress_tokens": [0, 1, 36, 37], "return_dict_in_generate": True}
    for limits, expected in (
        ({"max_new_tokens": 4}, [7, 11]),
        ({"max_length": 12}, [12, 12]),
        ({"stopping_criteria": StoppingCriteriaList([MaxLengthCriteria(10)]), "max_new_tokens": 20}, [6, 10]),
        ({}, [23, 27]),
    ):
        out = model.generate(**inputs, **keys, **limits)
        assert (out.sequences != 1).sum(-1).tolist() == expected
    # The shortest length is a matter of the row's own tokens, too.
    eager = {**keys, "suppress_tokens": [36, 37], "sequence_bias": {(0,): 99.0}, "max_length": 30}
    assert (model.generate(**inputs, **eager, min_length=10).sequences != 1).sum(-1).tolist() == [11, 11]
    assert (model.generate(**inputs, **eager, min_new_tokens=2).sequences != 1).sum(-1).tolist() == [6, 10]


def test_generation_ends_where_the_context_does(tiny_model: Models) -> None:
    model = tiny_model("qwen2", text={"max_position_embeddings": 16})
    keys = {"suppress_tokens": [0, 36, 37], "max_new_tokens": 50}
    assert model.generate(torch.tensor([[5, 6, 7]]), **keys).shape[1] == 16
    with pytest.raises(ValueError, match="row 1 has 16 tokens and leaves no room in the model's context of 16"):
        model.generate(torch.full((2, 16), 5), attention_mask=torch.tensor([[0] * 9 + [1] * 7, [1] * 16]))


def test_settings_come_from_the_generation_config_and_arguments_win(tiny_model: Models, tmp_path: Path) -> None:
    model = tiny_model("qwen2")
    model.generation_config = GenerationConfig(
        eos_token_id=0,
        pad_token_id=1,
        max_new_tokens=8,
        audio_steps_per_block=1,
        audio_max_span_length=8,
        return_dict_in_generate=True,
    )
    model.save_pretrained(tmp_path)
    loaded = TtTForConditionalGeneration.from_pretrained(tmp_path)
    assert loaded.generation_config.audio_steps_per_block == 1

    def forwards(**kwargs: Any) -> int:
        """Forward passes that it takes to fill blocks, from the first token on."""
        return int(loaded.generate(torch.tensor([[5, 6, 36]]), **kwargs).num_forward_passes)

    assert forwards() == forwards(audio_steps_per_block=1)
    assert forwards() < forwards(audio_steps_per_block=2) < forwards(audio_steps_per_block=4)
    own = GenerationConfig(max_new_tokens=8, audio_steps_per_block=4, return_dict_in_generate=True)
    assert forwards(generation_config=own) == forwards(audio_steps_per_block=4)


def test_defaults_follow_the_model(tiny_model: Models) -> None:
    config = tiny_model("qwen2", audio_block_length=7).config
    settings = AudioGenerationSettings.from_generation_config(GenerationConfig(), config)
    assert settings == AudioGenerationSettings(audio_block_length=7)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"audio_block_length": 0}, "audio_block_length must be an integer of at least 1, got 0"),
        ({"audio_block_length": 2.5}, "audio_block_length must be an integer"),
        ({"audio_steps_per_block": 0}, "audio_steps_per_block must be an integer of at least 1"),
        ({"audio_steps_per_block": True}, "audio_steps_per_block must be an integer"),
        ({"audio_max_span_length": -3}, "audio_max_span_length must be an integer of at least 1"),
        ({"min_text_tokens_after_audio": -1}, "min_text_tokens_after_audio must be an integer of at least 0"),
        ({"audio_temperature": -0.1}, "audio_temperature must be a number of at least 0"),
        ({"audio_temperature": float("nan")}, "audio_temperature must be a number of at least 0"),
        ({"audio_cfg_scale": "much"}, "audio_cfg_scale must be a number of at least 0, got 'much'"),
        ({"audio_cfg_scale": float("inf")}, "audio_cfg_scale must be a number of at least 0"),
        ({"audio_confidence_threshold": 1.5}, "audio_confidence_threshold must be a number between 0 and 1"),
        ({"audio_entropy_bound": -1.5}, "audio_entropy_bound must be a number of at least 0"),
        ({"audio_remasking": "best"}, "audio_remasking must be one of low_confidence, random, entropy, margin"),
        ({"audio_vocabulary": "any"}, "audio_vocabulary must be one of modality, official"),
        ({"seed": -1}, "seed must be an integer of at least 0"),
        (
            {"audio_vocabulary": "official", "audio_block_length": 16, "audio_max_span_length": 60},
            "needs an audio_max_span_length that is a multiple of audio_block_length 16, got 60",
        ),
        ({"audio_blok_length": 4}, "audio_blok_length"),
        ({"num_beams": 4}, "num_beams=4 is not supported"),
        ({"penalty_alpha": 0.6, "top_k": 4}, "penalty_alpha=0.6 is not supported"),
        ({"prompt_lookup_num_tokens": 3}, "prompt_lookup_num_tokens=3 is not supported"),
        ({"guidance_scale": 1.5}, "guidance_scale=1.5 is not supported"),
        ({"cache_implementation": "offloaded"}, "cache_implementation='offloaded' is not supported"),
        ({"output_scores": True}, "output_scores=True is not supported"),
        ({"output_attentions": True}, "output_attentions=True is not supported"),
        ({"past_key_values": ()}, "not (past_key_values|cache)"),
        ({"position_ids": torch.arange(3)[None]}, "not position_ids"),
        ({"block_ids": torch.zeros(1, 3, dtype=torch.long)}, "not block_ids"),
        ({"inputs_embeds": torch.zeros(1, 3, 32)}, "not inputs_embeds"),
        ({"attention_mask": torch.ones(1, 4)}, r"attention_mask must have the shape of input_ids, \(1, 3\)"),
        ({"attention_mask": torch.zeros(1, 3)}, "prompt in row 0 is empty"),
        ({"synced_gpus": True}, "in step with other processes"),
        ({"eos_token_id": None}, None),
    ],
)
def test_bad_arguments_get_one_clear_sentence(kwargs: dict[str, Any], message: str | None, tiny_model: Models) -> None:
    model = tiny_model("qwen2")
    if message is None:
        model.generation_config.eos_token_id = None
        message = "needs an eos_token_id"
    with pytest.raises(ValueError, match=message) as caught:
        model.generate(torch.tensor([[5, 6, 7]]), max_new_tokens=4, **kwargs)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("input_ids", "message"),
    [
        (torch.empty(1, 0, dtype=torch.long), "prompt in row 0 is empty"),
        (torch.empty(2, 0, dtype=torch.long), "prompt in row 0 is empty"),
        (torch.tensor([[5, 64]]), "holds the id 64, outside the model's vocabulary of 64 tokens"),
        (torch.tensor([[5, 6], [-1, 6]]), "row 1 holds the id -1"),
        (torch.tensor([5, 6]), r"shape \(batch, length\)"),
        (torch.tensor([[5.0, 6.0]]), "must be integers"),
    ],
)
def test_bad_prompts_get_one_clear_sentence(input_ids: torch.Tensor, message: str, tiny_model: Models) -> None:
    with pytest.raises(ValueError, match=message):
        tiny_model("qwen2").generate(input_ids, max_new_tokens=4)


def test_models_that_cannot_open_spans_or_change_their_blocks_say_so(tiny_model: Models) -> None:
    with pytest.raises(ValueError, match=r"config\.begin_audio_token_ids is empty"):
        tiny_model("qwen2", begin_audio_token_ids=[]).generate(torch.tensor([[5]]), max_new_tokens=4)
    causal = tiny_model("qwen2", audio_attention="block_causal")
    with pytest.raises(ValueError, match="audio_block_length must stay 4"):
        causal.generate(torch.tensor([[5]]), max_new_tokens=4, audio_block_length=8)


def test_an_assistant_is_refused(tiny_model: Models) -> None:
    with pytest.raises(ValueError, match="assistant_model is not supported"):
        tiny_model("qwen2").generate(torch.tensor([[5]]), max_new_tokens=4, assistant_model=tiny_model("qwen2"))


@pytest.mark.parametrize("method", ["PromptTuningConfig", "PrefixTuningConfig", "PromptEncoderConfig"])
def test_adapters_by_prompt_learning_are_refused_and_lora_is_not(method: str, tiny_model: Models) -> None:
    peft = pytest.importorskip("peft")
    prompt = torch.tensor([[5, 6, 7]])
    config = getattr(peft, method)(task_type="CAUSAL_LM", num_virtual_tokens=2)
    with pytest.raises(ValueError, match="cannot use the virtual tokens of an adapter by prompt learning"):
        peft.get_peft_model(tiny_model("qwen2"), config).generate(input_ids=prompt, max_new_tokens=4)
    # A new LoRA adapter changes nothing.
    lora = peft.get_peft_model(tiny_model("qwen2"), peft.LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"]))
    expected = tiny_model("qwen2").generate(prompt, max_new_tokens=4)
    assert torch.equal(lora.generate(input_ids=prompt, max_new_tokens=4), expected)


def test_a_given_max_length_comes_before_the_checkpoints_max_new_tokens(tiny_model: Models) -> None:
    model, prompt = tiny_model("qwen2"), torch.tensor([[5, 6, 7]])
    model.generation_config.max_new_tokens = 20
    keys = {"suppress_tokens": [0, 36, 37]}
    assert model.generate(prompt, max_length=8, **keys).shape[1] == 8
    config = GenerationConfig(max_length=9, eos_token_id=0, pad_token_id=1, **keys)
    assert model.generate(prompt, generation_config=config).shape[1] == 9
    # What is given as a number of new tokens still comes first, as in transformers.
    assert model.generate(prompt, max_length=8, max_new_tokens=3, **keys).shape[1] == 6
    assert model.generate(prompt, **keys).shape[1] == 23
    with pytest.raises(ValueError, match="max_length"):
        model.generate(prompt, max_length=2, **keys)


def test_what_transformers_callers_pass_works_or_has_a_sentence_of_its_own(tiny_model: Models) -> None:
    model, prompt = tiny_model("qwen2"), torch.tensor([[5, 6, 7]])
    expected = model.generate(prompt, max_new_tokens=4)
    assert torch.equal(model.generate(prompt, max_new_tokens=4, logits_to_keep=1), expected)
    # Seq2SeqTrainer with predict_with_generate passes the whole sample.
    with pytest.raises(ValueError, match="generate\\(\\) takes prompts, and a sample with labels holds its reply"):
        model.generate(prompt, max_new_tokens=4, labels=prompt)
    with pytest.raises(NotImplementedError, match=r"generate_batch\) cannot decode audio"):
        model.generate_batch([prompt[0].tolist()])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("prompt", [[5, 6, 7], [5, 6, 36]], ids=["text", "audio"])
@pytest.mark.parametrize("sampled", [False, True])
def test_damaged_weights_do_not_talk(prompt: list[int], value: float, sampled: bool, tiny_model: Models) -> None:
    model = tiny_model("qwen2")
    # The rows of one text token and of one code in the output layer.
    keys = {"do_sample": sampled, "audio_temperature": float(sampled), "max_new_tokens": 4}
    with torch.no_grad():
        model.lm_head.weight[[9, 45]] = value
    with pytest.raises(ValueError, match="logits are not finite numbers"):
        model.generate(torch.tensor([prompt]), **keys)
