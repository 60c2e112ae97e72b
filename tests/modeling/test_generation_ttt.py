"""generate(): the official algorithm id for id, exactness of cache, batch and padding, limits, sampling."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, LogitsProcessorList, PreTrainedTokenizerFast
from transformers.generation import LogitsProcessor

from ttt_hf.modeling import TtTForConditionalGeneration
from ttt_hf.modeling.decoding_ttt import AudioSegment, TextSegment
from ttt_hf.modeling.generation_ttt import TtTGenerateOutput


GOLDEN_DIR = Path(__file__).parents[1] / "golden" / "official-ttt"
GOLDEN = {case["name"]: case for case in json.loads((GOLDEN_DIR / "generation.json").read_text("utf-8"))["cases"]}
OFFICIAL_DEFAULTS = {"eos_token_id": 500, "pad_token_id": 510, "audio_vocabulary": "official"}

# The small models' ids, see tiny_config.
BEGINS, ENDS, START, MASK, CODES = [36, 37], [58, 59], 40, 57, range(41, 57)
TINY: dict[str, Any] = {
    "max_new_tokens": 40,
    "audio_steps_per_block": 3,
    "audio_max_span_length": 10,
    "return_dict_in_generate": True,
}

Models = Callable[..., TtTForConditionalGeneration]


def prompts(count: int, seed: int = 0, high: int = 36) -> list[list[int]]:
    """Text prompts of different lengths; every third one opens a span."""
    source = torch.Generator().manual_seed(seed)
    made = []
    for index in range(count):
        length = int(torch.randint(3, 12, (1,), generator=source))
        ids = torch.randint(2, high, (length,), generator=source).tolist()
        made.append([*ids[:-1], BEGINS[index % 2]] if index % 3 == 2 else ids)
    return made


def batch(rows: list[list[int]], side: str = "left", pad: int = 1) -> dict[str, torch.Tensor]:
    """Pads prompts to one length."""
    width = max(map(len, rows))
    pads = [[pad] * (width - len(row)) for row in rows]
    ids = [fill + row if side == "left" else row + fill for fill, row in zip(pads, rows)]
    masks = [
        [0] * len(fill) + [1] * len(row) if side == "left" else [1] * len(row) + [0] * len(fill)
        for fill, row in zip(pads, rows)
    ]
    return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(masks)}


def alone(model: TtTForConditionalGeneration, row: list[int], **kwargs: Any) -> TtTGenerateOutput:
    return model.generate(torch.tensor([row]), **kwargs)


def row_ids(out: TtTGenerateOutput, row: int, length: int, pad: int = 1) -> list[int]:
    """The ids of a row whose length is known; what follows has to be padding."""
    ids = out.sequences[row].tolist()
    assert all(token == pad for token in ids[length:])
    return ids[:length]


def described(segments: list[TextSegment | AudioSegment]) -> list[Any]:
    return [
        segment.token_ids if isinstance(segment, TextSegment) else (segment.codes.tolist(), segment.complete)
        for segment in segments
    ]


@torch.no_grad()
def plain_generate(
    model: TtTForConditionalGeneration,
    prompt: list[int],
    new_tokens: int,
    block: int,
    steps: int,
    span: int,
    cfg_scale: float = 0.0,
) -> tuple[list[int], int]:
    """The modality algorithm with neither cache nor batch: ids and number of forwards."""
    ids, limit, forwards = list(prompt), len(prompt) + new_tokens, 0
    opener = ids[-1] if ids[-1] in BEGINS else None
    span_start = len(ids)
    while len(ids) < limit:
        if opener is None:
            forwards += 1
            logits = model(torch.tensor([ids])).logits[0, -1, :START]
            ids.append(int(logits.argmax()))
            if ids[-1] == 0:
                break
            if ids[-1] in BEGINS:
                opener, span_start = ids[-1], len(ids)
            continue
        used = len(ids) - span_start
        length = min(block, span - used, limit - len(ids))
        canvas = torch.full((length,), MASK)
        taken = min(steps, length)
        for step in range(taken):
            forwards += 1
            logits = model(torch.tensor([ids + canvas.tolist()])).logits[0, -length:]
            if cfg_scale:
                blind = model(torch.tensor([[MASK] * len(ids) + canvas.tolist()])).logits[0, -length:]
                logits = blind + (cfg_scale + 1) * (logits - blind)
            allowed = torch.full_like(logits, -torch.inf)
            columns = [*CODES, *ENDS]
            allowed[:, columns] = logits[:, columns]
            confidence, choice = allowed.softmax(-1).max(-1)
            confidence[canvas != MASK] = -1
            for position in confidence.topk(length // taken + (step < length % taken)).indices:
                canvas[position] = choice[position]
            # What follows an end marker is dropped: the block is ready when everything up to it is.
            end = next((index for index, token in enumerate(canvas.tolist()) if token in ENDS), length)
            if MASK not in canvas[:end]:
                break
        filled = canvas.tolist()
        end = next((index for index, token in enumerate(filled) if token in ENDS), None)
        if end is not None:
            filled = filled[: end + 1]
        elif used + length == span:
            filled[-1] = ENDS[BEGINS.index(opener)]
        ids += filled
        if filled[-1] in ENDS:
            opener = None
    return ids, forwards


@pytest.mark.parametrize("name", GOLDEN)
def test_official_generations_come_out_id_for_id(
    name: str, golden_models: dict[str, TtTForConditionalGeneration]
) -> None:
    case = GOLDEN[name]
    args = case["args"]
    blocks = args["diffusion_gen_length"] // args["block_length"]
    out = golden_models[case["weights"]].generate(
        torch.tensor([case["prompt"]]),
        max_new_tokens=args["max_gen_len"],
        audio_block_length=args["block_length"],
        audio_steps_per_block=args["diffusion_steps"] // blocks,
        audio_max_span_length=args["diffusion_gen_length"],
        audio_cfg_scale=args["cfg_scale"],
        min_text_tokens_after_audio=args["min_text_tokens_after_audio"],
        return_dict_in_generate=True,
        **OFFICIAL_DEFAULTS,
    )
    assert out.sequences[0].tolist() == case["output"]
    assert out.num_forward_passes.tolist() == [case["forwards"]["total"]]

    # The segments tell the same story as the golden file: text made by AR steps, codes made in spans.
    spans = case["new_token_span_id"]
    text = [token for token, span in zip(case["new_tokens"], spans) if span == -1 and token < 511]
    codes = [token - 512 for token, span in zip(case["new_tokens"], spans) if span != -1 and 512 <= token < 632]
    told_text = [token for piece in out.segments[0] if isinstance(piece, TextSegment) for token in piece.token_ids]
    told_codes = [
        code for piece in out.segments[0] if isinstance(piece, AudioSegment) for code in piece.codes.tolist()
    ]
    assert told_text == [token for token in text if token not in (500, 501, 502, 510)]
    assert told_codes == codes


@pytest.mark.parametrize("attention", ["span", "block_causal"])
@pytest.mark.parametrize(("backbone", "seed"), [("qwen2", 0), ("qwen3", 1), ("llama", 1)])
def test_cached_generation_equals_a_plain_uncached_one(
    attention: str, backbone: str, seed: int, tiny_model: Models
) -> None:
    model = tiny_model(backbone, seed=seed, audio_attention=attention)
    for index, prompt in enumerate(prompts(3, seed)):
        cfg_scale = 0.7 * (index == 2)
        expected, forwards = plain_generate(model, prompt, 40, 4, 3, 10, cfg_scale)
        out = alone(model, prompt, audio_cfg_scale=cfg_scale, **TINY)
        assert out.sequences[0].tolist() == expected
        assert out.num_forward_passes.tolist() == [forwards]


def test_generation_without_cache_is_the_same(tiny_model: Models) -> None:
    model = tiny_model("qwen3", seed=1)
    for prompt in prompts(3)[1:]:
        assert torch.equal(
            alone(model, prompt, **TINY).sequences, alone(model, prompt, use_cache=False, **TINY).sequences
        )


def test_audio_in_the_prompt_is_read_as_by_the_model(tiny_model: Models) -> None:
    for attention in ("span", "block_causal"):
        model = tiny_model("qwen2", audio_attention=attention)
        # User audio closed by text, an echo of it that ends the prompt, and a prompt that is audio throughout.
        for prompt in ([5, 36, *range(41, 52), 38, 7, 8], [5, 36, *range(41, 52), 58], list(range(41, 50))):
            ids = alone(model, prompt, **{**TINY, "max_new_tokens": 20}).sequences[0].tolist()
            assert ids == plain_generate(model, prompt, 20, 4, 3, 10)[0]


@pytest.mark.parametrize("vocabulary", ["modality", "official"])
def test_a_row_in_a_mixed_batch_is_the_row_alone(
    vocabulary: str, golden_models: dict[str, TtTForConditionalGeneration]
) -> None:
    model = golden_models["tied"]
    rows = [*[GOLDEN[name]["prompt"] for name in sorted(GOLDEN)[:7]], [7, 300, 501]]
    kwargs: dict[str, Any] = {
        **OFFICIAL_DEFAULTS,
        "eos_token_id": [500, *range(100, 140)],
        "audio_vocabulary": vocabulary,
        "max_new_tokens": 48,
        "audio_block_length": 8,
        "audio_steps_per_block": 4,
        "audio_max_span_length": 24,
        "return_dict_in_generate": True,
    }
    together = model.generate(**batch(rows, pad=510), **kwargs)
    lengths, modes = set(), set()
    for index, row in enumerate(rows):
        single = alone(model, row, **kwargs)
        ids = single.sequences[0].tolist()
        assert row_ids(together, index, len(ids), pad=510) == ids
        assert described(together.segments[index]) == described(single.segments[0])
        assert together.num_forward_passes[index] == single.num_forward_passes[0]
        lengths.add(len(ids) - len(row))
        modes |= {type(segment) for segment in single.segments[0]}
    # The batch was a mixed one: rows end at different times and do different things.
    assert len(lengths) > 2
    assert modes == {TextSegment, AudioSegment}


def test_guided_rows_of_a_mixed_batch_are_the_rows_alone(tiny_model: Models) -> None:
    model, rows = tiny_model("qwen3", seed=1), prompts(4)
    together = model.generate(**batch(rows), audio_cfg_scale=0.5, **TINY)
    for index, row in enumerate(rows):
        ids = alone(model, row, audio_cfg_scale=0.5, **TINY).sequences[0].tolist()
        assert row_ids(together, index, len(ids)) == ids


def test_padding_side_does_not_matter(tiny_model: Models, caplog: pytest.LogCaptureFixture) -> None:
    model, rows = tiny_model("qwen2"), prompts(4)
    left, right = (model.generate(**batch(rows, side), **TINY) for side in ("left", "right"))
    # Pads are also found without a mask, as transformers does, where the pad token is none of the end tokens.
    found = model.generate(batch(rows)["input_ids"], **TINY)
    assert torch.equal(left.sequences, right.sequences)
    assert torch.equal(left.sequences, found.sequences)
    for index, row in enumerate(rows):
        ids = alone(model, row, **TINY).sequences[0].tolist()
        assert row_ids(left, index, len(ids)) == ids
    scattered = {
        "input_ids": torch.tensor([[1, *rows[0], 1]]),
        "attention_mask": torch.tensor([[0, *[1] * len(rows[0]), 0]]),
    }
    assert torch.equal(model.generate(**scattered, **TINY).sequences, alone(model, rows[0], **TINY).sequences)


class FavourRecentTokens(LogitsProcessor):
    """A user's processor that depends on where the prompt ends in what it is shown."""

    def __init__(self, width: int):
        self.width = width

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        scores = scores.clone()
        scores[:, 5 + (input_ids.shape[1] - self.width) % 7] += 2.5
        return scores


