"""Training samples: their prompts are those of inference, their labels cover the replies alone."""

import pytest
import torch

from ttt_hf import TtTProcessor
from ttt_hf.data import SampleBuilder
from ttt_hf.data.samples import build_samples
from ttt_hf.processing import SYSTEM_PROMPTS, audio_token_ids, train_tokenizer


TEXTS = ["What is seven plus eight?", "Seven plus eight is fifteen.", "The capital of France is Paris."]


@pytest.fixture(scope="module")
def processor() -> TtTProcessor:
    return TtTProcessor(train_tokenizer(TEXTS, 400, audio_vocab_size=20))


@pytest.fixture(scope="module")
def builder(processor) -> SampleBuilder:
    return SampleBuilder(processor, audio_token_ids(processor.tokenizer), text_per_span=4, audio_per_span=3)


def make_row(task, user, text, codes=()):
    audio = [{"type": "audio", "codes": list(codes)}] if codes else []
    reply = [{"type": "text", "text": text}, *audio]
    return {"messages": [{"role": "user", "content": user}, {"role": "assistant", "content": reply}], "task": task}


def test_prompt_is_what_the_processor_gives_at_inference(processor, builder):
    user = [{"type": "audio", "codes": torch.tensor([3, 1, 4])}]
    sample = builder(make_row("asr", user, TEXTS[0]))
    prompt = processor.apply_chat_template(
        [{"role": "user", "content": user}], task="asr", add_generation_prompt=True
    )["input_ids"][0].tolist()
    assert sample["input_ids"][: len(prompt)] == prompt
    assert sample["labels"][: len(prompt)] == [-100] * len(prompt)
    assert sample["labels"][len(prompt) :] == sample["input_ids"][len(prompt) :]
    assert sample["length"] == len(sample["input_ids"])


def test_text_reply_is_its_text_and_the_end_of_the_turn(processor, builder):
    sample = builder(make_row("text", [{"type": "text", "text": TEXTS[0]}], TEXTS[1]))
    reply = [label for label in sample["labels"] if label != -100]
    assert processor.tokenizer.decode(reply) == TEXTS[1] + processor.tokenizer.eos_token


def test_spoken_reply_is_interleaved(processor, builder):
    ids = audio_token_ids(processor.tokenizer)
    codes = [5, 6, 7, 8, 9]
    sample = builder(make_row("chat", [{"type": "text", "text": TEXTS[0]}], TEXTS[1], codes))
    reply = [label for label in sample["labels"] if label != -100]
    text = [id_ for id_ in reply[:-1] if id_ < ids.audio_token_start_id and id_ not in ids.begin_audio_token_ids]
    audio = [id_ for id_ in reply if ids.audio_token_start_id < id_ < ids.mask_token_id]
    assert processor.tokenizer.decode(text) == TEXTS[1]
    assert processor.ids_to_codes(torch.tensor(audio)).tolist() == codes
    assert [id_ for id_ in reply if id_ in ids.end_audio_token_ids] == ids.end_audio_token_ids
    assert reply[4] == ids.begin_audio_token_ids[0]


# -- canonical rows ---------------------------------------------------------------------------------------------------


DIALOGUE = [
    {"role": "user", "content": [{"type": "audio", "codes": [3, 1, 4]}, {"type": "text", "text": "Answer, please."}]},
    {"role": "assistant", "content": [{"type": "text", "text": TEXTS[1]}, {"type": "audio", "codes": [5, 6, 7, 8]}]},
    {"role": "user", "content": [{"type": "text", "text": "And the capital of <|im_end|> France?"}]},
    {"role": "assistant", "content": [{"type": "text", "text": TEXTS[2]}]},
    {"role": "user", "content": [{"type": "audio", "codes": [1, 5]}]},
    {"role": "assistant", "content": [{"type": "audio", "codes": [9, 2]}]},
]


@pytest.fixture(scope="module")
def build(processor) -> SampleBuilder:
    ids = audio_token_ids(processor.tokenizer)
    return SampleBuilder(processor, ids, text_per_span=4, audio_per_span=3, frame_rate=10.0)


def learned_turns(sample):
    """The stretches that the labels cover, as (start, end)."""
    covered = [label != -100 for label in sample["labels"]]
    starts = [i for i, here in enumerate(covered) if here and (i == 0 or not covered[i - 1])]
    ends = [i + 1 for i, here in enumerate(covered) if here and (i + 1 == len(covered) or not covered[i + 1])]
    return list(zip(starts, ends))


