"""The collator: what its batches hold, and that the model meets in training exactly what it meets in inference."""

import numpy as np
import pytest
import torch

from ttt_hf import TtTForConditionalGeneration
from ttt_hf.data import TtTDataCollator, pack_samples


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


class FixedNoise(TtTDataCollator):
    """Noise that follows from the sample alone, so that it does not depend on how samples are batched or packed."""

    def _noise(self, sample, levels, clean, rng):
        return super()._noise(sample, np.full(len(levels), 0.6), clean, np.random.default_rng(sample["input_ids"]))


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
    inputs = {k: v for k, v in batch.items() if k not in ("labels", "audio_loss_weights", "noise_levels", "draws")}
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


def test_ar_predicts_each_code_from_all_before_it_as_inference_does(collate, make_config):
    torch.manual_seed(0)
    model = TtTForConditionalGeneration(make_config("block_causal", 1)).eval()
    batch = collate([SAMPLE], "block_causal", 1, objective="ar")
    inputs = {k: v for k, v in batch.items() if k not in ("labels", "audio_loss_weights", "noise_levels", "draws")}
    ids = torch.tensor(SAMPLE["input_ids"])
    copies = canvases(batch)
    assert [len(copy) for copy in copies] == [12, 21]
    with torch.no_grad():
        logits = model(**inputs).logits
        for place in (place for copy in copies for place in copy):
            position = batch["position_ids"][0, place]
            assert batch["input_ids"][0, place] == MASK and batch["labels"][0, place] == ids[position]
            alone = model(torch.cat([ids[:position], torch.tensor([MASK])])[None]).logits[0, -1]
            assert torch.allclose(logits[0, place], alone, atol=1e-4)
    text = batch["labels"][0, : len(ids)]
    assert text.tolist() == SAMPLE["labels"]


@pytest.mark.parametrize("change", [{"attention": "span"}, {"block_length": 8}, {"noise_copies": 2}])
def test_ar_needs_a_model_that_speaks_code_by_code(collate, change):
    settings = {"attention": "block_causal", "block_length": 1, **change}
    with pytest.raises(ValueError, match="'ar'"):
        collate([SAMPLE], objective="ar", **settings)


@pytest.mark.parametrize("attention", ["span", "block_causal"])
def test_nar_noises_text_and_audio_of_a_reply_together(collate, make_config, attention):
    settings = {"objective": "nar", "noise_copies": 2, "complementary": True, "block_canvas": False}
    batch = collate([SAMPLE], attention, **settings)
    ids, size = torch.tensor(SAMPLE["input_ids"]), len(REPLY)
    assert (batch["labels"][0, : len(ids)] == -100).all()  # nothing is learned autoregressively
    copies = canvases(batch)
    assert [len(copy) for copy in copies] == [size, size]
    learned = [batch["labels"][0, copy] for copy in copies]
    assert torch.equal(torch.maximum(*learned), ids[len(PROMPT) :])  # the two together learn the whole reply
    model = TtTForConditionalGeneration(make_config(attention)).eval()
    with torch.no_grad():
        outputs = model(**{name: value for name, value in batch.items() if name not in ("noise_levels", "draws")})
    assert outputs.text_loss == 0 and outputs.audio_loss > 0 and outputs.num_audio_targets == size


def test_nar_fills_a_canvas_behind_the_end_of_the_reply(make_config):
    config = make_config("span", 8)
    config.text_config.eos_token_id = SHORT["input_ids"][-1]
    batch = TtTDataCollator(config, pad_token_id=0, objective="nar")([SHORT])
    (copy,) = canvases(batch)
    assert len(copy) == 8
    read, target = batch["input_ids"][0, copy], batch["labels"][0, copy]
    assert torch.where(read == MASK, target, read).tolist() == [20] + [500] * 7


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


def test_noise_follows_from_the_number_of_the_draw(collate, make_config):
    """Whatever was drawn before, in whichever process: so training that goes on after a break meets the same noise."""
    draws = [{**SAMPLE, "draw": 3}, {**SAMPLE, "draw": 7}]
    first = collate(draws)
    collator = TtTDataCollator(make_config(), pad_token_id=0)
    collator([SAMPLE] * 5)
    again, other = collator(draws), collator([{**SAMPLE, "draw": 4}, {**SAMPLE, "draw": 7}])
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["input_ids"][0], other["input_ids"][0])


def test_complementary_copies_learn_every_position_together(collate):
    batch = collate([SAMPLE], noise_copies=2, complementary=True)
    for first, second in zip(*[iter(canvases(batch))] * 2):
        masked = [batch["input_ids"][0, copy] == MASK for copy in (first, second)]
        noised = torch.arange(len(first)) >= len(first) - 8
        assert torch.equal(masked[0] | masked[1], noised)


def test_noise_per_span(collate):
    def levels(**kwargs):
        batch = collate([SAMPLE], block_canvas=False, **kwargs)
        return [round(float(batch["noise_levels"][0, copy].max()), 4) for copy in canvases(batch)]

    assert len(set(levels())) == 1
    assert len(set(levels(noise_per="span"))) == 2


