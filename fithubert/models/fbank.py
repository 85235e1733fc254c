"""Log-mel filter banks that answer as a model with one layer: the baseline that every model has to beat."""

import torch
from torch import Tensor
from torchaudio.compliance import kaldi

from fithubert.files import digest
from fithubert.frames import SAMPLE_RATE_HZ, count_conv_frames
from fithubert.models.speech_model import SpeechOutput

_WINDOW_SAMPLES, _HOP_SAMPLES, _MELS = 400, 160, 80


class FbankModel:
    """80 log-mel energies of 25 ms windows every 10 ms (Kaldi's `fbank`), no parameters.

    Differs from SUPERB's `fbank` upstream: neither deltas nor cepstral mean and variance normalisation, which the
    leaderboard's newer row drops as well for utterance-level tasks.
    """

    name = "fbank"
    widths: tuple[int, ...] = (_MELS,)
    convolutions: tuple[tuple[int, int], ...] = ((_WINDOW_SAMPLES, _HOP_SAMPLES),)
    fingerprint = digest("fbank", str(_MELS), "kaldi dither 0, centred and scaled by constants")
    # Mean and deviation of log energies of 16-bit-scaled speech, constants so that nothing depends on a corpus.
    _MEAN, _SCALE = 12.0, 4.0

    @torch.inference_mode()
    def __call__(self, waveforms: Tensor, lengths: Tensor, last_layer: int | None = None) -> SpeechOutput:
        """(batch, time, 80) log-mel energies, one layer (layer 0); `last_layer` changes nothing."""
        frames = count_conv_frames(lengths, self.convolutions)
        rows = [self._log_mel(w[: int(n)]) for w, n in zip(waveforms, lengths, strict=True)]
        return SpeechOutput((torch.nn.utils.rnn.pad_sequence(rows, batch_first=True),), frames)

    def _log_mel(self, waveform: Tensor) -> Tensor:
        if waveform.shape[0] < _WINDOW_SAMPLES:
            return waveform.new_zeros(0, _MELS)
        features = kaldi.fbank(waveform[None] * 32768, num_mel_bins=_MELS, sample_frequency=SAMPLE_RATE_HZ, dither=0.0)
        return (features - self._MEAN) / self._SCALE
