"""Training samples: their prompts are those of inference, their labels cover the reply alone."""

import pytest
import torch

from ttt_hf import TtTProcessor
from ttt_hf.data import ChatExample, ChatSampleBuilder
from ttt_hf.processing import audio_token_ids, train_tokenizer


TEXTS = ["What is seven plus eight?", "Seven plus eight is fifteen.", "The capital of France is Paris."]


@pytest.fixture(scope="module")
def processor() -> TtTProcessor:
    return TtTProcessor(train_tokenizer(TEXTS, 400, audio_vocab_size=20))


@pytest.fixture(scope="module")
def builder(processor) -> ChatSampleBuilder:
    return ChatSampleBuilder(processor, audio_token_ids(processor.tokenizer), text_per_span=4, audio_per_span=3)


def test_prompt_is_what_the_processor_gives_at_inference(processor, builder):
    user = [{"type": "audio", "codes": torch.tensor([3, 1, 4])}]
    sample = builder(ChatExample("asr", user, TEXTS[0]))
    prompt = processor.apply_chat_template(
        [{"role": "user", "content": user}], task="asr", add_generation_prompt=True
    )["input_ids"][0].tolist()
    assert sample["input_ids"][: len(prompt)] == prompt
    assert sample["labels"][: len(prompt)] == [-100] * len(prompt)
    assert sample["labels"][len(prompt) :] == sample["input_ids"][len(prompt) :]
    assert sample["length"] == len(sample["input_ids"])


def test_text_reply_is_its_text_and_the_end_of_the_turn(processor, builder):
    sample = builder(ChatExample("text", [{"type": "text", "text": TEXTS[0]}], TEXTS[1]))
    reply = [label for label in sample["labels"] if label != -100]
    assert processor.tokenizer.decode(reply) == TEXTS[1] + processor.tokenizer.eos_token


def test_spoken_reply_is_interleaved(processor, builder):
    ids = audio_token_ids(processor.tokenizer)
    codes = [5, 6, 7, 8, 9]
    sample = builder(ChatExample("chat", [{"type": "text", "text": TEXTS[0]}], TEXTS[1], codes))
    reply = [label for label in sample["labels"] if label != -100]
    text = [id_ for id_ in reply[:-1] if id_ < ids.audio_token_start_id and id_ not in ids.begin_audio_token_ids]
    audio = [id_ for id_ in reply if ids.audio_token_start_id < id_ < ids.mask_token_id]
    assert processor.tokenizer.decode(text) == TEXTS[1]
    assert processor.ids_to_codes(torch.tensor(audio)).tolist() == codes
    assert [id_ for id_ in reply if id_ in ids.end_audio_token_ids] == ids.end_audio_token_ids
    assert reply[4] == ids.begin_audio_token_ids[0]
