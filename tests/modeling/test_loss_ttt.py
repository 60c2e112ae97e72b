"""The two losses, against the official numbers and by hand."""

import math

import pytest
import torch

from ttt_hf.modeling import loss_ttt
from ttt_hf.modeling.loss_ttt import audio_loss, text_loss, text_target_mask, token_losses
from ttt_hf.modeling.masking_ttt import NO_ORDER


VARIANTS = ["tied", "untied"]


def weights_of(tensors: dict[str, torch.Tensor]) -> torch.Tensor:
    """The official weighting of the diffusion loss as per-position weights."""
    return tensors["masked_indices"] / tensors["p_mask"] / tensors["answer_lengths"]


def gradients(model, loss):
    names, parameters = zip(*model.named_parameters())
    return dict(zip(names, torch.autograd.grad(loss, parameters)))


@pytest.mark.parametrize("variant", VARIANTS)
def test_official_losses_and_gradients(golden_models, golden_cases, variant):
    model = golden_models[variant]
    for case in golden_cases("loss"):
        tensors, expected = case["tensors"], case[variant]
        output = model(
            input_ids=tensors["noisy_input_ids"],
            attention_mask=tensors["attention_mask"],
            labels=tensors["labels"],
            audio_loss_weights=weights_of(tensors),
            return_logits=False,  # as in training: the model is in evaluation mode here
        )
        assert output.logits is None
        assert output.text_loss.item() == pytest.approx(expected["ar_loss_on_noisy"], rel=1e-5), case["name"]
        assert output.audio_loss.item() == pytest.approx(expected["diffusion_loss"], rel=1e-5), case["name"]
        assert output.loss.item() == pytest.approx(expected["total"], rel=1e-5), case["name"]
        assert output.num_text_targets.item() == sum(expected["n_text_targets"])
        grads = gradients(model, output.loss)
        assert set(grads) == set(expected["grad_norms"])
        for name, norm in expected["grad_norms"].items():
            assert grads[name].norm().item() == pytest.approx(norm, rel=1e-4), (case["name"], name)
        total = math.sqrt(sum(grad.double().pow(2).sum().item() for grad in grads.values()))
        assert total == pytest.approx(expected["grad_norm_total"], rel=1e-4), case["name"]


@pytest.mark.parametrize("variant", VARIANTS)
def test_official_text_loss_on_clean_audio(golden_models, golden_cases, variant):
    model = golden_models[variant]
    for case in golden_cases("loss"):
        tensors, expected = case["tensors"], case[variant]
        output = model(
            input_ids=tensors["input_ids"], attention_mask=tensors["attention_mask"], labels=tensors["labels"]
        )
        assert output.audio_loss is None
        assert output.num_audio_targets.item() == 0
        assert output.audio_correct.shape == (0,)
        assert output.loss.item() == pytest.approx(expected["train_ar_mode_total"], rel=1e-5), case["name"]


