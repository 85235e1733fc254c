"""Import of published checkpoints: what is refused, and that nothing in a checkpoint runs."""

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from fithubert.errors import UserError
from fithubert.importers.published import import_published
from fithubert.importers.torch_files import parse_list, read_torch_file
from tests.models.reference import folder, needs_reference


class Hostile:
    """Writes a file when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("where", ["state_dict", "hyper_parameters"])
def test_a_hostile_checkpoint_is_refused_and_runs_nothing(tmp_path: Path, where: str) -> None:
    path, trace = tmp_path / "hostile.ckpt", tmp_path / "it_ran"
    torch.save({"state_dict": {"student_model.x": torch.ones(1)}, where: Hostile(trace)}, path)
    with pytest.raises(UserError, match=r"hostile\.ckpt: refused, nothing was run: it holds pickled Python") as caught:
        import_published(path)
    assert "\n" not in str(caught.value)
    assert not trace.exists()


def test_a_plain_hostile_pickle_is_refused_and_runs_nothing(tmp_path: Path) -> None:
    path, trace = tmp_path / "hostile.ckpt", tmp_path / "it_ran"
    path.write_bytes(pickle.dumps({"state_dict": Hostile(trace)}, protocol=2))
    with pytest.raises(UserError, match=r"hostile\.ckpt: "):
        import_published(path)
    assert not trace.exists()


def test_hostile_configuration_strings_are_parsed_and_not_run(tmp_path: Path) -> None:
    for text in ("__import__('os').system('true')", "[(1, 2, 3)] * 10**9", "[x for x in (1,)]", "[1", "7"):
        with pytest.raises(UserError, match=r"conf\.yaml: layers: not a list"):
            parse_list(text, "conf.yaml: layers")
    assert parse_list("[(512,10,5)] + [(512,3,2)] * 2", "here") == [[512, 10, 5], [512, 3, 2], [512, 3, 2]]


def test_broken_and_foreign_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "x.ckpt"
    with pytest.raises(UserError, match=r"x\.ckpt: no such file"):
        import_published(path)
    path.write_bytes(b"nonsense")
    with pytest.raises(UserError, match=r"x\.ckpt: "):
        import_published(path)
    torch.save({"model": {}}, path)
    with pytest.raises(UserError, match="neither a FitHuBERT checkpoint"):
        import_published(path)
    torch.save([1, 2], path)
    with pytest.raises(UserError, match="no mapping"):
        import_published(path)


@needs_reference
def test_a_lightning_checkpoint_needs_its_yaml_and_one_that_fits(tmp_path: Path) -> None:
    checkpoint, config = folder("fithubert_tiny", "checkpoint.ckpt"), tmp_path / "config.yaml"
    with pytest.raises(UserError, match=r"name the \.yaml"):
        import_published(checkpoint)
    original = folder("fithubert_tiny", "config.yaml").read_text()
    for change, words in (
        (("encoder_layers: 4", "encoder_layers: 5"), "is missing"),
        (("encoder_embed_dim: 48", "encoder_embed_dim: 64"), "has shape"),
        (("layer_type: transformer", "layer_type: conformer"), "layer_type 'conformer' is not understood"),
        (("encoder_embed_dim: 48", "encoder_embed_dim: wide"), "encoder_embed_dim 'wide' is not a number"),
        (("extractor_mode: default", "extractor_mode: other"), "extractor_mode 'other'"),
        (("distiller:", "student:"), "has no section 'distiller'"),
        (("tr_layer_index: 0", "tr_layer_index: 9"), r"before_layer must be 0\.\.3"),
    ):
        assert change[0] in original
        config.write_text(original.replace(*change))
        with pytest.raises(UserError, match=words):
            import_published(checkpoint, config)


@needs_reference
def test_the_layout_with_a_namespace_is_read_as_plain_data() -> None:
    values = read_torch_file(folder("distilhubert_tiny", "checkpoint_layout_with_args.ckpt"))
    assert type(values["Args"]).__name__ == "Namespace"
