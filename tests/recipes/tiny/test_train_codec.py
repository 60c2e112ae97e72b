"""Training of the tiny codec on synthetic sounds: it learns, goes on, and leaves the frozen encoder alone."""

import json
import wave

import numpy as np
import pytest
import torch

from recipes.tiny import train_codec
from recipes.tiny.codec_clips import training_utterances
from recipes.tiny.codec_losses import mel_distance, spread_distance, waveform_distance
from recipes.tiny.train_codec import CodecBatches, CodecTrainer, CodecTraining, run_codec_stage, run_vocoder_stage
from ttt_hf.codecs import TtTTinyCodec, TtTTinyCodecConfig, load_codec


SETTINGS = CodecTraining(codec_steps=4, vocoder_steps=2, joint_steps=2, batch_seconds=4.0, vocoder_batch_seconds=2.0)


def small_config():
    sizes = {name: 16 for name in vars(TtTTinyCodecConfig()) if name.endswith(("frame_size", "code_size"))}
    return TtTTinyCodecConfig(**sizes, vocoder_size=16, vocoder_layers=4)


@pytest.fixture
def out(tmp_path, monkeypatch):
    """A data set of six clips, and a codec of toy size."""
    monkeypatch.setattr(train_codec, "TtTTinyCodecConfig", small_config)
    data = tmp_path / "data"
    data.mkdir()
    utterances, items = [], []
    rng = np.random.default_rng(0)
    for index, voice in enumerate(["joe", "joe", "joe", "flite-slt", "flite-slt", "espeak-us"]):
        samples = 9000 + 1000 * index
        sound = 0.2 * np.sin(np.cumsum(rng.uniform(0.05, 0.5, samples // 500 + 1).repeat(500)[:samples]))
        with wave.open(str(data / f"{index}.wav"), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(16000)
            file.writeframes((sound * 32767).astype("<i2").tobytes())
        row = {
            "id": str(index),
            "text": "one two",
            "voice": voice,
            "audio": f"{index}.wav",
            "seconds": samples / 16000,
        }
        utterances.append(row)
        spoken = {"question_audio": [], "answer_audio": str(index)} if voice == "joe" else {}
        items.append({"split": "train", "question_audio": [str(index)], "answer_audio": None} | spoken)
    items[2]["split"] = "sentences"
    (data / "utterances.jsonl").write_text("".join(json.dumps(row) + "\n" for row in utterances) + '{"id": "half')
    (data / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in items))
    return tmp_path


def test_held_out_clips_are_not_trained_on(out):
    assert [clip.path.stem for clip in training_utterances(out / "data")] == ["0", "1", "3", "4", "5"]


def test_batches_depend_on_the_step_alone(out):
    codec = TtTTinyCodec(small_config())
    first, second = (CodecBatches(training_utterances(out / "data"), codec, SETTINGS) for _ in range(2))
    for key, value in first[3].items():
        assert torch.equal(value, second[3][key])
    assert first[3]["clean"].shape == first[3]["noisy"].shape
    assert not torch.equal(first[3]["clean"], first[3]["noisy"])


def test_codec_trainer_learns_a_batch(out):
    torch.manual_seed(0)
    codec = TtTTinyCodec(small_config())
    trainer = CodecTrainer(codec, SETTINGS)
    batch = CodecBatches(training_utterances(out / "data"), codec, SETTINGS)[0]
    optimizer = torch.optim.AdamW(trainer.parameters(), lr=5e-3)
    losses = []
    for _ in range(30):
        loss, _ = trainer(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]


class InterruptedBatches(CodecBatches):
    """Only the first batch can be read."""

    def __getitem__(self, step):
        if step:
            raise OSError("The disk is gone.")
        return super().__getitem__(step)


def test_stages_resume_and_leave_the_encoder(out, monkeypatch):
    with pytest.raises(ValueError, match="run the stage codec first"):
        run_vocoder_stage(out, SETTINGS)
    with monkeypatch.context() as patch:
        patch.setattr(train_codec, "SAVE_SECONDS", 0.0)
        patch.setattr(train_codec, "CodecBatches", InterruptedBatches)
        with pytest.raises(OSError, match="The disk is gone"):
            run_codec_stage(out, SETTINGS)
    assert not (out / "codec" / "ENCODER_FROZEN").exists()
    state = torch.load(out / "codec" / "training_state" / "codec.pt", weights_only=True)
    assert state["step"] == 1
    run_codec_stage(out, SETTINGS)
    assert (out / "codec" / "ENCODER_FROZEN").exists()
    frozen = load_codec(out / "codec")
    run_vocoder_stage(out, SETTINGS)
    final = load_codec(out / "codec")
    for name, weight in final.state_dict().items():
        assert torch.equal(weight, weight.bfloat16().float())
        if name.startswith("encoder."):
            assert torch.equal(weight, frozen.state_dict()[name])
    assert not torch.equal(final.vocoder.head.weight, frozen.vocoder.head.weight)
    assert not torch.equal(final.decoder.head.weight, frozen.decoder.head.weight)
    assert {path.name for path in (out / "codec").iterdir()} == {
        "config.json",
        "model.safetensors",
        "ENCODER_FROZEN",
        "training_state",
    }


def test_distances_are_zero_for_equal_signals():
    codec = TtTTinyCodec(small_config())
    waveform, other = torch.randn(2, 1, 12800).mul(0.1).unbind()
    mel = codec.mel(waveform)
    assert mel_distance(mel, mel, torch.ones_like(mel[..., :1])) == 0
    assert waveform_distance(waveform, waveform, codec)[0] == 0
    assert waveform_distance(waveform, other, codec)[0] > 0.1


def test_spread_distance_prefers_used_levels():
    levels = torch.cartesian_prod(torch.linspace(-1, 1, 5), torch.linspace(-1, 1, 5))
    assert spread_distance(levels) < 0.01
    assert spread_distance(torch.full((20, 2), 1.0)) > 1
