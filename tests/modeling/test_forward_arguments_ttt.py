"""Arguments of `forward()` that contradict each other, are not supported, or may be left out."""

import pytest
import torch


# text, a user span, text, a response span of 6 codes and its end, text
CLEAN = [2, 36, 41, 43, 44, 38, 5, 6, 36, 42, 50, 45, 46, 56, 41, 58, 7, 9, 0]


def test_contradicting_arguments_are_one_sentence(tiny_model):
    model = tiny_model()
    ids = torch.tensor([CLEAN])
    embeddings = model.get_input_embeddings()(ids)
    order = torch.arange(len(CLEAN))[None]
    cases = [
        ({}, "either input_ids or inputs_embeds"),
        ({"input_ids": ids, "inputs_embeds": embeddings}, "either input_ids or inputs_embeds"),
        ({"inputs_embeds": embeddings, "labels": ids}, "inputs_embeds need block_ids where labels hold audio"),
        ({"input_ids": ids, "order_ids": order}, "order_ids needs position_ids and horizon_ids"),
        (
            {"input_ids": ids, "order_ids": order, "position_ids": order},
            "order_ids needs position_ids and horizon_ids",
        ),
        ({"input_ids": ids, "attention_mask": torch.ones(1, 3)}, "attention_mask must cover"),
    ]
    for arguments, message in cases:
        with pytest.raises(ValueError, match=message) as raised:
            model(**arguments)
        assert "\n" not in str(raised.value)


def test_embeddings_without_block_ids_are_those_of_text(tiny_model):
    model = tiny_model()
    text = torch.tensor([[5, 9, 12, 30, 7]])
    embeddings = model.get_input_embeddings()(text)
    with torch.no_grad():
        out = model(inputs_embeds=embeddings, use_cache=True)
        assert torch.equal(out.logits, model(text).logits)
        assert model(inputs_embeds=embeddings, labels=text).loss == model(text, labels=text).loss
        # After a cache, too.
        first = model(inputs_embeds=embeddings[:, :2], use_cache=True)
        rest = model(inputs_embeds=embeddings[:, 2:], cache=first.cache).logits
    assert torch.allclose(rest, out.logits[:, 2:], atol=1e-5)


def test_targets_of_sequence_parallelism_are_refused(tiny_model):
    ids = torch.tensor([[2, 3, 4]])
    with pytest.raises(ValueError, match="shift_labels"):
        tiny_model()(ids, labels=ids, shift_labels=ids.roll(-1, 1))