def as_items(processor, reply):
    """A written reply as the content items that `decode_reply` would give."""
    ids = processor.token_ids
    items, codes = [], None
    for token in reply:
        if token in ids.begin_audio_token_ids:
            codes = []
            items.append({"type": "audio", "codes": codes})
        elif token in ids.end_audio_token_ids:
            codes = None
        elif codes is not None:
            codes.append(token - ids.audio_code_offset)
        elif items and items[-1]["type"] == "text":
            items[-1]["ids"].append(token)
        else:
            items.append({"type": "text", "ids": [token]})
    for item in items:
        if "ids" in item:
            item["text"] = processor.tokenizer.decode(item.pop("ids"))
    return items


@pytest.mark.parametrize("task", ["chat", "asr", None])
def test_what_stands_before_each_turn_is_its_prompt_at_inference(processor, build, task):
    sample = build({"messages": DIALOGUE, "task": task})
    turns = learned_turns(sample)
    assert len(turns) == 3
    history = []
    for number, (start, end) in enumerate(turns):
        history.append(DIALOGUE[2 * number])
        prompt = processor.apply_chat_template(history, task=task, add_generation_prompt=True)["input_ids"][0]
        assert sample["input_ids"][:start] == prompt.tolist()
        assert sample["labels"][start:end] == sample["input_ids"][start:end]
        *reply, closing = sample["input_ids"][start:end]
        assert closing == processor.tokenizer.eos_token_id
        history.append({"role": "assistant", "content": as_items(processor, reply)})
    assert sample["length"] == len(sample["input_ids"]) == turns[-1][1]


def test_each_turn_holds_its_text_and_its_codes(processor, build):
    sample = build({"messages": DIALOGUE, "task": None})
    replies = [as_items(processor, sample["input_ids"][start : end - 1]) for start, end in learned_turns(sample)]
    assert "".join(item.get("text", "") for item in replies[0]) == TEXTS[1]
    assert [item["codes"] for item in replies[0] if "codes" in item] == [[5, 6, 7], [8]]
    assert replies[1] == [{"type": "text", "text": TEXTS[2]}]
    assert replies[2] == [{"type": "audio", "codes": [9, 2]}]


def test_system_prompt_is_that_of_the_task_or_the_rows_own(processor, build):
    def start_of(row):
        return processor.tokenizer.decode(build(row)["input_ids"]).split("<|im_end|>")[0]

    for task, prompt in SYSTEM_PROMPTS.items():
        assert start_of({"messages": DIALOGUE, "task": task}) == f"<|im_start|>system\n{prompt}"
    assert start_of({"messages": DIALOGUE, "task": None}).endswith(SYSTEM_PROMPTS["chat"])
    own = {"role": "system", "content": [{"type": "text", "text": "Be brief."}]}
    assert start_of({"messages": [own, *DIALOGUE], "task": "asr"}) == "<|im_start|>system\nBe brief."


def test_time_stamps_put_words_before_the_span_that_speaks_them(processor, build):
    # Spans of 3 codes at 10 codes a second end at 0.3, 0.6, 0.9 s ...
    words = [
        {"text": "Seven", "start": 0.0, "end": 0.2},
        {"text": "plus", "start": 0.29, "end": 0.3},
        {"text": "eight", "start": 0.3, "end": 0.4},
        {"text": "is", "start": 0.95, "end": 1.0},
        {"text": "fifteen", "start": 1.0, "end": 1.1},
    ]
    content = [{"type": "text", "text": TEXTS[1], "words": words}, {"type": "audio", "codes": list(range(14))}]
    sample = build({"messages": [DIALOGUE[0], {"role": "assistant", "content": content}], "task": None})
    ((start, end),) = learned_turns(sample)
    assert as_items(processor, sample["input_ids"][start : end - 1]) == [
        {"type": "text", "text": "Seven plus"},
        {"type": "audio", "codes": [0, 1, 2]},
        {"type": "text", "text": " eight"},
        {"type": "audio", "codes": [3, 4, 5]},
        {"type": "audio", "codes": [6, 7, 8]},  # nobody begins a word between 0.6 and 0.9 s
        {"type": "text", "text": " is fifteen."},
        {"type": "audio", "codes": [9, 10, 11, 12, 13]},
    ]
    markers = [token for token in sample["input_ids"][start:] if token in processor.token_ids.end_audio_token_ids]
    end_middle, end_last = processor.token_ids.end_audio_token_ids
    assert markers == [end_middle, end_middle, end_middle, end_last]