@pytest.mark.parametrize("backbone", ["qwen2", "qwen3", "llama"])
def test_text_generation_equals_the_backbones_own(backbone: str, tiny_model: Models) -> None:
    model = tiny_model(backbone, seed=2)
    text_model = AutoModelForCausalLM.from_config(model.config.text_config).eval()
    text_model.load_state_dict(model.state_dict())
    rows = [row[:-1] for row in prompts(4, seed=3)]
    inputs = batch(rows)
    width = inputs["input_ids"].shape[1]
    variants: list[dict[str, Any]] = [
        {},
        {"max_new_tokens": 1},
        {"repetition_penalty": 1.7},
        {"min_new_tokens": 9, "no_repeat_ngram_size": 2},
        {"bad_words_ids": [[7], [9, 11]], "forced_eos_token_id": 0},
        {"do_sample": True, "top_k": 1},
        {"do_sample": True, "temperature": 0.7, "top_p": 1e-4},
        {"sequence_bias": {(8,): 1.5, (9, 11): -3.0}},
        {"exponential_decay_length_penalty": (3, 1.2), "renormalize_logits": True},
        {"begin_suppress_tokens": list(range(2, 20))},
        {"logits_processor": LogitsProcessorList([FavourRecentTokens(width)])},
        {"prefix_allowed_tokens_fn": lambda row, ids: list(range(2 + row, 30)) if len(ids) % 2 else list(range(35))},
        {"eos_token_id": [0, 12, 14]},
    ]
    stopped_early = 0
    for variant in variants:
        shared = {"max_new_tokens": 12, "do_sample": False, **variant}
        theirs = text_model.generate(**inputs, suppress_tokens=[*BEGINS, *range(START, 64)], **shared)
        ours = model.generate(**inputs, suppress_tokens=BEGINS, return_dict_in_generate=True, **shared)
        for index, row in enumerate(rows):
            expected = theirs[index, width - len(row) :].tolist()
            length = len(expected)
            # Theirs is padded to the longest row, ours to the longest sum of prompt and new tokens.
            ids = ours.sequences[index].tolist()
            shorter = min(length, len(ids))
            assert ids[:shorter] == expected[:shorter], variant
            assert set(ids[shorter:] + expected[shorter:]) <= {1}, variant
            stopped_early += expected[-1] == 1
    assert stopped_early > 0


