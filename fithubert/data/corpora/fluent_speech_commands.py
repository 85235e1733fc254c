"""Fluent Speech Commands: `fluent_speech_commands_dataset/{wavs,data}`, commands with their intents for IC.

Metadata by `torchaudio.datasets.FluentSpeechCommands`, which covers all of it.
"""

from torchaudio.datasets import FluentSpeechCommands

from fithubert.config.data import PlainCorpus
from fithubert.data.corpora.layout import Corpus, Progress, draft, find_layout
from fithubert.data.manifest import Intent
from fithubert.data.utterance import normalise

_FOLDER = "fluent_speech_commands_dataset"
_HOME = "https://fluent.ai/fluent-speech-commands-a-dataset-for-spoken-language-understanding-research/"
_SPLITS = {"train": "train", "valid": "dev", "test": "test"}


def read_fluent_speech_commands(config: PlainCorpus, on_progress: Progress | None = None) -> Corpus:
    """Commands with action, object and location, split as published; raises UserError if a list is missing."""
    layout = find_layout(config.path, _FOLDER, "Fluent Speech Commands", _HOME)
    parent = layout.parent_of(_FOLDER)
    utterances = []
    for subset, split in _SPLITS.items():
        listed = layout.file("data", f"{subset}_data.csv")
        try:
            rows = FluentSpeechCommands(parent, subset)
            metadata = [rows.get_metadata(index) for index in range(len(rows))]
        except (ValueError, IndexError) as error:
            raise layout.broken(listed, f"not the list that was published ({error})") from None
        for audio, _, name, speaker, transcript, action, thing, location in metadata:
            text = normalise(transcript)
            utterances.append(
                draft(
                    name,
                    audio,
                    split,
                    "command",
                    speaker=str(speaker),
                    text=text,
                    words=tuple(text.split()),
                    intent=Intent(action, thing, location),
                )
            )
    return Corpus(layout.finish(utterances, on_progress))
