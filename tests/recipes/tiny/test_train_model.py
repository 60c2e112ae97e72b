"""Tokenizer, codes, samples and training of the embedded model's recipe, on a handful of facts and a random codec."""

import dataclasses
import json

import numpy as np
import pytest
import soundfile
import torch

from recipes.tiny import train_model
from recipes.tiny.domain import build_domain
from recipes.tiny.parallel import run_in_processes
from recipes.tiny.settings import load_settings
from recipes.tiny.tables import read_rows
from ttt_hf import TtTForConditionalGeneration, TtTProcessor
from ttt_hf.codecs import TtTTinyCodec, TtTTinyCodecConfig
from ttt_hf.data import TtTDataCollator


OVERRIDES = [
    "lm.samples=96", "lm.steps=4", "lm.batch_size=4", "lm.save_steps=2", "lm.logging_steps=1", "lm.warmup_steps=1",
    "lm.hidden_size=32", "lm.intermediate_size=64", "lm.num_layers=2", "lm.num_heads=2", "lm.num_kv_heads=1",
    "lm.text_vocab_size=300", "lm.augmented_copies=1", "lm.answer_offsets=1", "lm.ctc_layer=1",
]  # fmt: skip


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(scope="module")
def settings():
    return load_settings(overrides=OVERRIDES)


@pytest.fixture(scope="module")
def out(tmp_path_factory, settings):
    """An output root with eight spoken facts, one of them held out, behind `prepare`."""
    out = tmp_path_factory.mktemp("tiny")
    sizes = ("encoder_frame", "encoder_code", "decoder_frame", "decoder_code", "vocoder")
    torch.manual_seed(0)
    widths = {f"{size}_size": 16 for size in sizes}
    depths = {f"{size}_layers": 1 for size in sizes}
    codec = TtTTinyCodec(TtTTinyCodecConfig(fsq_levels=(5, 5, 3), **widths, **depths))
    codec.save_pretrained(out / "codec")
    rng = np.random.default_rng(0)
    facts = [fact for fact in build_domain().train_facts() if fact.family in ("capitals", "arithmetic")][::400][:8]
    utterances, items = [], []
    for fact in facts:
        for role, text in (("question", "What is it?"), ("answer", fact.answer)):
            path = out / "data" / "audio" / f"{fact.id}-{role}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            samples = int(rng.integers(8000, 20000))
            soundfile.write(path, rng.normal(0, 0.1, samples).clip(-1, 1), 16000)
            utterances.append(
                {"id": path.stem, "text": text, "voice": "joe", "role": role, "seconds": samples / 16000,
                 "audio": str(path.relative_to(out / "data"))}
            )  # fmt: skip
        item = {"id": fact.id, "fact": fact.id, "family": fact.family, "split": "train", "question": "What is it?",
                "wording": None, "answer": fact.answer, "question_audio": [f"{fact.id}-question"],
                "answer_audio": f"{fact.id}-answer"}  # fmt: skip
        items += [item, {**item, "id": f"{fact.id}/text", "question_audio": [], "answer_audio": None}]
    items[0]["split"] = items[1]["split"] = "wording"
    write_rows(out / "data" / "utterances.jsonl", utterances)
    write_rows(out / "data" / "items.jsonl", items)
    train_model.prepare(out, settings)
    return out


def test_held_out_audio_is_never_encoded_and_only_questions_are_augmented(out):
    codes = json.loads((out / "codes.json").read_text())
    assert len(codes) == 14
    assert all(len(variants) == (2 if name.endswith("question") else 1) for name, variants in codes.items())
    assert all(0 <= code < 75 for variants in codes.values() for codes in variants for code in codes)


def test_encoding_goes_on_where_it_stopped(out, settings):
    items = read_rows(out / "data" / "items.jsonl")
    codes = json.loads((out / "codes.json").read_text())
    codec = train_model.load_codec(out / "codec")
    known = list(codes)[3:]
    rest = train_model.encode_utterances(out / "data", items, codec, settings.lm, known)
    assert sorted(rest) == sorted(set(codes) - set(known))
    assert all(rest[name][0] == codes[name][0] for name in rest)


def test_samples_cover_every_task(out):
    samples = train_model.load_from_disk(str(out / "samples"))
    processor = TtTProcessor.from_pretrained(out / "tokenizer")
    prompts = [processor.tokenizer.decode(ids) for ids in samples["input_ids"]]
    assert len(samples) == 96
    for phrase in ("Speech Recognition", "audio-to-audio", "Text-to-Speech", "You are a helpful model."):
        assert any(phrase in prompt for prompt in prompts)
    for ids, transcript in zip(samples["input_ids"], samples["transcript_ids"]):
        heard = processor.token_ids.end_user_audio_token_id in ids
        assert bool(transcript) == heard


def test_some_spoken_answers_end_where_the_speech_begins(out):
    samples = train_model.load_from_disk(str(out / "samples"))
    processor = TtTProcessor.from_pretrained(out / "tokenizer")
    begins = processor.token_ids.begin_audio_token_ids
    spoken = [sample for sample in samples if sample["transcript_ids"] and set(begins) & set(sample["labels"])]
    cut = [sample for sample in spoken if sample["labels"][-1] in begins]
    assert 0 < len(cut) < len(spoken)
    assert all(len(sample["input_ids"]) == len(sample["labels"]) for sample in samples)
    whole = [sample for sample in samples if sample not in cut and sample["labels"][-1] != -100]
    assert all(sample["labels"][-1] == processor.tokenizer.eos_token_id for sample in whole)