def test_processors_that_read_the_prompt_see_no_padding(tiny_model: Models) -> None:
    model, rows = tiny_model("llama", seed=2), prompts(3, seed=3)
    keys = {"encoder_repetition_penalty": 1.3, "encoder_no_repeat_ngram_size": 2, "max_new_tokens": 12}
    text_model = AutoModelForCausalLM.from_config(model.config.text_config).eval()
    text_model.load_state_dict(model.state_dict())
    together = model.generate(**batch(rows), suppress_tokens=BEGINS, **keys)
    for index, row in enumerate(rows[:2]):
        suppressed = [*BEGINS, *range(START, 64)]
        expected = text_model.generate(torch.tensor([row]), suppress_tokens=suppressed, **keys)[0].tolist()
        assert together[index, : len(expected)].tolist() == expected


def test_stop_strings_work_as_in_the_backbone(tiny_model: Models) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    # transformers measures tokens behind the word "abcdef".
    vocabulary = {f"w{index:02d}": index for index in range(63)} | {"abcdef": 63}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="w00"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words)
    model, row = tiny_model("qwen2", seed=2), prompts(1, seed=3)[0]
    text_model = AutoModelForCausalLM.from_config(model.config.text_config).eval()
    text_model.load_state_dict(model.state_dict())
    shared = {"max_new_tokens": 12, "min_new_tokens": 12, "suppress_tokens": [*BEGINS, *range(START, 64)]}
    free = text_model.generate(torch.tensor([row]), **shared)[0].tolist()
    stop = {"stop_strings": [f"w{free[len(row) + 4]:02d}"], "tokenizer": tokenizer}
    theirs = text_model.generate(torch.tensor([row]), **shared, **stop)
    assert len(row) < theirs.shape[1] < len(free)
    ours = model.generate(torch.tensor([row]), **shared, **stop, return_dict_in_generate=True)
    assert torch.equal(ours.sequences, theirs)
    # An end that the caller has defined is no interruption.
    assert ours.finish_reason == ["stop"]
    with pytest.raises(ValueError, match="tokenizer"):
        model.generate(torch.tensor([row]), stop_strings=["w05"])


