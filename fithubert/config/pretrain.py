"""How a teacher is pre-trained: the recipe of `fithubert pretrain`."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from fithubert.config.base import StrictModel, read_yaml, validate
from fithubert.config.data import FolderData, SyntheticData
from fithubert.config.teacher import HubertConfig


class UnitParams(StrictModel):
    """The discrete targets of one iteration: k-means clusters of MFCC frames or of a hidden layer, or aligned phones.

    `phones` needs a corpus with aligned phones. It replaces the many iterations after which HuBERT's units are close
    to phones; `clusters` and `sample_frames` then have no effect.
    """

    features: Literal["mfcc", "phones"] | int = "mfcc"
    #: Units of each phone, one after the other in equal parts of its duration.
    states_per_phone: int = Field(1, ge=1, le=5)
    clusters: int = Field(100, gt=1)
    #: Frames that k-means is fitted on.
    sample_frames: int = Field(200_000, gt=0)


class ManifestData(StrictModel):
    """A corpus that `fithubert prepare` wrote: `path` is its data folder, which holds `manifests/` and `audio/`."""

    source: Literal["manifest"] = "manifest"
    path: Path


class SpeakerParams(StrictModel):
    """The speaker of each crop as a second target, by cross-entropy from the mean over time of hidden state `layer`.

    It stands in for what a HuBERT learns of voices from units that hold them; units of phones hold none. Utterances
    without a speaker count for nothing.
    """

    layer: int = Field(ge=0)
    weight: float = Field(gt=0)


class IterationParams(StrictModel):
    """One iteration of HuBERT pre-training: its units and how long it trains on them."""

    units: UnitParams
    speakers: SpeakerParams | None = None
    updates: int = Field(gt=0)
    learning_rate: float = Field(1.5e-3, gt=0)
    #: Start from the weights of the iteration before; HuBERT starts from random weights.
    warm_start: bool = False


class PretrainParams(StrictModel):
    """Masked prediction of units (HuBERT, Hsu et al. 2021, section II)."""

    data: Annotated[SyntheticData | FolderData | ManifestData, Field(discriminator="source")]
    #: The name of the finished teacher.
    name: str = Field("hubert", min_length=1)
    model: HubertConfig
    iterations: tuple[IterationParams, ...] = Field(min_length=1)
    #: A teacher of `model`'s shape whose weights the first iteration starts from, and whose layers may give its units.
    start_from: str | None = None
    seed: int = Field(1, ge=0)
    #: Padded audio of an update, over all ranks.
    batch_seconds: float = Field(120.0, gt=0)
    #: Forward passes of an update, divided among the ranks. With dropout at least one for each rank, so that the same
    #: is dropped for any number of ranks.
    passes: int = Field(1, gt=0)
    crop_seconds: float = Field(6.0, gt=0)
    #: Share of frames that start a mask times its length [mask_prob], and the length in frames.
    mask_probability: float = Field(0.65, gt=0, le=1)
    mask_frames: int = Field(10, gt=0)
    #: Share of the utterances with another voice over part of them, as in WavLM; their units stay those of their own.
    mixing_probability: float = Field(0.0, ge=0, le=1)
    #: Weight of the loss on frames that are not masked [pred_nomask_weight].
    unmasked_weight: float = Field(0.5, ge=0)
    #: Weight of the mean square of the front end's output [loss_weights].
    feature_penalty: float = Field(0.0, ge=0)
    #: `cosine` is HuBERT's own [final_dim 256, logit_temp 0.1]; it needs hundreds of thousands of updates.
    classifier: Literal["linear", "cosine"] = "linear"
    #: Inside layers, on attention and before the first layer [dropout, attention_dropout].
    dropout: float = Field(0.05, ge=0, lt=1)
    #: Before the mask [dropout_input].
    input_dropout: float = Field(0.0, ge=0, lt=1)
    #: Probability that an update leaves a transformer layer out [encoder_layerdrop].
    layer_dropout: float = Field(0.0, ge=0, lt=1)
    #: Share of the gradient that reaches the front end [feature_grad_mult].
    frontend_gradient: float = Field(1.0, gt=0, le=1)
    weight_decay: float = Field(0.01, ge=0)
    warmup_share: float = Field(0.06, ge=0, lt=1)
    gradient_clip: float = Field(5.0, gt=0)
    checkpoint_every_updates: int = Field(500, gt=0)
    precision: Literal["float32", "bfloat16"] = "float32"

    @property
    def drops(self) -> bool:
        """Whether anything is dropped at random besides masked frames."""
        return max(self.dropout, self.input_dropout, self.layer_dropout) > 0

    @model_validator(mode="after")
    def _check_units(self) -> "PretrainParams":
        for number, iteration in enumerate(self.iterations, start=1):
            layer, speakers = iteration.units.features, iteration.speakers
            if speakers is not None and speakers.layer > self.model.depth:
                raise ValueError(f"iterations: speakers.layer {speakers.layer} is not a layer 0..{self.model.depth}")
            if isinstance(layer, str):
                continue
            if number == 1 and self.start_from is None:
                raise ValueError(f"iterations: units of layer {layer} in the first one need start_from; use mfcc")
            if not 0 <= layer <= self.model.depth:
                raise ValueError(f"iterations: units.features {layer} is not mfcc or a layer 0..{self.model.depth}")
        return self


def load_pretrain_params(path: Path) -> PretrainParams:
    """The checked pre-training parameters in a YAML file; raises UserError in one line."""
    return validate(PretrainParams, read_yaml(path), str(path))
