"""The section `data`: the embedded corpus, a folder of recordings, or a published corpus."""

from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator

from fithubert.config.base import StrictModel

LibriSpeechSubset = Literal[
    "train-clean-100", "train-clean-360", "train-other-500", "dev-clean", "dev-other", "test-clean", "test-other"
]


class CorpusFolder(StrictModel):
    """A corpus in the layout in which it is published; its files are read in place, none is copied."""

    #: The folder that holds the corpus, or its own. A preset uses `???` for a value that the user must give.
    path: Path
    #: Decibels that recordings are amplified by as they are read: -3 is sox's in SUPERB's KS, QbE and ASV.
    gain_db: float = Field(0.0, ge=-60, le=60)

    @field_validator("path")
    @classmethod
    def _check_path(cls, path: Path) -> Path:
        if str(path) == "???":
            raise ValueError("name the folder of the corpus: `-S data.path=DIR`, or `--path DIR` of fithubert prepare")
        return path


class LibriSpeechData(CorpusFolder):
    """LibriSpeech: PR, ASR, and distillation on 100 or 960 hours."""

    source: Literal["librispeech"] = "librispeech"
    train: tuple[LibriSpeechSubset, ...] = ("train-clean-100",)
    dev: tuple[LibriSpeechSubset, ...] = ("dev-clean",)
    test: tuple[LibriSpeechSubset, ...] = ("test-clean",)
    #: The folder of the two lexicon files that PR's phones come from; None: `lexicon` next to or in the corpus.
    lexicon: Path | None = None

    @model_validator(mode="after")
    def _check_subsets(self) -> "LibriSpeechData":
        if not (*self.train, *self.dev, *self.test):
            raise ValueError("train, dev and test are all empty; name a subset, for example test-clean")
        return self


class VoxCelebData(CorpusFolder):
    """VoxCeleb1, whose splits differ between identification and verification."""

    source: Literal["voxceleb1"] = "voxceleb1"
    task: Literal["sid", "asv"] = "sid"
    #: Windows of 8 s that stand for each longer training recording, drawn once; 0 keeps it whole. SUPERB draws another
    #: one in every epoch.
    crops: int = Field(0, ge=0)
    #: ASV: cut silences out as sox does in SUPERB, of which recordings of at most 2 s are not trained on.
    trim_silence: bool = False

    @model_validator(mode="after")
    def _check_task(self) -> "VoxCelebData":
        if self.trim_silence and self.task != "asv":
            raise ValueError("trim_silence: SUPERB's sid keeps silences; for task asv only")
        return self


class Libri2MixData(CorpusFolder):
    """Libri2Mix (16 kHz, max, mix_both) with the turns of its Kaldi folders."""

    source: Literal["libri2mix"] = "libri2mix"
    #: The folder of the Kaldi folders train, dev and test; None: `data` in the corpus.
    labels: Path | None = None


class IemocapData(CorpusFolder):
    """One fold of IEMOCAP: session `fold` is the test split."""

    source: Literal["iemocap"] = "iemocap"
    fold: int = Field(1, ge=1, le=5)
    #: The folder of SessionK/{train,test}_meta_data.json, whose order decides the official dev split; None: by path.
    lists: Path | None = None


class PlainCorpus(CorpusFolder):
    """A corpus that is read in one way only."""

    source: Literal["speech_commands", "fluent_speech_commands", "quesst14", "snips"]


class RealData(CorpusFolder):
    """Real human speech with labels for all ten tasks: parts of LibriSpeech and of three other free corpora."""

    source: Literal["real"] = "real"
    #: ER: the pair of speakers who are the test split.
    fold: int = Field(1, ge=1, le=5)
    #: Decides the split of LibriSpeech's speakers and of the files of commands, the trials, mixtures and queries.
    seed: int = Field(1, ge=0)


PublishedCorpus = LibriSpeechData | VoxCelebData | Libri2MixData | IemocapData | RealData | PlainCorpus


class SyntheticData(StrictModel):
    """The embedded corpus: formant speech, synthesised on first use, with every label exact."""

    source: Literal["synthetic"] = "synthetic"
    #: `pretraining` has other sentences and other voices than `default`, whatever the seeds, and no labels of tasks.
    world: Literal["default", "pretraining"] = "default"
    hours: float = Field(1.0, gt=0, le=100)
    speakers: int = Field(48, ge=4, le=500)
    #: More speakers, who appear only in the verification split.
    heldout_speakers: int = Field(8, ge=2, le=500)
    seed: int = Field(1, ge=0)


class FolderData(StrictModel):
    """Any directory of recordings. `transcripts`: a file of `path<TAB>text` lines, or none.

    Without it, texts are read from `.txt` files of the recordings' names and from LibriSpeech's `*.trans.txt`.
    """

    source: Literal["folder"] = "folder"
    #: A preset uses `???` for a value that the user must give.
    path: Path
    transcripts: Path | None = None
    dev_share: float = Field(0.1, gt=0, lt=0.5)
    test_share: float = Field(0.1, gt=0, lt=0.5)
    seed: int = Field(1, ge=0)

    @field_validator("path")
    @classmethod
    def _check_path(cls, path: Path) -> Path:
        if str(path) == "???":
            raise ValueError("name the folder of recordings, for example `dvc exp run -S data=folder -S data.path=DIR`")
        return path


DataParams = SyntheticData | FolderData | PublishedCorpus