@pytest.mark.parametrize("seed", range(4))
def test_limits_are_never_overshot_and_vocabularies_kept(seed: int, tiny_model: Models) -> None:
    model = tiny_model(["qwen2", "qwen3", "llama"][seed % 3], seed=seed)
    source = torch.Generator().manual_seed(seed)
    cut = completed = 0
    for _ in range(6):
        new_tokens, span, block, steps = (
            int(torch.randint(low, high, (1,), generator=source)) for low, high in ((1, 30), (1, 14), (1, 9), (1, 6))
        )
        rows = prompts(3, int(torch.randint(100, (1,), generator=source)))
        rows[0] = [*rows[0][:-1], 36]
        out = model.generate(
            **batch(rows),
            **{**TINY, "max_new_tokens": new_tokens, "audio_max_span_length": span, "audio_steps_per_block": steps},
            audio_block_length=block,
            do_sample=True,
            audio_temperature=1.0,
            seed=seed,
        )
        for index, row in enumerate(rows):
            ids = [token for token in out.sequences[index, len(row) :].tolist() if token != 1]
            told_ids = 0
            opener = row[-1] if row[-1] in BEGINS else None
            used = 0
            for position, token in enumerate(ids):
                if opener is None:
                    assert token < START
                    opener, used = (token, 0) if token in BEGINS else (None, 0)
                    continue
                used += 1
                assert token in CODES or token in ENDS
                if token in ENDS:
                    assert used <= span
                    opener = None
                else:
                    assert used < span or position == len(ids) - 1
            # Padding may also be drawn as text: it counts as a token, and is left out of ids and segments alike.
            assert out.sequences.shape[1] <= max(map(len, rows)) + new_tokens
            assert len(ids) <= new_tokens
            for segment in out.segments[index]:
                if isinstance(segment, AudioSegment):
                    assert all(0 <= code < 16 for code in segment.codes.tolist())
                    assert len(segment.codes) <= span - segment.complete
                    cut += not segment.complete
                    completed += segment.complete
                    told_ids += len(segment.codes) + segment.complete
                else:
                    assert segment.token_ids
                    assert not set(segment.token_ids) & {0, 1, *BEGINS}
                    told_ids += len(segment.token_ids)
            assert told_ids == len([token for token in ids if token != 0 and token not in BEGINS])
            assert all(segment.complete for segment in out.segments[index][:-1] if isinstance(segment, AudioSegment))
    assert cut > 0
    assert completed > 0


