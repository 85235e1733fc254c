"""Checkpoints of any origin are read as data: nothing in them runs, and what is none is named."""

import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from fithubert.errors import UserError
from fithubert.importers import load_teacher
from fithubert.importers.published import import_published
from fithubert.importers.torch_files import parse_list, read_torch_file
from fithubert.tensors import read_tensors
from tests.importers import public
from tests.importers.authors import publish
from tests.importers.pickled import Hostile, foreign
from tests.models.reference import folder, needs_reference

READERS: dict[str, Callable[[Path], Any]] = {"student": import_published, "teacher": load_teacher}


@pytest.mark.parametrize("family", ["fithubert", "distilhubert"])
def test_a_trainers_own_objects_are_read_as_data_and_never_imported(family: str, tmp_path: Path) -> None:
    checkpoint, *_ = publish(family).save(tmp_path)
    values = read_torch_file(Path(checkpoint))
    optimiser = values["Optimizer"] if family == "distilhubert" else values["optimizer_states"][0]
    assert optimiser["param_groups"][0]["schedule"].state == {"warmup": 0.07, "t_total": 200_000}
    if family == "fithubert":
        assert values["hyper_parameters"]["cfg"]["distiller"]["encoder_layers"] == 4
    assert not {"s3prl", "pytorch_lightning"} & set(sys.modules)


@pytest.mark.parametrize("zipped", [True, False])
def test_objects_made_from_arguments_are_not_imported(tmp_path: Path, zipped: bool) -> None:
    with foreign({"fairseq.data.dictionary.Dictionary": object}) as (kind,):
        kind.__reduce__ = lambda self: (kind, (["<s>", "a"],))
        values = {"dictionaries": [kind()], "weight": torch.ones(2)}
        torch.save(values, tmp_path / "x.pt", _use_new_zipfile_serialization=zipped)
    read = read_torch_file(tmp_path / "x.pt")
    assert read["dictionaries"][0].args == (["<s>", "a"],)
    assert torch.equal(read["weight"], torch.ones(2))


@needs_reference
def test_a_namespace_is_read_as_plain_data() -> None:
    values = read_torch_file(folder("distilhubert_tiny", "checkpoint_layout_with_args.ckpt"))
    assert type(values["Args"]).__name__ == "Namespace"


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("shell", [True, False])
@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("where", ["state_dict", "hyper_parameters"])
def test_a_hostile_checkpoint_is_refused_and_runs_nothing(
    reader: str, shell: bool, zipped: bool, where: str, tmp_path: Path
) -> None:
    path, trace = tmp_path / "hostile.pt", tmp_path / "it_ran"
    values = {"state_dict": {"student_model.x": torch.ones(1)}, where: Hostile(trace, shell)}
    torch.save(values, path, _use_new_zipfile_serialization=zipped)
    refused = r"hostile\.pt: refused, nothing was run: it holds pickled Python \([\w.]+"
    with pytest.raises(UserError, match=refused) as caught:
        READERS[reader](path)
    assert "\n" not in str(caught.value)
    assert not trace.exists()


@pytest.mark.parametrize("reader", READERS)
def test_a_plain_hostile_pickle_is_refused_and_runs_nothing(reader: str, tmp_path: Path) -> None:
    path, trace = tmp_path / "hostile.pt", tmp_path / "it_ran"
    for protocol in (2, pickle.DEFAULT_PROTOCOL):
        path.write_bytes(pickle.dumps({"state_dict": Hostile(trace, shell=True)}, protocol))
        with pytest.raises(UserError, match=r"hostile\.pt: "):
            READERS[reader](path)
    assert not trace.exists()


def test_hostile_weights_of_transformers_are_refused(tmp_path: Path) -> None:
    weights = public.save(public.small("hubert"), tmp_path / "hf", normalise=False)
    (weights / "model.safetensors").unlink()
    torch.save({"weight": Hostile(tmp_path / "ran", shell=True)}, weights / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"pytorch_model\.bin: refused"):
        load_teacher(f"hf:{weights}")
    assert not (tmp_path / "ran").exists()


def test_hostile_configuration_strings_are_parsed_and_not_run() -> None:
    for text in ("__import__('os').system('true')", "[(1, 2, 3)] * 10**9", "[x for x in (1,)]", "[1", "7"):
        with pytest.raises(UserError, match=r"conf\.yaml: layers: not a list"):
            parse_list(text, "conf.yaml: layers")
    assert parse_list("[(512,10,5)] + [(512,3,2)] * 2", "here") == [[512, 10, 5], [512, 3, 2], [512, 3, 2]]


@pytest.mark.parametrize("read", [*READERS.values(), read_tensors])
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"nonsense", "(refused|not a readable)"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", "a pointer of Git LFS, not the file"),
        (b"\n<!DOCTYPE html><html><body>404</body></html>", r"a web page \(HTML\), not the file itself"),
    ],
)
def test_what_was_saved_in_place_of_a_checkpoint_is_named(
    read: Callable[[Path], Any], content: bytes, words: str, tmp_path: Path
) -> None:
    (tmp_path / "x.pt").write_bytes(content)
    with pytest.raises(UserError, match=rf"x\.pt: {words}"):
        read(tmp_path / "x.pt")


def test_foreign_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    with pytest.raises(UserError, match=r"x\.pt: no such file"):
        import_published(path)
    for values, words in (({"weights": {}}, "neither a f"), ([1, 2], "no mapping")):
        torch.save(values, path)
        for reader in READERS.values():
            with pytest.raises(UserError, match=f"(?i){words}"):
                reader(path)
