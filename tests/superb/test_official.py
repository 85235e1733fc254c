"""The official protocol: its settings, what every switch changes, and one plain step of each kind of task."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from fithubert.config.base import validate
from fithubert.config.superb import OfficialQuirks, SuperbParams, official_budgets
from fithubert.data import CHARACTERS, END, PAD, STRESSED_PHONES, UNKNOWN
from fithubert.data.manifest import Manifest, Utterance
from fithubert.errors import UserError
from fithubert.store.codec import layer_codecs
from fithubert.superb.official import drop_stress, list_departures
from fithubert.superb.run import run_task
from fithubert.tasks import TASKS
from tests.superb.fakes import OPEN, MemoryStore, official, small

ON = OfficialQuirks()
CORPUS_SIZES = (40, 48, 40, 24)


def test_the_table_is_superbs() -> None:
    """Utterances an update, updates, and evaluations, as the configurations of s3prl have them."""
    table = {name: (b.batch * b.accumulate, b.steps, b.eval_every) for name, b in official_budgets().items() if b.steps}
    assert table == {
        "pr": (32, 100_000, 1000), "asr": (32, 200_000, 2000), "ks": (32, 200_000, 5000), "sid": (32, 200_000, 5000),
        "asv": (50, 200_000, 20_000), "sd": (32, 30_000, 500), "er": (32, 30_000, 1000), "ic": (32, 200_000, 5000),
        "sf": (32, 200_000, 2000),
    }  # fmt: skip


@pytest.mark.parametrize("name", TASKS)
def test_a_result_says_in_what_it_is_not_official(name: str, informed: MemoryStore, corpus: Manifest) -> None:
    result = run_task(name, informed, corpus, small(name), quirks=OPEN)
    assert result.protocol == "official"
    if name == "qbe":
        assert result.departures == ("sox_gain is off",)
        return
    assert f"steps 4 instead of {official_budgets()[name].steps}" in result.departures
    assert any("outputs instead of" in d for d in result.departures) == (name not in ("sd",))
    assert list_departures(name, official_budgets()[name], ON, TASKS[name].outputs) == ()
    for quirk in TASKS[name].quirks:
        off = OfficialQuirks(**{quirk: False})
        assert list_departures(name, official_budgets()[name], off, TASKS[name].outputs) == (f"{quirk} is off",)


def test_what_cannot_be_followed_is_refused(informed: MemoryStore, corpus: Manifest) -> None:
    def reason(name: str, quirks: OfficialQuirks = ON, **changes: object) -> str | None:
        changed = Manifest(tuple(replace(u, **changes) for u in corpus), corpus.root)  # type: ignore[arg-type]
        return run_task(name, informed, changed, small(name), quirks=quirks).reason

    assert "prepare with data.trim_silence=true" in str(reason("asv"))
    assert reason("asv", gain_db=-3.0, trimmed=True, num_samples=32_001) is None
    assert "data.gain_db=-3" in str(reason("qbe"))
    assert reason("ks", gain_db=-3.0) is None
    assert "30 are whole, first sentence0000; data.crops=8" in str(reason("sid", num_samples=128_001))
    assert reason("sid", OfficialQuirks(sid_crops=False), num_samples=128_001) is None


def test_unknown_quirks_are_named() -> None:
    with pytest.raises(UserError, match=r"quirks\.pr_stres: unknown key; valid keys: pr_stress"):
        validate(SuperbParams, {"models": ["fbank"], "quirks": {"pr_stres": True}}, "params")


# The size of label spaces: the corpus's own, whatever occurs in it.


def labelled(kind: str, rows: list[dict[str, object]]) -> Manifest:
    utterances = [
        Utterance(f"{kind}{i}", f"{i}.wav", "0", ("train", "dev", "test")[i % 3], kind, 16_000, **row)  # type: ignore[arg-type]
        for i, row in enumerate(rows)
    ]
    return Manifest(tuple(utterances), Path())


def outputs(name: str, manifest: Manifest, **off: bool) -> int:
    store = MemoryStore({u.id: {0: torch.zeros(40, 3), 1: torch.zeros(40, 3)} for u in manifest})
    learner = official(name, **off).bind(store, manifest, small(name, head_width=4))
    head = learner.new_head()
    assert isinstance(head.output, nn.Linear)
    assert head.output.out_features == learner.num_outputs
    return learner.num_outputs


def test_label_spaces_have_the_official_sizes() -> None:
    spaces = {"phones": (*STRESSED_PHONES, END, UNKNOWN), "characters": (*CHARACTERS, PAD, END, UNKNOWN)}
    spaces["slots"] = (*CHARACTERS, *(f"{e}-{i}" for i in range(39) for e in "BE"), END, UNKNOWN)
    spoken = [{"pronunciation": ("AH0", "T"), "words": ("a", "t")} for _ in range(6)]
    sentences = replace(labelled("sentence", spoken), inventories=spaces)
    assert outputs("pr", sentences) == 74
    assert outputs("pr", sentences, pr_stress=False) == 39 + 2 + 3
    assert outputs("asr", sentences) == 32
    commands = labelled("command", [{"words": ("a",), "slots": ()} for _ in range(6)])
    assert outputs("sf", replace(commands, inventories=spaces)) == 109
    assert outputs("ks", labelled("keyword", [{"keyword": str(i // 3)} for i in range(36)])) == 12
    assert outputs("er", labelled("sentence", [{"style": str(i // 3)} for i in range(12)])) == 4
    speakers = [{"speaker": f"id{i // 3}"} for i in range(3 * 1251)]
    assert outputs("sid", labelled("sentence", speakers)) == 1251


def test_folding_leaves_39_phones() -> None:
    assert len({drop_stress(p) for p in STRESSED_PHONES} - {"SIL", "SPN"}) == 39


def test_the_pages_say_what_the_store_takes() -> None:
    """An hour of 20 ms frames as the default codec writes them, by the figures of the table of disk."""
    page = (Path(__file__).parents[2] / "docs" / "superb.md").read_text()
    int8, half = (layer_codecs(name, (0,), None)[0].count_bytes(180_000, 768) for name in ("int8", "float16"))
    assert half == pytest.approx(2 * int8, rel=1e-3)
    gigabytes = [layers * int8 / 1e9 for layers in (13, 1)]
    assert f"13 x 768: {gigabytes[0]:.1f} GB an hour | one read-out of 768: {gigabytes[1]:.2f} GB an hour" in page
    for hours in ((51_094 + 6_798 + 3_081) / 3600, 100.6 + 5.4 + 5.4, 352):
        assert f"| {hours * gigabytes[0]:.0f} GB | {hours * gigabytes[1]:.2g} GB |" in page
