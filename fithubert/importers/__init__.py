"""Teachers: frozen models of speech whose hidden states a student learns to predict, by one name each.

Layer 0 is the input of the first transformer layer; layers 1..L are the outputs of the transformer layers.
"""

from collections.abc import Callable
from pathlib import Path

from fithubert.errors import UserError
from fithubert.files import read_json
from fithubert.importers.fairseq import read_fairseq
from fithubert.importers.huggingface import read_huggingface
from fithubert.importers.torch_files import read_torch_file
from fithubert.importers.torchaudio import read_torchaudio
from fithubert.models.speech_model import FbankModel, SpeechModel
from fithubert.models.weights import read_teacher

#: The teachers of the package, one folder each with its MODEL_CARD.md.
_PACKAGED = Path(__file__).resolve().parents[1] / "pretrained"

#: Teachers that have a name of their own.
NAMED: dict[str, Callable[[], SpeechModel]] = {
    "mini": lambda: read_teacher(_PACKAGED / "mini"),
    "fbank": FbankModel,
}
#: Readers of `PREFIX:PLACE`, by prefix.
SOURCES: dict[str, Callable[[str], SpeechModel]] = {
    "hf": read_huggingface,
    "torchaudio": read_torchaudio,
    "fairseq": lambda place: read_fairseq(Path(place)),
}


def names_teacher(spec: str) -> bool:
    """Whether `spec` names a teacher, as `load_teacher` takes it, and not a file with the checkpoint of a student."""
    path = Path(spec)
    if not path.is_file():
        return path.is_dir() or spec in NAMED or spec.partition(":")[0] in SOURCES
    return not {"model", "model_weight"}.isdisjoint(read_torch_file(path, mapped=True))


def load_teacher(spec: str | Path) -> SpeechModel:
    """The frozen teacher that `spec` names, on the CPU.

    `mini`, `fbank`; `hf:DIRECTORY` or `hf:OWNER/NAME[@REVISION]`; `torchaudio:HUBERT_BASE`;
    `fairseq:FILE`, for s3prl's and unilm's files as well; a directory that `save_teacher` or transformers wrote; a .pt
    file. The same weights have the same fingerprint wherever they came from, if the waveforms are normalised alike.
    Raises UserError naming what there is, or the file and the tensor that is wrong.
    """
    text = str(spec)
    if text in NAMED:
        return NAMED[text]()
    source, colon, place = text.partition(":")
    if colon and source in SOURCES:
        return SOURCES[source](place)
    path = Path(spec)
    if path.is_file():
        return read_fairseq(path)
    if not path.is_dir():
        raise UserError(
            f"teacher {text!r}: neither a directory, a file, one of {', '.join(sorted(NAMED))}, nor "
            f"{', '.join(f'{name}:...' for name in sorted(SOURCES))}"
        )
    config = read_json(path / "config.json")
    return read_huggingface(text) if isinstance(config, dict) and "model_type" in config else read_teacher(path)