def test_losses_equal_those_of_all_logits(golden_models, golden_cases):
    model = golden_models["untied"]
    tensors = next(case for case in golden_cases("loss") if case["name"].startswith("l6"))["tensors"]
    inputs = {"input_ids": tensors["noisy_input_ids"], "attention_mask": tensors["attention_mask"]}
    labels, weights = tensors["labels"], weights_of(tensors)
    with torch.no_grad():
        output = model(**inputs, labels=labels, audio_loss_weights=weights)
        logits = model(**inputs).logits
    text = (labels[:, 1:] != -100) & (labels[:, 1:] < 511)
    audio = (weights != 0) & (labels != -100)
    assert output.num_text_targets.item() == text.sum()
    assert output.num_audio_targets.item() == audio.sum()
    guesses = logits.argmax(dim=-1)
    assert torch.equal(output.text_correct, (guesses[:, :-1] == labels[:, 1:])[text])
    assert torch.equal(output.audio_correct, (guesses == labels)[audio])
    per_row = [
        torch.nn.functional.cross_entropy(logits[row, :-1][text[row]], labels[row, 1:][text[row]]) for row in range(3)
    ]
    assert output.text_loss.item() == pytest.approx(sum(per_row).item() / 3, rel=1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_in_parts_give_the_same_losses_and_gradients(golden_models, golden_cases, variant, monkeypatch):
    model = golden_models[variant]
    tensors = next(case for case in golden_cases("loss") if case["name"].startswith("l6"))["tensors"]
    inputs = {
        "input_ids": tensors["noisy_input_ids"],
        "attention_mask": tensors["attention_mask"],
        "labels": tensors["labels"],
        "audio_loss_weights": weights_of(tensors),
        "return_logits": False,
    }
    whole = model(**inputs)
    expected = gradients(model, whole.loss)
    calls = []
    monkeypatch.setattr(loss_ttt, "VOCABULARY_PART", 100)
    with monkeypatch.context() as patch:
        patch.setattr(
            model.lm_head, "forward", lambda x: calls.append(len(x)) or torch.nn.Linear.forward(model.lm_head, x)
        )
        in_parts = model(**inputs)
        grads = gradients(model, in_parts.loss)
    # Seven parts of a vocabulary of 640, forward and once more backward.
    assert len(calls) == 14 and max(calls) <= -(-sum(calls) // 14) + 1
    assert torch.allclose(in_parts.loss, whole.loss, rtol=1e-6)
    assert torch.equal(in_parts.text_correct, whole.text_correct)
    assert torch.equal(in_parts.audio_correct, whole.audio_correct)
    for name, grad in grads.items():
        assert torch.allclose(grad, expected[name], rtol=1e-4, atol=1e-5 * float(expected[name].abs().max())), name


def test_logits_in_parts_without_targets():
    states = torch.zeros(0, 8, requires_grad=True)
    losses, correct = token_losses(states, torch.zeros(0, dtype=torch.long), torch.nn.Linear(8, 64), 100_000)
    assert losses.shape == correct.shape == (0,)
    losses.sum().backward()


def cross_entropy(logits, targets):
    losses, _ = token_losses(logits, targets, torch.nn.Identity(), logits.shape[1])
    return losses


def test_text_loss_by_hand():
    logits = torch.tensor([[0.0, 0.0], [0.0, math.log(3.0)], [0.0, 0.0]])
    rows = torch.tensor([0, 0, 2])
    # row 0: mean of log 2 and log(4 / 3); row 1 has no target and counts; row 2: log 2
    loss = text_loss(cross_entropy(logits, torch.tensor([0, 1, 1])), rows, num_samples=3)
    assert loss.item() == pytest.approx(((math.log(2) + math.log(4 / 3)) / 2 + 0 + math.log(2)) / 3, rel=1e-6)


def test_audio_loss_by_hand():
    logits = torch.tensor([[0.0, 0.0], [0.0, math.log(3.0)]])
    loss = audio_loss(cross_entropy(logits, torch.tensor([0, 1])), torch.tensor([0.5, 2.0]), num_samples=4)
    assert loss.item() == pytest.approx((0.5 * math.log(2) + 2 * math.log(4 / 3)) / 4, rel=1e-6)


def test_losses_without_targets_are_zero_and_differentiable():
    logits = torch.zeros(0, 8, requires_grad=True)
    none = torch.zeros(0, dtype=torch.long)
    losses = cross_entropy(logits, none)
    loss = text_loss(losses, none, 2) + audio_loss(losses, torch.zeros(0), 2)
    assert loss.item() == 0.0
    loss.backward()
    assert logits.grad is not None


def test_losses_are_computed_in_float32():
    logits = torch.randn(4, 1000, generator=torch.Generator().manual_seed(0)).bfloat16()
    targets = torch.tensor([1, 2, 3, 4])
    losses = cross_entropy(logits, targets)
    assert losses.dtype == torch.float32
    assert torch.allclose(losses, cross_entropy(logits.float(), targets), rtol=1e-6)


def test_text_targets_stay_inside_documents_and_out_of_noised_copies():
    labels = torch.tensor([[5, 6, 50, 7, 8, -100, 9, 5, 6]])
    order = torch.tensor([[0, 1, 2, 3, 4, 5, 6, NO_ORDER, NO_ORDER]])
    start = torch.tensor([[0, 0, 0, 0, 4, 4, 4, 0, 0]])
    mask = text_target_mask(labels, 40, order, start, NO_ORDER)
    #       0->6   1->50   2->7   3->8 (next document)   4->-100   5->9   6->5 (copy)   7->6 (copy)
    assert mask.tolist() == [[True, False, True, False, False, True, False, False]]
