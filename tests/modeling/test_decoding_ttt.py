"""Why a row ended: by itself, at a limit, or interrupted."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import StoppingCriteriaList

from ttt_hf.modeling import AudioSegment, InterruptCriteria, TtTForConditionalGeneration


Models = Callable[..., TtTForConditionalGeneration]

# The small models' ids: 0 ends a row, 36 and 37 open a span, 58 and 59 close one.
ENDS_AT_ONCE = {"sequence_bias": {(0,): 99.0}}
TEXT_ONLY = {"suppress_tokens": [0, 1, 36, 37]}


def reasons(model: TtTForConditionalGeneration, rows: list[list[int]], **kwargs: Any) -> list[str]:
    width = max(map(len, rows))
    inputs = {
        "input_ids": torch.tensor([[1] * (width - len(row)) + row for row in rows]),
        "attention_mask": torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows]),
    }
    keys = {"max_new_tokens": 12, "audio_steps_per_block": 2, **kwargs}
    return model.generate(**inputs, **keys, return_dict_in_generate=True).finish_reason


def test_a_row_that_ends_itself_has_stopped(tiny_model: Models) -> None:
    model = tiny_model("qwen2")
    assert reasons(model, [[5, 6, 7]], **ENDS_AT_ONCE) == ["stop"]
    # Also with the last token that is allowed.
    assert reasons(model, [[5, 6, 7]], max_new_tokens=1, **ENDS_AT_ONCE) == ["stop"]


@pytest.mark.parametrize("limit", [{"max_new_tokens": 4}, {"max_new_tokens": None, "max_length": 8}])
def test_limits_of_the_row(limit: dict[str, Any], tiny_model: Models) -> None:
    assert reasons(tiny_model("qwen2"), [[5, 6, 7]], **TEXT_ONLY, **limit) == ["length"]


def test_the_context_is_a_limit(tiny_model: Models) -> None:
    model = tiny_model("qwen2", text={"max_position_embeddings": 16})
    assert reasons(model, [[5, 6, 7]], **{**TEXT_ONLY, "max_new_tokens": 50}) == ["length"]


def test_a_text_that_repeats_itself_ends(tiny_model: Models) -> None:
    model = tiny_model("qwen2")
    cycle, keys = [5, 6, 7], {"max_new_tokens": 40, "return_dict_in_generate": True}

    def loop(row: int, ids: torch.Tensor) -> list[int]:
        # Four other tokens, then the cycle.
        return [8 + len(ids) - 2] if len(ids) < 6 else [cycle[len(ids) % 3]]

    def reply(limit: int | None, allowed: Callable[[int, torch.Tensor], list[int]] = loop) -> Any:
        return model.generate(
            torch.tensor([[5, 6]]), prefix_allowed_tokens_fn=allowed, text_repetition_limit=limit, **keys
        )

    assert reply(None).finish_reason == ["length"]
    ended = reply(15)
    assert ended.finish_reason == ["repetition"]
    assert ended.sequences[0].tolist() == reply(None).sequences[0, : 2 + 4 + 15].tolist()
    # Four copies are not within 11 tokens, so that this cycle is not looked for.
    assert reply(11).finish_reason == ["length"]
    # A token that is said often, but never for so long, is no loop.
    words = [5, 5, 5, 5, 5, 5, 5, 6, 8, 9, 5, 5, 5, 5, 5, 5, 5, 10, 11, 12]
    assert reply(8, lambda row, ids: [words[len(ids) % 20]]).finish_reason == ["length"]
    assert reply(7, lambda row, ids: [words[len(ids) % 20]]).finish_reason == ["repetition"]


@pytest.mark.parametrize("limit", [3, 2.5, True, -1])
def test_a_repetition_has_at_least_four_copies(limit: Any, tiny_model: Models) -> None:
    with pytest.raises(ValueError, match="text_repetition_limit must be an integer of at least 4"):
        reasons(tiny_model("qwen2"), [[5, 6, 7]], text_repetition_limit=limit)


def test_a_span_that_is_cut_counts_although_the_row_ends_itself(tiny_model: Models) -> None:
    model = tiny_model("qwen2")
    keys = {**ENDS_AT_ONCE, "max_new_tokens": 40, "return_dict_in_generate": True, "audio_steps_per_block": 2}

    def reply(longest: int) -> Any:
        return model.generate(torch.tensor([[5, 6, 36]]), audio_max_span_length=longest, **keys)

    cut = reply(3)
    assert cut.sequences[0, -1] == 0
    assert [segment.complete for segment in cut.segments[0]] == [True]
    assert cut.finish_reason == ["length"]
    # One that finds its own end within the limit.
    whole = next(out for out in map(reply, range(4, 30)) if out.finish_reason == ["stop"])
    assert whole.sequences[0, -1] == 0
    assert whole.sequences[0, -2] in (58, 59)


def test_rows_of_a_batch_have_their_own_reasons(tiny_model: Models) -> None:
    model = tiny_model("qwen2")

    def end_of_the_first(row: int, ids: torch.Tensor) -> list[int]:
        return [0] if row == 0 else [5, 6, 7]

    found = reasons(model, [[5, 6, 7], [5, 6]], prefix_allowed_tokens_fn=end_of_the_first)
    assert found == ["stop", "length"]


def test_criteria_and_time_interrupt(tiny_model: Models) -> None:
    model = tiny_model("qwen2")
    interrupt = InterruptCriteria()
    interrupt.event.set()
    assert reasons(model, [[5, 6, 7]], stopping_criteria=StoppingCriteriaList([interrupt])) == ["interrupted"]
    assert reasons(model, [[5, 6, 7]], max_time=0.0) == ["interrupted"]
    # A row that has ended itself at the same forward was not interrupted.
    assert reasons(model, [[5, 6, 7]], stopping_criteria=StoppingCriteriaList([interrupt]), **ENDS_AT_ONCE) == ["stop"]


def test_an_interrupted_span_is_incomplete(tiny_model: Models) -> None:
    interrupt = InterruptCriteria()
    interrupt.event.set()
    out = tiny_model("qwen2").generate(
        torch.tensor([[5, 6, 36]]),
        max_new_tokens=20,
        audio_steps_per_block=2,
        stopping_criteria=StoppingCriteriaList([interrupt]),
        return_dict_in_generate=True,
    )
    assert out.finish_reason == ["interrupted"]
    (segment,) = out.segments[0]
    assert isinstance(segment, AudioSegment)
    assert not segment.complete