@pytest.mark.parametrize(("opener", "end"), [(36, 58), (37, 59)])
def test_a_span_that_reaches_its_limit_gets_the_end_marker_of_its_opener(
    opener: int, end: int, tiny_model: Models
) -> None:
    model = tiny_model("qwen2")
    # Codes only: no block can hold an end marker of its own accord.
    with torch.no_grad():
        model.lm_head.weight[ENDS] = 0
        model.lm_head.weight[41] *= 50
        model.lm_head.weight[42] = -model.lm_head.weight[41]
    out = alone(model, [5, 6, opener], **{**TINY, "audio_max_span_length": 6, "max_new_tokens": 8})
    assert out.sequences[0, 3 + 5] == end
    segment = out.segments[0][0]
    assert segment.complete
    assert len(segment.codes) == 5
    # The limit on new tokens comes first: the span just stops.
    short = alone(model, [5, 6, opener], **{**TINY, "audio_max_span_length": 6, "max_new_tokens": 5})
    assert short.sequences.shape[1] == 8
    assert described(short.segments[0]) == [(short.sequences[0, 3:].sub(41).tolist(), False)]


def test_an_opener_as_last_token_leaves_an_empty_incomplete_span(tiny_model: Models) -> None:
    model = tiny_model("qwen2")
    # After a text token the model may only open a span.
    suppress = [token for token in range(START) if token != 36]
    for vocabulary in ("modality", "official"):
        out = alone(
            model,
            [5, 6],
            **{**TINY, "max_new_tokens": 1, "audio_max_span_length": 8},
            suppress_tokens=[*suppress, *range(START, 64)],
            audio_vocabulary=vocabulary,
        )
        assert out.sequences[0].tolist() == [5, 6, 36]
        assert described(out.segments[0]) == [([], False)]


