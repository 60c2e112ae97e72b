"""The collator: what its batches hold, and that the model meets in training exactly what it meets in inference."""

import pytest
import torch

from ttt_hf import TtTForConditionalGeneration
from ttt_hf.data import TtTDataCollator


MASK, END, END_LAST = 632, 633, 634
PROMPT = [10, 11, 12, 501, 520, 521, 522, 503, 13]
REPLY = [20, 21, 501, *range(530, 541), END, 22, 502, *range(550, 570), END_LAST, 500]
SAMPLE = {"input_ids": PROMPT + REPLY, "labels": [-100] * len(PROMPT) + REPLY}
SHORT = {"input_ids": PROMPT + [20, 500], "labels": [-100] * len(PROMPT) + [20, 500]}


@pytest.fixture
def collate(make_config):
    def run(samples, attention="span", block_length=8, **kwargs):
        return TtTDataCollator(make_config(attention, block_length), pad_token_id=0, **kwargs)(samples)

    return run


def canvases(batch, row=0):
    """The noised copies of a row: lists of positions in it, one a copy."""
    copies, noised = [], (batch["order_ids"][row] != torch.arange(batch["order_ids"].shape[1])).nonzero()[:, 0]
    for place in noised[batch["attention_mask"][row, noised] > 0].tolist():
        if not copies or batch["position_ids"][row, place] != batch["position_ids"][row, place - 1] + 1:
            copies.append([])
        copies[-1].append(place)
    return copies


def test_clean_part_is_the_sample_itself(collate):
    batch = collate([SAMPLE])
    length = len(SAMPLE["input_ids"])
    assert batch["input_ids"][0, :length].tolist() == SAMPLE["input_ids"]
    assert batch["labels"][0, :length].tolist() == SAMPLE["labels"]
    assert (batch["audio_loss_weights"][0, :length] == 0).all()


def test_only_response_audio_is_noised_once_a_copy(collate):
    batch = collate([SAMPLE], block_canvas=False, noise_copies=3)
    copies = canvases(batch)
    assert [len(copy) for copy in copies] == [12, 12, 12, 21, 21, 21]
    for copy in copies:
        positions = batch["position_ids"][0, copy]
        clean = torch.tensor(SAMPLE["input_ids"])[positions]
        read, target = batch["input_ids"][0, copy], batch["labels"][0, copy]
        masked = read == MASK
        assert masked.any()
        assert torch.equal(torch.where(masked, target, read), clean)
        assert (target[~masked] == -100).all()


def test_weights_of_a_sample_sum_to_one_when_there_is_no_filler(collate):
    batch = collate([SAMPLE, SHORT], block_canvas=False, noise_copies=2)
    sums = batch["audio_loss_weights"].sum(dim=1)
    assert sums[0] == pytest.approx(1.0) and sums[1] == 0


@pytest.mark.parametrize("seed", range(5))
def test_block_canvas_is_cut_like_the_canvas_of_inference(collate, seed):
    batch = collate([SAMPLE], seed=seed, noise_copies=2)
    for copy in canvases(batch):
        read, target = batch["input_ids"][0, copy], batch["labels"][0, copy]
        assert len(copy) % 8 == 0
        assert (read[:-8] != MASK).all() and (read[-8:] == MASK).any()
        full = torch.where(read == MASK, target, read)
        ends = (full >= END).nonzero()[:, 0]
        assert ends.numel() == 0 or (full[int(ends[0]) :] == full[-1]).all()


def test_copies_of_a_span_take_different_blocks(collate):
    batch = collate([SAMPLE], noise_copies=3)
    lengths = sorted(len(copy) for copy in canvases(batch))
    assert lengths == [8, 8, 16, 16, 16, 24] or lengths == [8, 8, 8, 16, 16, 24]


def test_block_causal_copy_noises_all_blocks(collate):
    batch = collate([SAMPLE], attention="block_causal")
    first, second = canvases(batch)
    assert (len(first), len(second)) == (16, 24)
    blocks = batch["block_ids"][0, second]
    assert [int((blocks == block).sum()) for block in blocks.unique()] == [8, 8, 8]


