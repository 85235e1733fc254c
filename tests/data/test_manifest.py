"""Manifests on disk: what is written is read; corpora without the optional columns stay as they were, to the byte."""

import dataclasses
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fithubert.data.manifest import Intent, Manifest, Phone, Slot, Turn, Utterance, load_manifest
from fithubert.errors import UserError
from fithubert.files import digest

_FIRST_COLUMNS = 16
_NAMES = st.text("abé ", max_size=3)
_TIMES = st.floats(0, 10)
_STRINGS = st.none() | st.lists(_NAMES, max_size=3).map(tuple)
UTTERANCES = st.builds(
    Utterance,
    id=_NAMES,
    audio=_NAMES,
    digest=_NAMES,
    split=st.sampled_from(["train", "dev"]),
    kind=st.sampled_from(["sentence", "query"]),
    num_samples=st.integers(0, 2**40),
    speaker=st.none() | _NAMES,
    words=_STRINGS,
    phones=st.none() | st.lists(st.builds(Phone, _NAMES, _TIMES, _TIMES), max_size=2).map(tuple),
    intent=st.none() | st.builds(Intent, _NAMES, _NAMES, _NAMES),
    slots=st.none() | st.lists(st.builds(Slot, _NAMES, _NAMES, st.integers(0, 9), st.integers(1, 9))).map(tuple),
    turns=st.none() | st.lists(st.builds(Turn, _NAMES, _TIMES, _TIMES), max_size=2).map(tuple),
    pronunciation=_STRINGS,
    first_sample=st.none() | st.integers(0, 2**40),
    trials=_STRINGS,
    matches=_STRINGS,
    task_splits=_STRINGS,
)


@settings(deadline=None, max_examples=40)
@given(st.lists(UTTERANCES, max_size=4), st.dictionaries(_NAMES, st.lists(_NAMES).map(tuple), max_size=2))
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Utterance], inventories: dict[str, tuple[str, ...]]
) -> None:
    root = tmp_path_factory.getbasetemp() / "written"
    path = root / "manifests" / "corpus.parquet"
    for at in (root, Path("/a/corpus")):
        manifest = Manifest(tuple(rows), at, inventories)
        manifest.save(path)
        loaded = load_manifest(path)
        assert loaded == manifest
        assert loaded.fingerprint == manifest.fingerprint


@given(st.lists(UTTERANCES, max_size=3))
def test_the_fingerprint_covers_every_value(rows: list[Utterance]) -> None:
    empty = {"pronunciation": None, "first_sample": None, "trials": None, "matches": None, "task_splits": None}
    plain = Manifest(tuple(dataclasses.replace(u, **empty) for u in rows), Path())
    assert plain.fingerprint == digest(*(json.dumps(dataclasses.astuple(u)[:_FIRST_COLUMNS]) for u in plain))
    manifest = Manifest(tuple(rows), Path())
    assert (manifest.fingerprint == plain.fingerprint) == (manifest == plain)
    assert Manifest(tuple(rows), Path(), {"phones": ("A",)}).fingerprint != manifest.fingerprint


def test_columns_that_nothing_needs_are_not_written(tmp_path: Path) -> None:
    path = tmp_path / "manifests" / "corpus.parquet"
    plain = Utterance("u", "u.flac", "d", "train", "sentence", 1)
    Manifest((plain,), tmp_path).save(path)
    schema = pq.read_schema(path)
    assert len(schema.names) == _FIRST_COLUMNS
    assert schema.metadata is None
    Manifest((plain, dataclasses.replace(plain, matches=("v",))), tmp_path).save(path)
    assert pq.read_schema(path).names[_FIRST_COLUMNS:] == ["matches"]


def test_a_manifest_with_a_column_of_its_own_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "manifests" / "corpus.parquet"
    Manifest((Utterance("u", "u.flac", "d", "train", "sentence", 1),), tmp_path).save(path)
    table = pq.read_table(path)
    pq.write_table(table.append_column("mood", table.column("id")), path)
    with pytest.raises(UserError, match=r"not a manifest of this version \(columns: \['mood'\]\)"):
        load_manifest(path)
