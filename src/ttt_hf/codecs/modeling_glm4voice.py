"""The GLM-4-Voice codec: tokenizer and decoder as one codec."""

import torch
from torch import Tensor, nn
from transformers.modeling_utils import PreTrainedAudioTokenizerBase

from .configuration_glm4voice import Glm4VoiceCodecConfig
from .features_glm4voice import mel_spectrogram
from .modeling_glm4voice_decoder import Glm4VoiceDecoder, Glm4VoiceStream, Glm4VoiceVoice
from .modeling_glm4voice_tokenizer import Glm4VoiceTokenizer
from .rowwise import CodecOutput
from .validation import check_waveform, code_rows


class Glm4VoiceCodec(PreTrainedAudioTokenizerBase):
    """The speech codec of GLM-4-Voice: a single codebook of 16384 codes, 12.5 codes per second.

    It encodes at `config.sampling_rate` (16 kHz) and decodes at `config.output_sampling_rate` (22.05 kHz), with
    the voice prompt `voice` unless another one is passed.

    Args:
        config: Settings; weights are random until `from_pretrained` sets them.
    """

    config_class = Glm4VoiceCodecConfig
    config: Glm4VoiceCodecConfig
    base_model_prefix = "codec"
    main_input_name = "waveform"
    input_modalities = ("audio",)
    _no_split_modules = ("WhisperEncoderLayer",)
    _supports_sdpa = True

    def __init__(self, config: Glm4VoiceCodecConfig) -> None:
        super().__init__(config)
        # The config turns dictionaries into configurations.
        self.tokenizer = Glm4VoiceTokenizer(config.tokenizer_config)  # type: ignore[arg-type]
        self.decoder = Glm4VoiceDecoder(config.decoder_config)  # type: ignore[arg-type]
        self.voice: Glm4VoiceVoice | None = None
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        # That of the decoder also has the defaults of transformers, which the tokenizer needs.
        self.decoder._init_weights(module)

    @torch.no_grad()
    def encode(self, waveform: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Encodes waveforms to codes.

        Args:
            waveform: Float of shape `(batch, samples)` at `config.sampling_rate`.
            lengths: `torch.long` of shape `(batch,)`, samples of each row; by default all samples count.

        Returns:
            `torch.long` of shape `(batch, frames)` with frames = ceil(samples / 1280) of the longest row; -1 after
            the end of a row.

        Raises:
            ValueError: If the waveform has the wrong shape or dtype, is empty or holds values that are not finite, or
                if the lengths do not fit it.
        """
        return self.tokenizer.encode(waveform, check_waveform(waveform, lengths))

    @torch.no_grad()
    def decode(self, codes: Tensor, lengths: Tensor | None = None, voice: Glm4VoiceVoice | None = None) -> Tensor:
        """Decodes codes to waveforms.

        Rows are decoded one by one, since the decoder normalises over all frames of a row.

        Args:
            codes: `torch.long` of shape `(batch, frames)` in [0, config.codebook_size); -1 is allowed after the end
                of a row only.
            lengths: `torch.long` of shape `(batch,)`, codes of each row; by default a row ends before its trailing -1.
            voice: Voice prompt, by default that of the codec.

        Returns:
            Float32 of shape `(batch, samples)` in [-1, 1] at `config.output_sampling_rate`: 1764 samples per code,
            rounded down to full mel frames; zero after the end of a row.

        Raises:
            ValueError: If there are no codes, or codes, lengths or voice have the wrong shape or dtype or are out of
                range.
        """
        rows = code_rows(codes, lengths, self.config.codebook_size)
        if not codes.numel():
            raise ValueError("There are no codes to decode: give at least one.")
        decoded = [self.decoder(row, voice or self.voice) for row in rows]
        size = self.config.decoder_config.num_frames(codes.shape[1]) * self.config.decoder_config.samples_per_frame
        # With a voice prompt a row may have more frames than its codes alone.
        waveform = torch.zeros(len(rows), max(size, *map(len, decoded)), device=self.device)
        for row, samples in zip(waveform, decoded):
            row[: len(samples)] = samples
        return waveform

    def decode_stream(self, voice: Glm4VoiceVoice | None = None) -> Glm4VoiceStream:
        """Opens a stream that decodes codes as they arrive, see [`Glm4VoiceStream`]; arguments as for `decode`."""
        return self.decoder.decode_stream(voice or self.voice)

    @torch.no_grad()
    def make_voice(self, waveform: Tensor, output_waveform: Tensor, speaker: Tensor | None = None) -> Glm4VoiceVoice:
        """Makes a voice prompt from a recording, some seconds of one speaker.

        Args:
            waveform: Float of shape `(samples,)` at `config.sampling_rate`.
            output_waveform: The same recording at `config.output_sampling_rate`.
            speaker: Speaker embedding, float of shape `(speaker size,)`.

        Returns:
            The voice prompt, to be passed to `decode` or assigned to `voice`.

        Raises:
            ValueError: If a waveform has the wrong shape or dtype, is empty or holds values that are not finite.
        """
        codes = self.encode(waveform[None])[0]
        check_waveform(output_waveform[None], None)
        config = self.config.decoder_config
        mel = mel_spectrogram(
            output_waveform.float(), config.sampling_rate, config.samples_per_frame, config.num_mel_bins
        )
        # The codes must cover the spectrogram.
        return Glm4VoiceVoice(codes, mel[: config.num_frames(len(codes))], speaker)

    def forward(self, waveform: Tensor, lengths: Tensor | None = None) -> CodecOutput:
        """Encodes and decodes; arguments as for `encode`."""
        codes = self.encode(waveform, lengths)
        return CodecOutput(audio_codes=codes, audio_values=self.decode(codes))
