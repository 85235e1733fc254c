"""Multiply-accumulates of a shape on paper: the check on what is counted, and the cost of a shape never built."""

from collections.abc import Sequence

from fithubert.config.student import StudentConfig, TimeReductionConfig
from fithubert.config.teacher import HubertConfig
from fithubert.profile.breakdown import PARTS


def analytic_macs(config: HubertConfig | StudentConfig, num_samples: int) -> dict[str, int]:
    """Multiply-accumulates of each part on one utterance of `num_samples`, in `PARTS` order.

    The same convention as `count_parts`: matrix products and convolutions only. A student's read-out heads are those
    that its `readout` uses.
    """
    macs = dict.fromkeys(PARTS, 0)
    macs["front_end"], frames = _front_end_macs(config.conv_layers, num_samples)
    macs["projection"] = frames * config.conv_layers[-1][0] * config.width
    # An even kernel is padded by half on both sides and computes one frame that is then dropped.
    positions = frames + 1 - config.pos_conv_kernel % 2
    macs["positional_conv"] = (
        positions * config.width * (config.width // config.pos_conv_groups) * config.pos_conv_kernel
    )
    reduction = config.time_reduction if isinstance(config, StudentConfig) else None
    reduced = frames
    if reduction is not None and reduction.kind != "none":
        reduced = frames // reduction.factor if reduction.drop_last_frame else -(-frames // reduction.factor)
        macs["time_reduction"] = _time_reduction_macs(reduction, reduced, config.width)
    before = config.depth if reduction is None or reduction.kind == "none" else reduction.before_layer
    macs["transformer"] = before * _layer_macs(frames, config.width, config.ffn_width) + (
        config.depth - before
    ) * _layer_macs(reduced, config.width, config.ffn_width)
    if isinstance(config, StudentConfig):
        macs["readout"] = _readout_macs(config, frames, reduced)
    return macs


def _front_end_macs(layers: Sequence[tuple[int, int, int]], num_samples: int) -> tuple[int, int]:
    """The convolutions' multiply-accumulates, and the frames that they leave."""
    total, channels_in, length = 0, 1, num_samples
    for channels, kernel, stride in layers:
        length = (length - kernel) // stride + 1
        total += length * channels * channels_in * kernel
        channels_in = channels
    return total, length


def _layer_macs(frames: int, width: int, ffn_width: int) -> int:
    """One transformer layer: four projections, scores and weighted values, feed-forward in and out."""
    return frames * (4 * width * width + 2 * width * ffn_width) + 2 * frames * frames * width


def _time_reduction_macs(config: TimeReductionConfig, reduced: int, width: int) -> int:
    """A strided convolution or a linear layer over `factor` stacked frames; a mean multiplies nothing."""
    return 0 if config.kind == "mean" else reduced * config.factor * width * width


def _readout_macs(config: StudentConfig, frames: int, reduced: int) -> int:
    """The heads that downstream use reads: one for `last`, none for `layers`, all for `projections`."""
    if config.readout == "layers":
        return 0
    heads = 1 if config.readout == "last" else len(config.heads.layer_map)
    upsampled = 0
    if config.time_reduction.kind != "none" and config.heads.upsampling == "transposed_conv":
        upsampled = reduced * config.time_reduction.factor * config.width * config.width
    return heads * (upsampled + frames * config.width * config.heads.teacher_width)