@pytest.mark.parametrize("objective", ["two_stream", "paper"])
def test_flat_weights_are_the_same_at_all_masked_positions(collate, objective):
    settings = {"block_canvas": False, "clean_batch_probability": 0.0, "prefix_preservation": 0.0}
    batch = collate([SAMPLE], objective=objective, weighting="flat", **settings)
    runs = {12: 2, 21: 2} if objective == "two_stream" else {33: 1}  # the mean of two spans, or all positions alike
    weights = batch["audio_loss_weights"][batch["audio_loss_weights"] > 0]
    assert {round(1 / float(weight)) for weight in weights} <= {length * spans for length, spans in runs.items()}


def test_span_truncation_cuts_the_last_span_anew_at_each_draw(collate):
    whole = len(SAMPLE["input_ids"])
    lengths = set()
    for draw in range(20):
        batch = collate([{**SAMPLE, "draw": draw}], objective="paper", span_truncation=1.0)
        length = int(batch["attention_mask"].sum())
        kept = length - (whole - 2 - 20)  # 20 codes, their end marker and the end of the turn
        assert 6 <= kept <= 18
        assert batch["labels"][0, :length].tolist() == SAMPLE["labels"][:length]
        lengths.add(length)
    assert len(lengths) > 3
    assert collate([SHORT], span_truncation=1.0)["labels"].tolist() == [SHORT["labels"]]


@pytest.mark.parametrize("attention", ["span", "block_causal"])
@pytest.mark.parametrize("objective", ["two_stream", "paper"])
def test_packed_samples_are_learned_as_if_each_had_its_row(make_config, attention, objective):
    torch.manual_seed(0)
    model = TtTForConditionalGeneration(make_config(attention))
    collator = FixedNoise(make_config(attention), 0, objective, noise_copies=2)
    collator.clean_batch_probability = collator.prefix_preservation = 0.0
    samples = [SAMPLE, SHORT, {name: ids[:-10] for name, ids in SAMPLE.items()}]
    packed = pack_samples(
        {
            "input_ids": [sample["input_ids"] for sample in samples],
            "labels": [sample["labels"] for sample in samples],
            "length": [len(sample["input_ids"]) for sample in samples],
        },
        row_length=1000,
    )
    assert len(packed["input_ids"]) == 1
    results = []
    for rows in (samples, [{name: column[0] for name, column in packed.items()}]):
        batch = collator(rows)
        for name in ("noise_levels", "draws"):
            batch.pop(name)
        model.zero_grad()
        outputs = model(**batch)
        outputs.loss.backward()
        results.append((outputs, model.model.layers[0].mlp.up_proj.weight.grad.clone()))
    (apart, apart_gradient), (together, together_gradient) = results
    assert apart.num_samples == together.num_samples == 3
    assert apart.num_text_targets == together.num_text_targets
    assert apart.num_audio_targets == together.num_audio_targets > 0
    assert together.text_loss.item() == pytest.approx(apart.text_loss.item(), rel=1e-5)
    assert together.audio_loss.item() == pytest.approx(apart.audio_loss.item(), rel=1e-5)
    assert torch.allclose(apart_gradient, together_gradient, atol=1e-6)


def test_clean_tokens_learn_nothing_from_noised_ones(make_config):
    """Text is learned behind clean audio alone: its loss does not depend on what the noised copies hold."""
    torch.manual_seed(0)
    model = TtTForConditionalGeneration(make_config())
    batch = TtTDataCollator(make_config(), 0, noise_copies=2)([SAMPLE, SHORT])
    for name in ("noise_levels", "draws"):
        batch.pop(name)
    embeddings = model.get_input_embeddings()(batch.pop("input_ids")).detach().requires_grad_()
    outputs = model(inputs_embeds=embeddings, **batch)
    (gradient,) = torch.autograd.grad(outputs.text_loss, embeddings)
    clean = torch.arange(embeddings.shape[1]) < torch.tensor([[len(SAMPLE["input_ids"])], [len(SHORT["input_ids"])]])
    assert (gradient[~clean] == 0).all() and (gradient[clean] != 0).any()


def test_errors(collate):
    with pytest.raises(ValueError, match="objective"):
        collate([SAMPLE], objective="banana")
    with pytest.raises(ValueError, match="weighting"):
        collate([SAMPLE], weighting="banana")
    with pytest.raises(ValueError, match="even number"):
        collate([SAMPLE], noise_copies=3, complementary=True)
    with pytest.raises(ValueError, match="noise_copies"):
        collate([SAMPLE], noise_copies=0)
    with pytest.raises(ValueError, match="same length"):
        collate([{"input_ids": [1, 2], "labels": [1]}])
    with pytest.raises(ValueError, match="sample_lengths"):
        collate([{**SAMPLE, "sample_lengths": [3, 4]}])
