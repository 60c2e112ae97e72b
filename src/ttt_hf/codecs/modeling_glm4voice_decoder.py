"""The decoder of GLM-4-Voice: codes to waveform, at once or as a stream, with an optional voice prompt.

Source: Zeng et al., "GLM-4-Voice: Towards Intelligent and Human-Like End-to-End Spoken Chatbot", 2024, and its code,
https://github.com/THUDM/GLM-4-Voice.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import initialization as init
from transformers.modeling_utils import PreTrainedModel

from .configuration_glm4voice import Glm4VoiceDecoderConfig
from .modeling_glm4voice_flow import Glm4VoiceFlow, Glm4VoiceRelativeAttention
from .modeling_glm4voice_vocoder import PITCH_LAYERS, Glm4VoiceSnake, Glm4VoiceVocoder
from .validation import check_codes


# Codes that a stream waits for before it decodes: a block of the conformer.
MIN_CODES = 10
# Codes at the end of a chunk whose spectrogram is cross-faded with that of the next chunk.
OVERLAP_CODES = 5
# Frames after the overlap whose waveform is cross-faded, too.
FADE_FRAMES = 1
# Frames on either side that the vocoder's waveform depends on, an upper bound.
CONTEXT_FRAMES = 20
# About how many codes a stream keeps: older ones are no longer context, so the cost of a chunk stays bounded.
HISTORY_CODES = 256


@dataclass
class Glm4VoiceVoice:
    """A voice prompt: a recording in three optional forms, which decoded speech continues.

    Args:
        codes: Codes of the recording, `torch.long` of shape `(codes,)`.
        mel: Its `mel_spectrogram`, float of shape `(frames, mel bins)`, not longer than the codes.
        speaker: Speaker embedding, float of shape `(speaker size,)`.
    """

    codes: Tensor | None = None
    mel: Tensor | None = None
    speaker: Tensor | None = None


class Glm4VoiceDecoder(PreTrainedModel):
    """Decodes codes to waveforms.

    Args:
        config: Settings; weights are random until `from_pretrained` sets them.
    """

    config_class = Glm4VoiceDecoderConfig
    config: Glm4VoiceDecoderConfig
    base_model_prefix = "decoder"
    main_input_name = "audio_codes"
    # Half precision is too coarse for phases.
    _keep_in_fp32_modules_strict = ("vocoder",)

    def __init__(self, config: Glm4VoiceDecoderConfig) -> None:
        super().__init__(config)
        self.flow = Glm4VoiceFlow(config)
        self.vocoder = Glm4VoiceVocoder(config)
        self.post_init()

    def _init_weights(self, module: Any) -> None:
        super()._init_weights(module)
        # Parameters of our own modules, which have no default.
        if isinstance(module, Glm4VoiceRelativeAttention):
            init.zeros_(module.pos_bias_u)
            init.zeros_(module.pos_bias_v)
        elif isinstance(module, Glm4VoiceSnake):
            init.ones_(module.alpha)

    def forward(self, audio_codes: Tensor, voice: Glm4VoiceVoice | None = None) -> Tensor:
        """Decodes one row of codes.

        Args:
            audio_codes: `torch.long` of shape `(codes,)` in [0, codebook_size).
            voice: Voice prompt.

        Returns:
            Float32 of shape `(samples,)`, `config.num_frames(codes) * config.samples_per_frame` of them without a
            voice prompt.

        Raises:
            ValueError: If codes or voice have the wrong shape or dtype or are out of range.
        """
        stream = self.decode_stream(voice)
        stream.take(audio_codes)
        return stream.finish()

    def decode_stream(self, voice: Glm4VoiceVoice | None = None) -> "Glm4VoiceStream":
        """Opens a stream that decodes codes chunk by chunk, see [`Glm4VoiceStream`]."""
        return Glm4VoiceStream(self, voice)


class Glm4VoiceStream:
    """Decodes codes chunk by chunk.

    1. The spectrogram of a chunk is predicted with all earlier frames as its known beginning. Its last frames, which
       lack future context, are held back and cross-faded with the prediction of the next chunk.
    2. The vocoder keeps its source, so that the phase is continuous, and sees frames on both sides of a chunk.
    3. Codes and frames beyond the history are dropped.

    Noise is drawn frame by frame from the stream's own generators: a frame has the same noise however the codes are
    split into chunks, and torch's global generator is not used.

    Args:
        decoder: The decoder.
        voice: Voice prompt.

    Raises:
        ValueError: If the voice prompt does not fit the decoder.
    """

    def __init__(self, decoder: Glm4VoiceDecoder, voice: Glm4VoiceVoice | None = None) -> None:
        config, device = decoder.config, decoder.device
        self._decoder = decoder
        self._overlap = config.num_frames(OVERLAP_CODES)
        voice = _checked_voice(voice or Glm4VoiceVoice(), config)
        self._codes = voice.codes.to(device)
        self._mel = voice.mel.to(device).T
        self._speaker = voice.speaker.to(device)
        self._pending = self._codes[:0]
        self._is_finished = False
        # Frames up to `_known` are final, up to `_emitted` returned, up to `_begin` those of the voice prompt. Indices
        # count from the first frame kept, which is at first that of the voice prompt.
        self._known = self._begin = self._emitted = self._mel.shape[1]
        self._mel_generator = torch.Generator().manual_seed(config.seed)
        self._mel_noise = torch.zeros(0, config.num_mel_bins, device=device)
        self._source_generator = torch.Generator().manual_seed(config.seed)
        # The fundamental starts at phase zero, each harmonic at a random phase.
        turns = torch.rand(1, config.num_harmonics + 1, 1, generator=self._source_generator) - 0.5
        turns[:, 0] = 0.0
        self._phases = (2 * torch.pi * turns).to(device)
        self._source_noise = torch.zeros(0, config.num_harmonics + 1, device=device)
        self._source = torch.zeros(1, 1, 0, device=device)
        self._cycles = torch.zeros(1, 1, dtype=torch.float64, device=device)
        self._tail = torch.zeros(0, device=device)

    def push(self, codes: Tensor) -> Tensor:
        """Adds the next codes.

        Args:
            codes: `torch.long` of shape `(n,)` in [0, codebook_size), n may be zero.

        Returns:
            Float32 of shape `(samples,)`: empty while fewer than 10 codes are waiting, otherwise all samples but those
            of the last 35 frames (0.41 s).

        Raises:
            ValueError: If the codes have the wrong shape or dtype or are out of range.
            RuntimeError: If the stream is finished.
        """
        self.take(codes)
        return self._advance(is_last=False) if len(self._pending) >= MIN_CODES else self._tail[:0]

    def finish(self) -> Tensor:
        """Ends the stream and returns the remaining samples, float32 of shape `(samples,)`."""
        # Raises if the stream is finished.
        self.take(self._pending[:0])
        self._is_finished = True
        return self._advance(is_last=True)

    def take(self, codes: Tensor) -> None:
        """Adds the next codes without decoding them; arguments as for `push`."""
        if self._is_finished:
            raise RuntimeError("This stream is finished; open a new one with codec.decode_stream().")
        if codes.ndim != 1:
            raise ValueError(f"A stream takes codes of the shape (n,), not {tuple(codes.shape)}.")
        check_codes(codes, self._decoder.config.codebook_size)
        self._pending = torch.cat([self._pending, codes.to(self._pending)])

    @torch.no_grad()
    def _advance(self, is_last: bool) -> Tensor:
        """Predicts the spectrogram of the waiting codes and returns the samples that are final."""
        if len(self._pending):
            self._extend_mel()
        frames = self._mel.shape[1]
        if frames == self._emitted:
            return self._tail[:0]
        # The last frames change once their future is known.
        self._known = frames if is_last else frames - self._overlap
        # The waveform stays behind the final frames by those that are cross-faded with the next chunk.
        samples = self._vocode(self._known if is_last else self._known - FADE_FRAMES)
        self._forget()
        return samples

    def _extend_mel(self) -> None:
        """Predicts the spectrogram of the waiting codes and cross-fades it with the frames held back."""
        config = self._decoder.config
        self._codes = torch.cat([self._codes, self._pending])
        self._pending = self._pending[:0]
        # Frames up to `known` are final, those up to `tentative` are held back, the others are new.
        frames, known, tentative = config.num_frames(len(self._codes)), self._known, self._mel.shape[1]
        self._mel_noise = _draw(self._mel_generator, self._mel_noise, frames)
        certain = self._mel[:, :known]
        # (bins, frames) without the batch of one
        mel = self._decoder.flow(self._codes[None], self._mel_noise.T[None], certain[None], self._speaker[None])[0]
        # The first frames stay unchanged, since the pitch (and so the phase) of returned samples depends on them.
        blended = _blend(self._mel[:, known:], mel[:, known:tentative], unchanged=PITCH_LAYERS)
        self._mel = torch.cat([certain, blended, mel[:, tentative:]], dim=1)

    def _vocode(self, end: int) -> Tensor:
        """Samples from the first frame not yet returned up to the frame `end`."""
        vocoder, samples_per_frame = self._decoder.vocoder, self._decoder.config.samples_per_frame
        start = max(self._begin, self._emitted - CONTEXT_FRAMES)
        # Source: its pitch continues the cycles, and so the phase, of the samples returned before.
        mel = self._mel[None, :, start:].float()
        pitch = vocoder.f0_predictor(mel)[:, self._emitted - start :]
        cycles = vocoder.cycles(pitch, self._cycles)
        noise = _draw(self._source_generator, self._source_noise, cycles.shape[1])
        # The kept source is that of the context, so both start at the frame `start`.
        source = torch.cat([self._source, vocoder.source(pitch, cycles, self._phases, noise.T[None])], dim=2)
        # Filter: the frames before the first new one are context only.
        waveform = vocoder(mel, source)[0, (self._emitted - start) * samples_per_frame :]
        overlap = len(self._tail)
        waveform = torch.cat([_blend(self._tail, waveform[:overlap]), waveform[overlap:]])

        # State for the next chunk: the tail to cross-fade, the cycles up to `end`, the noise after it, and the source
        # of the frames before it, which become context.
        count = (end - self._emitted) * samples_per_frame
        self._tail = waveform[count : count + FADE_FRAMES * samples_per_frame]
        self._cycles = cycles[:, count - 1 : count]
        self._source_noise = noise[count:]
        context = min(end - self._begin, CONTEXT_FRAMES) * samples_per_frame
        stop = (end - start) * samples_per_frame
        self._source = source[..., stop - context : stop]
        self._emitted = end
        return waveform[:count]

    def _forget(self) -> None:
        """Drops the oldest codes, in groups that correspond to an integer number of frames."""
        ratio = self._decoder.config.frames_per_code
        groups = max(0, len(self._codes) - HISTORY_CODES) // ratio.denominator
        codes, frames = groups * ratio.denominator, groups * ratio.numerator
        self._codes = self._codes[codes:]
        self._mel = self._mel[:, frames:]
        self._mel_noise = self._mel_noise[frames:]
        self._known -= frames
        self._emitted -= frames
        self._begin = max(0, self._begin - frames)


def _checked_voice(voice: Glm4VoiceVoice, config: Glm4VoiceDecoderConfig) -> Glm4VoiceVoice:
    """The voice prompt with defaults for missing parts, checked against the configuration."""
    codes = torch.zeros(0, dtype=torch.long) if voice.codes is None else voice.codes
    mel = torch.zeros(0, config.num_mel_bins) if voice.mel is None else voice.mel
    speaker = torch.zeros(config.speaker_size) if voice.speaker is None else voice.speaker
    if codes.ndim != 1:
        raise ValueError(f"The codes of a voice must have the shape (codes,), not {tuple(codes.shape)}.")
    check_codes(codes, config.codebook_size)
    if mel.ndim != 2 or mel.shape[1] != config.num_mel_bins:
        raise ValueError(
            f"The mel spectrogram of a voice must have the shape (frames, {config.num_mel_bins}), not "
            f"{tuple(mel.shape)}."
        )
    if len(mel) > config.num_frames(len(codes)):
        raise ValueError(
            f"The mel spectrogram of a voice must not be longer than its codes: {len(codes)} codes are "
            f"{config.num_frames(len(codes))} frames, not {len(mel)}."
        )
    if speaker.shape != (config.speaker_size,):
        raise ValueError(f"A speaker vector must have the shape ({config.speaker_size},), not {tuple(speaker.shape)}.")
    return Glm4VoiceVoice(codes.long(), mel.float(), speaker.float())


def _draw(generator: torch.Generator, drawn: Tensor, count: int) -> Tensor:
    """Extends standard normal noise, float32 of shape `(rows, size)`, to `count` rows."""
    if count <= len(drawn):
        return drawn[:count]
    fresh = torch.randn(count - len(drawn), drawn.shape[1], generator=generator)
    return torch.cat([drawn, fresh.to(drawn.device)])


def _blend(old: Tensor, new: Tensor, unchanged: int = 0) -> Tensor:
    """Cross-fades values `(..., n)` from old to new by a raised cosine, after the first `unchanged` ones."""
    count = old.shape[-1] - unchanged
    # Negative positions, those of unchanged values, are clamped to 0 and keep the old value.
    position = (torch.arange(-unchanged, count, device=old.device) + 0.5).clamp(min=0) / max(count, 1)
    return torch.lerp(old, new, 0.5 - 0.5 * torch.cos(torch.pi * position))