def test_of_some_spoken_sums_only_the_result_is_learned(out):
    tokenizer = TtTProcessor.from_pretrained(out / "tokenizer").tokenizer
    results = set()
    for row in train_model.load_from_disk(str(out / "samples")):
        ids = row["input_ids"]
        if row["transcript_ids"] and row["labels"][-1] == -100:
            learned = [label for label in row["labels"] if label != -100]
            reply = tokenizer.decode(ids[row["labels"].index(learned[0]) :], skip_special_tokens=True)
            results.add(tokenizer.decode(learned))
            assert reply == tokenizer.decode(learned)
            assert tokenizer.decode(ids).partition(reply)[0].endswith(" is")
    assert results and all(result.endswith(".") for result in results)


def test_length_counts_the_noised_copies(out, settings):
    processor, codec = TtTProcessor.from_pretrained(out / "tokenizer"), train_model.load_codec(out / "codec")
    config = train_model.model_config(processor, codec, settings.lm)
    collator = TtTDataCollator(config, processor.tokenizer.pad_token_id, noise_copies=settings.lm.noise_copies)
    for sample in train_model.load_from_disk(str(out / "samples")):
        taken = collator([sample])["input_ids"].shape[1]
        assert taken <= sample["length"] <= 2 * taken
        assert sample["length"] == taken or any(label >= config.audio_token_start_id for label in sample["labels"])


def test_near_codes_start_with_near_embeddings(out, settings):
    processor, codec = TtTProcessor.from_pretrained(out / "tokenizer"), train_model.load_codec(out / "codec")
    torch.manual_seed(0)
    model = TtTForConditionalGeneration(train_model.model_config(processor, codec, settings.lm))
    train_model.place_codes_by_geometry(model, codec.codebook, seed=0)
    start = model.config.audio_code_offset
    distances = torch.pdist(model.get_input_embeddings().weight[start : start + 75])
    assert torch.corrcoef(torch.stack([distances, torch.pdist(codec.codebook)]))[0, 1] > 0.5


def test_rare_codes_learn_from_those_with_the_same_digits(out, settings):
    processor, codec = TtTProcessor.from_pretrained(out / "tokenizer"), train_model.load_codec(out / "codec")
    model = TtTForConditionalGeneration(train_model.model_config(processor, codec, settings.lm))
    digits = train_model.code_digits(codec.codebook)
    assert digits.shape == (75, 5 + 5 + 3)
    assert torch.equal(digits.sum(dim=1), torch.full((75,), 3.0))
    train_model.share_code_gradients(model, codec.codebook, share=0.5)
    weight, start = model.get_input_embeddings().weight, model.config.audio_code_offset
    weight[[0, start + 7]].sum().backward()
    shared = 0.5 * (digits @ digits[7])
    shared[7] += 1
    torch.testing.assert_close(weight.grad[start : start + 75, 0], shared)
    assert weight.grad[0].eq(1).all()
    assert weight.grad[1:start].eq(0).all()


def test_training_resumes_and_ends_with_a_model(out, settings):
    half = dataclasses.replace(settings, lm=dataclasses.replace(settings.lm, steps=2))
    train_model.train(out, half)
    train_model.train(out, settings)
    history = json.loads((out / "model" / "trainer_state.json").read_text())["log_history"]
    steps = [entry for entry in history if "text_loss" in entry]
    assert [entry["step"] for entry in steps] == [1, 2, 3, 4]
    assert all(np.isfinite(entry["loss"]) for entry in steps)
    assert any("ctc_loss" in entry for entry in steps)
    assert not list((out / "model").glob("*.partial"))
    model = TtTForConditionalGeneration.from_pretrained(out / "model" / "final")
    assert model.config.audio_vocab_size == 75


def test_two_processes_train_one_model(out, settings, tmp_path):
    for name in ("codec", "tokenizer", "samples"):
        (tmp_path / name).symlink_to(out / name)
    run_in_processes(train_model.train, (tmp_path, settings), 2)
    history = json.loads((tmp_path / "model" / "trainer_state.json").read_text())["log_history"]
    assert [entry["step"] for entry in history if "loss" in entry] == [1, 2, 3, 4]
    assert TtTForConditionalGeneration.from_pretrained(tmp_path / "model" / "final").config.audio_vocab_size == 75


def test_tokens_that_training_never_met_are_told_apart_and_the_others_left_as_they_are(out, settings):
    processor = TtTProcessor.from_pretrained(out / "tokenizer")
    config = train_model.model_config(processor, train_model.load_codec(out / "codec"), settings.lm)
    model = TtTForConditionalGeneration(config)
    weight = model.get_input_embeddings().weight
    start = config.audio_token_start_id
    seen = [*range(20), start, start + 5]
    with torch.no_grad():
        weight[20:start] = weight[20].clone()
    before = weight.detach().clone()
    train_model.spread_unseen_tokens(model, seen, seed=0)
    assert torch.equal(weight[:20], before[:20])
    assert torch.equal(weight[start:], before[start:])
    noise = (weight - before)[20:start].detach()
    assert torch.pdist(weight[20:start].detach()).min() > 0
    torch.testing.assert_close(noise.std(), before[:20].std(), rtol=0.1, atol=0)