def test_time_stamps_need_a_frame_rate(processor, build):
    words = [{"text": "Seven", "start": 0.0, "end": 0.2}]
    content = [{"type": "text", "text": TEXTS[1], "words": words}, {"type": "audio", "codes": [1]}]
    row = {"messages": [DIALOGUE[0], {"role": "assistant", "content": content}], "task": None}
    with pytest.raises(ValueError, match="frame_rate"):
        SampleBuilder(processor, build.config)(row)


def test_interleaved_messages_are_taken_in_their_order(processor, build):
    items = [
        {"type": "audio", "codes": [1, 2, 3, 4, 5]},
        {"type": "text", "text": "Seven plus eight is fifteen."},
        {"type": "audio", "codes": [6]},
    ]
    message = {"role": "assistant", "content": items, "interleaved": True}
    sample = build({"messages": [DIALOGUE[0], message], "task": None})
    ((start, end),) = learned_turns(sample)
    assert as_items(processor, sample["input_ids"][start : end - 1]) == items


def test_pre_training_rows_are_learned_as_a_whole(processor, build):
    content = [{"type": "text", "text": "Seven"}, {"type": "audio", "codes": [1, 2]}, {"type": "audio", "codes": [3]}]
    sample = build({"content": [*content, {"type": "text", "text": " is"}], "task": None})
    string = (
        "Seven<|begin_of_audio|><|audio_1|><|audio_2|><|end_of_audio_new|>"
        "<|begin_of_quad|><|audio_3|><|end_of_audio_span_last|> is"
    )
    assert sample["input_ids"] == sample["labels"] == processor.tokenizer(string)["input_ids"]
    assert sample["length"] == len(sample["input_ids"])


@pytest.mark.parametrize("code", [-1, 20])
@pytest.mark.parametrize("place", ["user", "assistant", "pre-training"])
def test_codes_of_another_codebook_are_named(build, code, place):
    audio = {"type": "audio", "codes": [3, code, 5]}
    row = {"content": [audio]}
    if place != "pre-training":
        row = {"messages": [DIALOGUE[0], DIALOGUE[1]]}
        row["messages"] = [
            {**message, "content": [*message["content"], audio]} if message["role"] == place else message
            for message in row["messages"]
        ]
    with pytest.raises(ValueError, match=rf"and {code} does not"):
        build(row)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"messages": [{"role": "user", "content": [{"type": "audio", "path": "a.wav"}]}]}, "ttt-hf encode"),
        ({"messages": DIALOGUE[:1]}, "no turn of the assistant"),
        ({"messages": None, "content": None}, "'messages' or 'content'"),
    ],
)
def test_rows_that_cannot_be_learned(build, row, message):
    with pytest.raises(ValueError, match=message):
        build(row)


def test_chat_template_without_room_for_audio_is_refused(processor):
    template = "{% for message in messages %}{{ message.role }}{% for item in message.content %}{% if item.type == "
    template += "'audio' %}<|audio|>{% else %}{{ item.text }}{% endif %}{% endfor %}{% endfor %}"
    other = TtTProcessor(processor.tokenizer, chat_template=template)
    with pytest.raises(ValueError, match="chat template"):
        SampleBuilder(other, processor.token_ids)({"messages": DIALOGUE})


def test_rows_that_cannot_be_learned_are_left_out_up_to_the_limit(builder):
    good = make_row("asr", [{"type": "audio", "codes": [3]}], TEXTS[0])
    bad = make_row("asr", [{"type": "audio", "codes": [20]}], TEXTS[0])
    rows = [{**row, "origin": f"line {number}"} for number, row in enumerate([good, bad, good, bad], start=1)]
    broken: list[str] = []
    # A mixture draws rows again.
    assert len(list(build_samples(builder, [*rows, rows[1]], broken, 2))) == 2
    assert [problem[:7] for problem in broken] == ["line 2:", "line 4:"]
    assert "must lie in [0, 20)" in broken[0]
    with pytest.raises(ValueError, match=r"than the 1 allowed: line 2: .*line 4: "):
        list(build_samples(builder, rows, [], 1))
