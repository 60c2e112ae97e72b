"""Training objectives of the tiny codec: to sound like the recording, and to keep the words intelligible."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ttt_hf.codecs import TtTTinyCodec, TtTTinyCodecConfig
from ttt_hf.codecs.modeling_ttt_tiny_codec import TtTTinyCodecBlock

from .codec_losses import mel_distance, spread_distance, waveform_distance
from .voices import REPLY_VOICE, VOICES


CHARACTERS = " abcdefghijklmnopqrstuvwxyz'"
# Mel frames that the listener joins: it reads at most one letter per 40 ms.
LISTENER_FRAMES = 2
LISTENER_SIZE = 256
LISTENER_BLOCKS = 4


@dataclass(frozen=True)
class CodecTraining:
    """Settings of the stages `codec` and `vocoder`.

    Args:
        seed: Seed of weights, batches and augmentation.
        codec_steps: Steps of encoder, quantizer and mel decoder.
        vocoder_steps: Steps of the vocoder alone.
        joint_steps: Steps of mel decoder and vocoder together, after those.
        batch_seconds: Seconds of audio per step of the stage `codec`.
        vocoder_batch_seconds: Seconds of audio per step of the stage `vocoder`.
        codec_learning_rate: Peak rate of the stage `codec`.
        vocoder_learning_rate: Peak rate of the vocoder alone.
        joint_learning_rate: Peak rate of mel decoder and vocoder together.
        reply_share: Share of clips of the reply voice in the stage `codec`.
        recognition_weight: Weight of the CTC loss of letters read from the codes.
        listener_weight: Weight of the two losses by the listener in the stage `codec`, see `CodecTrainer`.
        joint_listener_weight: Weight of the listener's feature loss when mel decoder and vocoder are trained together.
        question_weight: Weight of the mel spectrograms of other voices than the reply voice.
        spread_weight: Weight of the loss that keeps all quantizer dimensions in use.
        processes: Data-parallel processes on a CPU.
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
    """A letter recognizer for connectionist temporal classification (CTC, Graves et al., 2006).

    Args:
        inputs: Features per step.
        size: Channels.
        blocks: Number of blocks.
        readings: Outputs per step, each a letter or blank.
        config: Settings of the blocks.
    """

    def __init__(self, inputs: int, size: int, blocks: int, readings: int, config: TtTTinyCodecConfig):
        super().__init__()
        self.readings = readings
        self.embed = nn.Linear(inputs, size)
        self.blocks = nn.ModuleList(TtTTinyCodecBlock(size, config, config.kernel_size // 2) for _ in range(blocks))
        self.norm = nn.LayerNorm(size)
        self.head = nn.Linear(size, readings * (len(CHARACTERS) + 1))

    def forward(self, steps: Tensor) -> tuple[Tensor, Tensor]:
        """Computes letter probabilities.

        Args:
            steps: Features, shape `(batch, steps, inputs)`.

        Returns:
            Log probabilities, blank first, shape `(batch, steps * readings, characters + 1)`; normalized output of
            each block, shape `(blocks, batch, steps, size)`.
        """
        hidden = self.embed(steps)
        states = []
        for block in self.blocks:
            hidden = block(hidden)
            # Normalized, so that all blocks have the same scale in the feature loss.
            states.append(self.norm(hidden))
        # The readings of a step follow one another: (batch, steps * readings, characters + 1).
        scores = self.head(states[-1]).unflatten(2, (self.readings, -1)).flatten(1, 2)
        return scores.log_softmax(-1), torch.stack(states)


def letter_loss(log_probs: Tensor, readings: Tensor, texts: Tensor, text_lengths: Tensor) -> Tensor:
    """CTC loss, mean per letter.

    Args:
        log_probs: Log probabilities, shape `(batch, readings, characters + 1)`.
        readings: Number of readings inside each clip, shape `(batch,)`.
        texts: One-based positions in `CHARACTERS`, shape `(letters of all clips,)`.
        text_lengths: Number of letters of each clip, shape `(batch,)`.

    Returns:
        Scalar.
    """
    # CTC takes time first. A text with more letters than readings has an infinite loss, which counts as zero.
    return F.ctc_loss(log_probs.transpose(0, 1), texts, readings, text_lengths, zero_infinity=True)


class CodecTrainer(nn.Module):
    """Loss of the stage `codec`: encoder, quantizer and mel decoder with the modules that only training needs.

    These are embeddings of voices, a letter recognizer on the codes (`reader`), and one on mel spectrograms
    (`listener`). A distance of spectrograms gives a consonant the weight of any other 50 ms. The listener does not: it
    learns to read letters from recordings of the reply voice, and the codec learns to decode spectrograms from which
    it reads the same letters, with the same hidden states (a feature loss, like that of Johnson et al., "Perceptual
    losses for real-time style transfer", 2016, who use an image classifier). The listener is not trained on decoded
    speech, so that it cannot adapt to artifacts.

    Args:
        codec: The codec.
        settings: Weights of the losses.
    """

    def __init__(self, codec: TtTTinyCodec, settings: CodecTraining):
        super().__init__()
        self.codec = codec
        self.settings = settings
        config = codec.config
        self.voices = nn.Embedding(len(VOICES), config.decoder_code_size)
        nn.init.normal_(self.voices.weight, std=0.1)
        # Two readings per code, because speech has more letters than codes per second.
        self.reader = LetterReader(len(config.fsq_levels), config.decoder_code_size, 2, 2, config)
        self.listener = make_listener(config)

    def forward(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of a batch of `CodecBatches`, and its parts by name.

        1. Encodes the degraded waveforms, quantizes, and decodes each in its own voice.
        2. Compares the mel spectrograms with those of the clean waveforms.
        3. Reads the letters from the codes, so that codes keep the words of any voice.
        4. Keeps all quantizer dimensions in use.
        5. Adds the losses by the listener, if the batch has clips of the reply voice.
        """
        config = self.codec.config
        # 1. Spectrograms: (batch, frames, mel bins); hidden and vectors: (batch, codes, quantizer dimensions).
        target = self.codec.mel(batch["clean"])
        hidden = self.codec.encoder(self.codec.mel(batch["noisy"]))
        vectors = self.codec.quantise(hidden)
        mel = self.codec.decoder(vectors, voice=self.voices(batch["voices"]))
        # 2. Mask of frames, (batch, frames, 1): the clip, and the silence of one code after it.
        frames = torch.arange(mel.shape[1], device=mel.device) * config.hop_length
        inside_clip = (frames < batch["lengths"][:, None] + config.samples_per_code).float()[..., None]
        is_reply = batch["voices"] == voice_index(REPLY_VOICE)
        # Other voices are only encoded when the model is used, never decoded.
        share = torch.where(is_reply, 1.0, self.settings.question_weight)[:, None, None]
        mel_loss = mel_distance(mel, target, inside_clip * share)
        # 3. The last code of a clip may be partly filled. Twice as many readings as codes, see `reader`.
        code_counts = -(-batch["lengths"] // config.samples_per_code)
        words_loss = letter_loss(self.reader(vectors)[0], code_counts * 2, batch["texts"], batch["text_lengths"])
        # 4. Codes of padding do not count: hidden[inside] is (codes of all clips, quantizer dimensions).
        inside = torch.arange(hidden.shape[1], device=hidden.device) < code_counts[:, None]
        spread_loss = spread_distance(hidden[inside].tanh())
        # For the log: the number of different codes, relative to that of all codes.
        codes = self.codec.vectors_to_codes(vectors.detach())[inside]
        used = torch.tensor(codes.unique().numel() / codes.numel())
        loss = mel_loss + self.settings.recognition_weight * words_loss + self.settings.spread_weight * spread_loss
        parts = {"mel": mel_loss, "words": words_loss, "spread": spread_loss, "used": used}
        # 5. Without such clips the listener gets no gradient in this step.
        if is_reply.any():
            learned, missed, changed = self._listen(mel, target, is_reply, batch)
            loss = loss + learned + self.settings.listener_weight * (missed + changed)
            parts |= {"listener": learned, "missed": missed, "changed": changed}
        return loss, {name: part.detach() for name, part in parts.items()}

    def _listen(
        self, mel: Tensor, target: Tensor, rows: Tensor, batch: dict[str, Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Losses by the listener on the clips of the reply voice.

        Returns:
            Its own CTC loss on the recordings; CTC loss of the decoded spectrograms; distance of its hidden states.
        """
        # Letters of the chosen clips, and the listener's steps inside each of them.
        span = LISTENER_FRAMES * self.codec.config.hop_length
        counts = batch["lengths"][rows] // span
        texts = torch.cat(
            [text for text, row in zip(batch["texts"].split(batch["text_lengths"].tolist()), rows) if row]
        )

        # States: (blocks, rows, steps, size).
        read, states = self.listener(join_frames(target[rows]))
        learned = letter_loss(read, counts, texts, batch["text_lengths"][rows])
        # Detached weights: decoded speech trains the codec, not the listener.
        fixed = {name: weight.detach() for name, weight in self.listener.named_parameters()}
        decoded, decoded_states = torch.func.functional_call(self.listener, fixed, (join_frames(mel[rows]),))
        missed = letter_loss(decoded, counts, texts, batch["text_lengths"][rows])
        # The states of the recordings are targets: no gradient reaches the listener from their distance.
        inside = torch.arange(states.shape[2], device=mel.device) < counts[:, None]
        return learned, missed, (decoded_states - states.detach())[:, inside].abs().mean()


@dataclass(frozen=True)
class VocoderLosses:
    """Losses of the two parts of the stage `vocoder`; each takes a batch of recordings, shape `(batch, samples)`.

    Args:
        codec: The codec; its encoder is not trained.
        listener: The trained listener; not trained either.
        listener_weight: Weight of the distance of its hidden states.
    """

    codec: TtTTinyCodec
    listener: LetterReader
    listener_weight: float

    def vocoder(self, target: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of the vocoder alone, and its parts."""
        with torch.no_grad():
            mel = self.codec.decoder(self._codebook_vectors(target))
        # Half of the clips come from the true mel spectrogram, which is sharper than a decoded one: both are
        # (batch, frames, mel bins).
        half = len(mel) // 2
        mel = torch.cat([self.codec.mel(target[:half]), mel[half:]])
        return waveform_distance(self.codec.vocoder(mel), target, self.codec)

    def joint(self, target: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of mel decoder and vocoder together, and its parts."""
        mel = self.codec.decoder(self._codebook_vectors(target))
        waveform = self.codec.vocoder(mel)
        loss, parts = waveform_distance(waveform, target, self.codec)
        target_mel = self.codec.mel(target)
        # Keeps the input of the vocoder a mel spectrogram.
        loss = loss + mel_distance(mel, target_mel, torch.ones_like(mel[..., :1]))
        # The listener reads the final waveform, so that its loss covers mel decoder and vocoder.
        _, states = self.listener(join_frames(self.codec.mel(waveform)))
        with torch.no_grad():
            _, expected = self.listener(join_frames(target_mel))
        changed = (states - expected).abs().mean()
        return loss + self.listener_weight * changed, {**parts, "changed": changed.detach()}

    def _codebook_vectors(self, waveform: Tensor) -> Tensor:
        # The encoder is frozen: (batch, samples) to (batch, codes, quantizer dimensions), without a gradient.
        with torch.no_grad():
            return self.codec.quantise(self.codec.encoder(self.codec.mel(waveform)))


def make_listener(config: TtTTinyCodecConfig) -> LetterReader:
    """Builds an untrained letter recognizer for mel spectrograms of the codec."""
    return LetterReader(LISTENER_FRAMES * config.num_mel_bins, LISTENER_SIZE, LISTENER_BLOCKS, 1, config)


def join_frames(mel: Tensor) -> Tensor:
    """Joins mel frames for the listener: shape `(batch, frames, bins)` to `(batch, frames / n, n * bins)`."""
    return mel.unflatten(1, (-1, LISTENER_FRAMES)).flatten(2)


def voice_index(name: str) -> int:
    """Index of a voice in the embeddings of voices; it does not depend on the voices in the data."""
    return list(VOICES).index(name)
