"""What the tiny codec is trained for in its first stage: to sound like the recording, and to keep the words."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ttt_hf.codecs import TtTTinyCodec, TtTTinyCodecConfig
from ttt_hf.codecs.modeling_ttt_tiny_codec import TtTTinyCodecBlock

from .codec_losses import mel_distance, spread_distance
from .voices import REPLY_VOICE, VOICES


CHARACTERS = " abcdefghijklmnopqrstuvwxyz'"
# Mel frames that the listener joins: it writes at most one letter each 40 ms.
LISTENER_FRAMES = 2
LISTENER_SIZE = 256
LISTENER_BLOCKS = 4


@dataclass(frozen=True)
class CodecTraining:
    """How the stages are trained.

    Args:
        seed: seed of weights, batches and augmentation.
        codec_steps: steps of encoder, quantiser and mel decoder.
        vocoder_steps: steps of the vocoder alone.
        joint_steps: steps of mel decoder and vocoder together, behind those.
        batch_seconds: audio in one step of the stage `codec`.
        vocoder_batch_seconds: audio in one step of the stage `vocoder`.
        codec_learning_rate: peak rate of the stage `codec`.
        vocoder_learning_rate: peak rate of the vocoder alone.
        joint_learning_rate: rate at which mel decoder and vocoder start together.
        reply_share: share of clips of the reply voice in the stage `codec`.
        recognition_weight: weight of the auxiliary loss that reads the words from the codes.
        listener_weight: weight of what a listener, which learned from recordings alone, misses in the decoded replies.
        joint_listener_weight: weight of what the listener finds changed when mel decoder and vocoder are trained
            together.
        question_weight: weight of the mel spectrograms of other voices than the reply voice.
        spread_weight: weight of the auxiliary loss that keeps all quantiser dimensions in use.
        processes: processes that train together on a CPU, each on batches of the size given.
    """

    seed: int = 0
    codec_steps: int = 6000
    vocoder_steps: int = 1300
    joint_steps: int = 800
    batch_seconds: float = 24.0
    vocoder_batch_seconds: float = 16.0
    codec_learning_rate: float = 1.5e-3
    vocoder_learning_rate: float = 1.5e-3
    joint_learning_rate: float = 5e-4
    reply_share: float = 0.6
    recognition_weight: float = 0.6
    listener_weight: float = 1.0
    joint_listener_weight: float = 3.0
    question_weight: float = 0.05
    spread_weight: float = 0.3
    processes: int = 2


class LetterReader(nn.Module):
    """Reads letters from a sequence, for connectionist temporal classification (Graves et al., 2006).

    Args:
        inputs: features of a step.
        size: channels.
        blocks: number of blocks.
        readings: letters that one step can hold.
        config: for the blocks.
    """

    def __init__(self, inputs: int, size: int, blocks: int, readings: int, config: TtTTinyCodecConfig):
        super().__init__()
        self.readings = readings
        self.embed = nn.Linear(inputs, size)
        self.blocks = nn.ModuleList(TtTTinyCodecBlock(size, config, config.kernel_size // 2) for _ in range(blocks))
        self.norm = nn.LayerNorm(size)
        self.head = nn.Linear(size, readings * (len(CHARACTERS) + 1))

    def forward(self, steps: Tensor) -> tuple[Tensor, Tensor]:
        """Reads a batch.

        Args:
            steps: float (batch, steps, inputs).

        Returns:
            Log probabilities float (batch, steps * readings, characters + 1), blank first, and what each block made of
            the input, normalised, float (blocks, batch, steps, size).
        """
        hidden = self.embed(steps)
        states = []
        for block in self.blocks:
            hidden = block(hidden)
            states.append(self.norm(hidden))
        scores = self.head(states[-1]).unflatten(2, (self.readings, -1)).flatten(1, 2)
        return scores.log_softmax(-1), torch.stack(states)


def letter_loss(log_probs: Tensor, readings: Tensor, texts: Tensor, text_lengths: Tensor) -> Tensor:
    """Mean loss a letter, scalar.

    Args:
        log_probs: float (batch, readings, characters + 1).
        readings: long (batch,), readings inside each clip.
        texts: long (letters of all clips,), one-based places in `CHARACTERS`.
        text_lengths: long (batch,), letters of each clip.
    """
    return F.ctc_loss(log_probs.transpose(0, 1), texts, readings, text_lengths, zero_infinity=True)


class CodecTrainer(nn.Module):
    """Encoder, quantiser and mel decoder with what only training needs: voices, a reader of the codes, a listener.

    A distance of spectrograms weighs a consonant like any other 50 ms. The listener does not: it learns to read
    letters from recordings of the reply voice, and the decoded spectrogram has to give it the same letters and the
    same inner states (a feature loss as Johnson et al., "Perceptual losses for real-time style transfer", 2016, take
    it from an image classifier). It learns nothing from decoded speech, so that it cannot get used to it.

    Args:
        codec: the codec.
        settings: loss weights.
    """

    def __init__(self, codec: TtTTinyCodec, settings: CodecTraining):
        super().__init__()
        self.codec = codec
        self.settings = settings
        config = codec.config
        self.voices = nn.Embedding(len(VOICES), config.decoder_code_size)
        nn.init.normal_(self.voices.weight, std=0.1)
        # Two readings a code: speech has more letters a second than codes.
        self.reader = LetterReader(len(config.fsq_levels), config.decoder_code_size, 2, 2, config)
        self.listener = make_listener(config)

    def forward(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of a batch of `CodecBatches`, and its parts by name."""
        config = self.codec.config
        target = self.codec.mel(batch["clean"])
        hidden = self.codec.encoder(self.codec.mel(batch["noisy"]))
        vectors = self.codec.quantise(hidden)
        mel = self.codec.decoder(vectors, voice=self.voices(batch["voices"]))
        frames = torch.arange(mel.shape[1], device=mel.device) * config.hop_length
        inside_clip = (frames < batch["lengths"][:, None] + config.samples_per_code).float()[..., None]
        is_reply = batch["voices"] == voice_index(REPLY_VOICE)
        # Other voices need not be spoken, only understood.
        share = torch.where(is_reply, 1.0, self.settings.question_weight)[:, None, None]
        mel_loss = mel_distance(mel, target, inside_clip * share)
        code_counts = -(-batch["lengths"] // config.samples_per_code)
        words_loss = letter_loss(self.reader(vectors)[0], code_counts * 2, batch["texts"], batch["text_lengths"])
        inside = torch.arange(hidden.shape[1], device=hidden.device) < code_counts[:, None]
        spread_loss = spread_distance(hidden[inside].tanh())
        codes = self.codec.vectors_to_codes(vectors.detach())[inside]
        used = torch.tensor(codes.unique().numel() / codes.numel())
        loss = mel_loss + self.settings.recognition_weight * words_loss + self.settings.spread_weight * spread_loss
        parts = {"mel": mel_loss, "words": words_loss, "spread": spread_loss, "used": used}
        if is_reply.any():
            learned, missed, changed = self._listen(mel, target, is_reply, batch)
            loss = loss + learned + self.settings.listener_weight * (missed + changed)
            parts |= {"listener": learned, "missed": missed, "changed": changed}
        return loss, {name: part.detach() for name, part in parts.items()}

    def _listen(
        self, mel: Tensor, target: Tensor, rows: Tensor, batch: dict[str, Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What the listener learns from the recordings, and what it misses and finds changed in the decoded rows."""
        span = LISTENER_FRAMES * self.codec.config.hop_length
        counts = batch["lengths"][rows] // span
        texts = torch.cat(
            [text for text, row in zip(batch["texts"].split(batch["text_lengths"].tolist()), rows) if row]
        )

        read, states = self.listener(join_frames(target[rows]))
        learned = letter_loss(read, counts, texts, batch["text_lengths"][rows])
        # With weights that this pass does not change.
        fixed = {name: weight.detach() for name, weight in self.listener.named_parameters()}
        heard, heard_states = torch.func.functional_call(self.listener, fixed, (join_frames(mel[rows]),))
        missed = letter_loss(heard, counts, texts, batch["text_lengths"][rows])
        inside = torch.arange(states.shape[2], device=mel.device) < counts[:, None]
        return learned, missed, (heard_states - states.detach())[:, inside].abs().mean()


def make_listener(config: TtTTinyCodecConfig) -> LetterReader:
    """A listener that has heard nothing yet, for mel spectrograms of the codec."""
    return LetterReader(LISTENER_FRAMES * config.num_mel_bins, LISTENER_SIZE, LISTENER_BLOCKS, 1, config)


def join_frames(mel: Tensor) -> Tensor:
    """Mel frames as the listener takes them: float (batch, frames, bins) -> (batch, frames / n, n * bins)."""
    return mel.unflatten(1, (-1, LISTENER_FRAMES)).flatten(2)


def voice_index(name: str) -> int:
    """Number of a voice in the table of voices; it does not depend on which voices the data holds."""
    return list(VOICES).index(name)