def test_an_end_marker_may_end_the_reply(tiny_model: Models) -> None:
    model = tiny_model("qwen2")
    kwargs = {**TINY, "audio_max_span_length": 6}
    free = alone(model, [5, 6, 36], **kwargs)
    ids = free.sequences[0].tolist()
    end = next(index for index, token in enumerate(ids) if token in ENDS)
    assert end < len(ids) - 1
    out = alone(model, [5, 6, 36], eos_token_id=[0, *ENDS], **kwargs)
    assert out.sequences[0].tolist() == ids[: end + 1]
    assert described(out.segments[0]) == described(free.segments[0])[:1]


def test_shrunk_blocks_take_no_empty_steps(tiny_model: Models) -> None:
    out = alone(tiny_model("qwen2"), [5, 36], **{**TINY, "max_new_tokens": 2, "audio_steps_per_block": 30})
    assert out.num_forward_passes.tolist() == [2]


# Values that commit nothing beyond the schedule, and all at once.
@pytest.mark.parametrize(
    ("key", "none", "everything"), [("audio_entropy_bound", 0.0, 1000.0), ("audio_confidence_threshold", 1.0, 0.0)]
)
def test_committing_early_saves_steps_only(key: str, none: float, everything: float, tiny_model: Models) -> None:
    model = tiny_model("qwen3", seed=1)
    row = [5, 9, 36]
    kwargs = {**TINY, "max_new_tokens": 8, "audio_max_span_length": 8, "audio_steps_per_block": 4}
    scheduled = alone(model, row, **kwargs)
    assert torch.equal(alone(model, row, **{key: none}, **kwargs).sequences, scheduled.sequences)
    at_once = alone(model, row, **{key: everything}, **kwargs)
    one_step = alone(model, row, **{**kwargs, "audio_steps_per_block": 1})
    assert torch.equal(at_once.sequences, one_step.sequences)
    assert at_once.num_forward_passes.tolist() == one_step.num_forward_passes.tolist()
    assert at_once.num_forward_passes[0] < scheduled.num_forward_passes[0]


def test_the_official_algorithm_keeps_its_schedule(tiny_model: Models) -> None:
    model = tiny_model("qwen3", seed=1)
    kwargs = {**TINY, "audio_vocabulary": "official", "audio_block_length": 8, "audio_max_span_length": 8}
    kwargs |= {"max_new_tokens": 9, "sequence_bias": {(BEGINS[0],): 50.0}}
    scheduled = alone(model, [5, 9, 36], **kwargs)
    assert scheduled.num_forward_passes[0] > TINY["audio_steps_per_block"]
    # As in the generation_config.json of a checkpoint.
    model.generation_config.audio_entropy_bound = 1000.0
    model.generation_config.audio_confidence_threshold = 0.0
    again = alone(model, [5, 9, 36], **kwargs)
    assert torch.equal(again.sequences, scheduled.sequences)
    assert again.num_forward_passes.tolist() == scheduled.num_forward_passes.tolist()


@pytest.mark.parametrize("remasking", ["random", "entropy", "margin"])
def test_remasking_strategies_fill_every_block(remasking: str, tiny_model: Models) -> None:
    rows = prompts(3)
    out = tiny_model("qwen2").generate(**batch(rows), audio_remasking=remasking, seed=[1, 2, 3], **TINY)
    assert not (out.sequences == MASK).any()
    again = alone(tiny_model("qwen2"), rows[2], audio_remasking=remasking, seed=3, **TINY)
    assert row_ids(out, 2, again.sequences.shape[1]) == again.sequences[0].tolist()


def test_text_tokens_after_audio_are_enforced(tiny_model: Models) -> None:
    model = tiny_model("qwen2", seed=1)
    prompt = [4, 8, 36]
    kwargs = {**TINY, "sequence_bias": {(0,): 50.0}}
    assert [type(piece) for piece in alone(model, prompt, **kwargs).segments[0]] == [AudioSegment]
    _, text = alone(model, prompt, min_text_tokens_after_audio=5, suppress_tokens=BEGINS, **kwargs).segments[0]
    assert len(text.token_ids) == 5
