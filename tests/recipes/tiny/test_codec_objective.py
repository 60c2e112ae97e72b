"""What the codec's first stage is trained for: the listener teaches the decoder, and nothing teaches the listener."""

from dataclasses import replace

import pytest
import torch

from recipes.tiny.codec_objective import CHARACTERS, CodecTrainer, CodecTraining, voice_index
from ttt_hf.codecs import TtTTinyCodec, TtTTinyCodecConfig


@pytest.fixture
def trainer():
    torch.manual_seed(0)
    sizes = {name: 16 for name in vars(TtTTinyCodecConfig()) if name.endswith(("frame_size", "code_size"))}
    codec = TtTTinyCodec(TtTTinyCodecConfig(**sizes, vocoder_size=16, vocoder_layers=4))
    return CodecTrainer(codec, CodecTraining())


def batch_of(*voices):
    generator = torch.Generator().manual_seed(1)
    sound = 0.1 * torch.randn(len(voices), 12800, generator=generator)
    return {
        "clean": sound,
        "noisy": sound,
        "voices": torch.tensor([voice_index(voice) for voice in voices]),
        "lengths": torch.tensor([12800 - 1000 * row for row in range(len(voices))]),
        "texts": torch.tensor([CHARACTERS.index(letter) + 1 for letter in "one" * len(voices)]),
        "text_lengths": torch.tensor([3] * len(voices)),
    }


def gradients(trainer, listener_weight):
    trainer.settings = replace(trainer.settings, listener_weight=listener_weight)
    trainer.zero_grad()
    trainer(batch_of("joe", "flite-slt", "joe"))[0].backward()
    return {name: weight.grad.clone() for name, weight in trainer.named_parameters() if weight.grad is not None}


def test_the_listener_learns_from_recordings_alone(trainer):
    without, with_it = gradients(trainer, 0.0), gradients(trainer, 5.0)
    listener = [name for name in without if name.startswith("listener.")]
    assert listener
    for name in listener:
        torch.testing.assert_close(with_it[name], without[name])
    for part in ("codec.decoder.", "codec.encoder."):
        assert any(not torch.allclose(with_it[name], without[name]) for name in without if name.startswith(part))


def test_only_the_reply_voice_is_listened_to(trainer):
    loss, parts = trainer(batch_of("flite-slt", "espeak-us"))
    assert torch.isfinite(loss)
    assert "missed" not in parts
    batch = batch_of("flite-slt", "joe")
    other = {**batch, "clean": batch["clean"].clone()}
    other["clean"][0] = 0.0
    for name in ("listener", "missed", "changed"):
        assert trainer(other)[1][name] == trainer(batch)[1][name]
    other["clean"][1] = 0.0
    assert trainer(other)[1]["listener"] != trainer(batch)[1]["listener"]