def test_same_seed_same_noise(collate):
    first, second, other = (collate([SAMPLE, SHORT], seed=seed) for seed in (3, 3, 4))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["labels"], other["labels"]) or first["labels"].shape != other["labels"].shape


def test_noise_levels_are_spread_over_the_batch(collate):
    batch = collate([SAMPLE] * 10, block_canvas=False)
    levels = batch["noise_levels"].amax(dim=1).sort().values
    assert torch.allclose(levels.diff(), torch.full((9,), 0.1), atol=2e-3)


@pytest.mark.parametrize("attention", ["span", "block_causal"])
@pytest.mark.parametrize("block_canvas", [True, False])
def test_training_meets_what_inference_meets(collate, make_config, attention, block_canvas):
    """Clean logits equal the clean sequence's own; a canvas' logits equal those of [clean prefix, this canvas]."""
    torch.manual_seed(0)
    model = TtTForConditionalGeneration(make_config(attention)).eval()
    batch = collate([SAMPLE, SHORT], attention=attention, block_canvas=block_canvas, noise_copies=2)
    inputs = {k: v for k, v in batch.items() if k not in ("labels", "audio_loss_weights", "noise_levels")}
    with torch.no_grad():
        logits = model(**inputs).logits
        clean = model(torch.tensor([SAMPLE["input_ids"]])).logits
        assert torch.allclose(logits[0, : clean.shape[1]], clean[0], atol=1e-4)
        assert torch.allclose(
            logits[1, : len(SHORT["input_ids"])], model(torch.tensor([SHORT["input_ids"]])).logits[0], atol=1e-4
        )
        for copy in canvases(batch):
            start = int(batch["position_ids"][0, copy[0]])
            canvas = batch["input_ids"][0, copy]
            prefix = torch.tensor(SAMPLE["input_ids"][:start])
            if attention == "span":
                alone = model(torch.cat([prefix, canvas])[None]).logits[0, start:]
                assert torch.allclose(logits[0, copy], alone, atol=1e-4)
                continue
            for block in range(0, len(copy), 8):  # blocks before this one are finished, that is clean
                finished = torch.tensor(SAMPLE["input_ids"])[start : start + block]
                noised = canvas[block : block + 8]
                alone = model(torch.cat([prefix, finished, noised])[None]).logits[0, start + block :]
                assert torch.allclose(logits[0, copy[block : block + 8]], alone, atol=1e-4)


def test_paper_objective_noises_in_place(collate):
    batch = collate([SAMPLE] * 4, objective="paper", clean_batch_probability=0.0, prefix_preservation=0.0)
    ids = torch.tensor(SAMPLE["input_ids"])
    assert batch["input_ids"].shape == (4, len(ids))
    masked = batch["input_ids"] == MASK
    assert masked.any() and torch.equal(torch.where(masked, ids, batch["input_ids"]), ids.expand(4, -1))
    expected = masked / batch["noise_levels"].clamp(min=1e-3) / 33  # 12 + 21 maskable tokens
    assert torch.allclose(batch["audio_loss_weights"], expected)


def test_paper_objective_leaves_batches_clean_with_the_given_probability(collate):
    batch = collate([SAMPLE] * 4, objective="paper", clean_batch_probability=1.0)
    assert (batch["input_ids"] == torch.tensor(SAMPLE["input_ids"])).all()
    assert (batch["audio_loss_weights"] == 0).all()


def test_prefix_preservation_keeps_spans_before_a_random_one(collate):
    kept = 0
    for seed in range(8):
        batch = collate([SAMPLE] * 4, objective="paper", clean_batch_probability=0, prefix_preservation=1.0, seed=seed)
        first_span = batch["audio_loss_weights"][:, len(PROMPT) + 3 : len(PROMPT) + 15]
        kept += int((first_span == 0).all(dim=1).sum())
    assert 8 <= kept <= 26  # half of 32 in expectation


def test_errors(collate):
    with pytest.raises(ValueError, match="objective"):
        collate([SAMPLE], objective="banana")
    with pytest.raises(ValueError, match="noise_copies"):
        collate([SAMPLE], noise_copies=0)
    with pytest.raises(ValueError, match="same length"):
        collate([{"input_ids": [1, 2], "labels": [1]}])
