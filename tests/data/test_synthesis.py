# ruff: noqa: RUF001
"""The embedded corpus: the same bytes each time, exact labels, splits and worlds that share no sentence."""

import errno
import io
import json
import random
import shutil
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from itertools import chain, combinations, pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile

from fithubert.config.data import SyntheticData
from fithubert.data import KEYWORDS, OTHER_WORD, PHONES, SILENCE, normalise
from fithubert.data.audio import read_recording
from fithubert.data.manifest import Manifest, load_manifest, manifest_path
from fithubert.data.prepare import prepare_corpus
from fithubert.data.synthetic import recording
from fithubert.data.synthetic.corpus import synthesise_corpus
from fithubert.data.synthetic.espeak import ACCENTS, align_phones, write_voice_data
from fithubert.data.synthetic.plan import draw_speakers, plan_corpus
from fithubert.data.synthetic.recording import STYLES, resample_speech
from fithubert.data.synthetic.text import WORDS, draw_sentence, list_commands, split_of, world_of
from fithubert.errors import UserError
from fithubert.superb.slots import type_f1
from tests.conftest import TINY

pytest.importorskip("espeakng_loader")


def test_the_bytes_do_not_depend_on_the_number_of_jobs_nor_on_what_a_killed_run_left(
    tiny_corpus: Manifest, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    (data / ".audio.1-0123abcd.part" / "train").mkdir(parents=True)
    (data / "audio").mkdir()
    (data / "audio" / "own.flac").touch()
    with pytest.raises(UserError, match=r"audio: is not empty"):
        synthesise_corpus(TINY, data, jobs=1)
    assert (data / "audio" / "own.flac").exists()
    # What marks the audio of a corpus made here.
    (data / "audio" / ".corpus").touch()
    assert synthesise_corpus(TINY, data, jobs=1) == Manifest(tiny_corpus.utterances, data)
    ours = {p.relative_to(data): p.read_bytes() for p in data.rglob("*") if p.is_file()}
    theirs = {p.relative_to(tiny_corpus.root): p.read_bytes() for p in tiny_corpus.root.rglob("*") if p.is_file()}
    assert ours == theirs


def test_every_split_and_kind_is_there_with_its_labels(tiny_corpus: Manifest) -> None:
    counts = tiny_corpus.count_by("split", "kind")
    for split in ("train", "dev", "test"):
        assert all(counts[f"{split}/{kind}"] for kind in ("sentence", "keyword", "command", "mixture"))
        keywords = {u.keyword for u in tiny_corpus.select(split=split, kind="keyword")}
        assert keywords == {*KEYWORDS, OTHER_WORD, SILENCE}
    assert counts["dev/query"] == counts["test/query"] == 2
    for u in tiny_corpus:
        assert (u.phones is None) == (u.kind == "mixture" or u.keyword == SILENCE)
        assert (u.turns is not None) == (u.kind == "mixture")
        assert (u.intent is not None) == (u.slots is not None) == (u.kind == "command")
        assert u.style is None if u.phones is None else u.style in STYLES


def test_phones_lie_in_order_inside_the_audio_and_are_in_the_inventory(tiny_corpus: Manifest) -> None:
    for u in tiny_corpus:
        if u.phones is None:
            continue
        times = [t for p in u.phones for t in (p.start_seconds, p.end_seconds)]
        assert times == sorted(times)
        assert times[0] > 0
        assert times[-1] < u.seconds
        assert all(p.end_seconds > p.start_seconds for p in u.phones)
        assert {p.label for p in u.phones} <= set(PHONES)


def test_the_sound_is_where_the_phones_are(tiny_corpus: Manifest) -> None:
    for u in tiny_corpus.select(kind="sentence"):
        waveform = tiny_corpus.read(u).numpy()
        assert len(waveform) == u.num_samples
        first, last = (round(t * 16_000) for t in (u.phones[0].start_seconds, u.phones[-1].end_seconds))
        before, spoken = waveform[: first - 160], waveform[first:last]
        assert np.mean(spoken**2) > 2 * np.mean(before**2), u.id


def test_turns_of_mixtures_belong_to_two_speakers_and_none_talks_over_himself(tiny_corpus: Manifest) -> None:
    for u in tiny_corpus.select(kind="mixture"):
        by_speaker = defaultdict(list)
        for turn in u.turns:
            by_speaker[turn.speaker].append((turn.start_seconds, turn.end_seconds))
            assert 0 < turn.start_seconds < turn.end_seconds < u.seconds
        assert len(by_speaker) == 2
        for spans in by_speaker.values():
            assert all(a[1] < b[0] for a, b in pairwise(spans))


def test_slots_say_words_of_the_command(tiny_corpus: Manifest) -> None:
    for u in tiny_corpus.select(kind="command"):
        for slot in u.slots:
            assert " ".join(u.words[slot.first_word : slot.first_word + slot.num_words]) == slot.value


def test_every_intent_is_as_common_as_any_other_in_every_split_and_no_constant_answer_scores() -> None:
    plan = plan_corpus(SyntheticData())
    for split in ("train", "dev", "test"):
        commands = [i.command for i in plan.items if i.kind == "command" and i.split == split]
        intents = Counter(c.intent for c in commands)
        assert len(intents) == len(list_commands(split)) == 20
        assert len(set(intents.values())) == 1
        types = [frozenset(name for name, *_ in c.slots) for c in commands]
        names = sorted(frozenset().union(*types))
        answers = [frozenset(a) for size in range(len(names) + 1) for a in combinations(names, size)]
        assert max(np.mean([type_f1(t, a) for t in types]) for a in answers) < 0.201


def test_queries_are_phrases_of_some_sentences_of_their_split_by_other_speakers(tiny_corpus: Manifest) -> None:
    for u in tiny_corpus.select(kind="query"):
        assert u.query is not None
        assert (u.text, len(u.query.split())) == (u.query, 3)
        sentences = tiny_corpus.select(split=u.split, kind="sentence")
        holding = [s for s in sentences if f" {u.query} " in f" {s.text} "]
        assert 0 < len(holding) < len(sentences)
        assert u.speaker not in {s.speaker for s in holding}


def test_prosody_styles_are_equally_common_in_every_split() -> None:
    plan = plan_corpus(SyntheticData())
    for split in ("train", "dev", "test"):
        counts = Counter(i.style for i in plan.items if i.kind == "sentence" and i.split == split)
        assert set(counts) == set(STYLES)
        assert max(counts.values()) - min(counts.values()) <= 2


def test_splits_share_no_text_and_held_out_speakers_are_only_in_verification() -> None:
    plan = plan_corpus(SyntheticData())
    texts, speakers = defaultdict(set), defaultdict(set)
    for item in plan.items:
        speakers[item.split].add(item.speaker)
        if item.kind not in ("keyword", "query"):
            texts[item.split].add(normalise(item.text))
    for split in ("dev", "test", "verification"):
        assert not texts["train"] & texts[split]
    assert not texts["dev"] & texts["test"]
    assert len(speakers["train"]) == 48
    assert len(speakers["verification"]) == 8
    assert not speakers["verification"] & (speakers["train"] | speakers["dev"] | speakers["test"])
    sentences = [i for i in plan.items if i.kind == "sentence"]
    for split in ("train", "dev", "test"):
        assert {i.speaker for i in sentences if i.split == split} == speakers["train"]
    keywords = defaultdict(set)
    for item in plan.items:
        if item.kind == "keyword":
            keywords[item.split].add(item.speaker)
    assert not keywords["train"] & keywords["test"]
    assert not keywords["train"] & keywords["dev"]


def test_the_two_worlds_share_neither_a_sentence_nor_a_voice() -> None:
    config = {"hours": 0.5, "speakers": 20, "heldout_speakers": 2, "seed": 1}
    default, other = (plan_corpus(SyntheticData(world=w, **config)) for w in ("default", "pretraining"))
    spoken = {normalise(i.text) for i in default.items if i.kind in ("sentence", "mixture")}
    assert spoken.isdisjoint(normalise(i.text) for i in other.items)
    assert {i.kind for i in other.items} == {"sentence"}
    voices = {s.definition.split("\n", 2)[2] for s in default.speakers}
    assert voices.isdisjoint(s.definition.split("\n", 2)[2] for s in other.speakers)
    assert not {s.name for s in default.speakers} & {s.name for s in other.speakers}
    rng = random.Random(0)
    assert all(world_of(draw_sentence(rng, world)) == world for world in ("default", "pretraining") for _ in range(50))
    # Whatever its case and punctuation.
    assert [f("The Dog, slept.") == f("the dog slept") for f in (split_of, world_of)] == [True, True]


def test_another_seed_is_another_corpus() -> None:
    first, second = (plan_corpus(SyntheticData(seed=seed, hours=0.1)) for seed in (1, 2))
    assert {i.text for i in first.items} != {i.text for i in second.items}
    assert first.speakers != second.speakers
    assert plan_corpus(SyntheticData(hours=0.1)) == plan_corpus(SyntheticData(hours=0.1))


_SPEAK_VOCABULARY = """
import json, sys
from pathlib import Path
from fithubert.data.synthetic.espeak import RATE_HZ, Synthesiser, align_phones
data, accent, words = json.load(sys.stdin)
voice = Synthesiser(Path(data), accent, "plain")
for start in range(0, len(words), 20):
    text = " ".join(words[start : start + 20])
    raw, events = voice.speak(text, seed=1, words_per_minute=450, pitch=50, pitch_range=50, volume=100)
    assert align_phones(events, raw, RATE_HZ), text
"""


def test_every_word_has_phones_in_every_accent() -> None:
    commands = {w for s in ("train", "dev", "test") for c in chain(*list_commands(s)) for w in c.text.split()}
    words = sorted(commands.union(*WORDS.values(), *(i.text.split() for i in plan_corpus(SyntheticData()).items)))
    with tempfile.TemporaryDirectory() as folder:
        write_voice_data(Path(folder, "voices"), {"plain": "language variant\nname plain\n"})
        for accent in ACCENTS:
            job = json.dumps([str(Path(folder, "voices")), accent, words])
            subprocess.run([sys.executable, "-c", _SPEAK_VOCABULARY], input=job, text=True, check=True)


def test_a_missing_variant_is_an_error_and_not_ignored(tmp_path: Path) -> None:
    write_voice_data(tmp_path / "v", {})
    code = "import sys; from pathlib import Path; from fithubert.data.synthetic.espeak import Synthesiser as S"
    code += "; S(Path(sys.argv[1]), 'en', 'nobody')"
    command = [sys.executable, "-c", code, str(tmp_path / "v")]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "did not load the variant nobody" in result.stderr


def test_speakers_of_one_draw_differ() -> None:
    speakers = draw_speakers("default", 1, 150)
    assert len({s.definition for s in speakers}) == 150
    assert {s.accent for s in speakers} == set(ACCENTS)


def test_closures_go_to_stops_and_a_silent_coda_l_takes_the_end_of_its_vowel() -> None:
    audio = np.zeros(22_050, dtype=np.int16)
    audio[1_000:7_000] = 1_000
    audio[8_500:12_000] = 1_000
    events = [(1_000, "s"), (3_000, "ˈɔː"), (7_000, "l"), (8_500, "t"), (9_500, "iː"), (10_500, "ʲ"), (12_000, "")]
    phones = align_phones(events, audio, 22_050)
    assert [p[0] for p in phones] == ["S", "AO", "L", "T", "IY"]
    spans = [(round(a * 22_050), round(b * 22_050)) for _, a, b in phones]
    assert spans == [(1_000, 3_000), (3_000, 5_667), (5_667, 7_000), (7_000, 9_500), (9_500, 12_000)]


def test_resampling_moves_nothing_and_keeps_a_tone() -> None:
    times = np.arange(30_000) / 22_050
    samples = (8_000 * np.sin(2 * np.pi * 1_000 * times) * (times > 0.5)).astype(np.int16)
    resampled = resample_speech(samples)
    expected = 8_000 / 32_768 * np.sin(2 * np.pi * 1_000 * np.arange(len(resampled)) / 16_000)
    assert np.abs(resampled[8_200:-200] - expected[8_200:-200]).max() < 2e-3
    assert np.abs(resampled[:7_800]).max() < 2e-3


def test_a_damaged_or_foreign_file_is_named(tiny_corpus: Manifest, tmp_path: Path) -> None:
    utterance = tiny_corpus.utterances[0]
    shutil.copytree(tiny_corpus.root, tmp_path / "data")
    corpus = Manifest(tiny_corpus.utterances, tmp_path / "data")
    path = corpus.root / utterance.audio
    soundfile.write(path, np.zeros(100), 16_000)
    with pytest.raises(UserError, match="in the manifest; run"):
        corpus.read(utterance)
    soundfile.write(path, np.zeros((utterance.num_samples // 2, 2)), 8_000)
    assert abs(len(read_recording(path)) - utterance.num_samples) <= 1
    path.write_text("not audio")
    with pytest.raises(UserError, match="not readable as audio"):
        corpus.read(utterance)
    path.unlink()
    with pytest.raises(UserError, match="no such audio file"):
        corpus.read(utterance)
    manifest_path(corpus.root).write_bytes(b"PAR1 but no more")
    with pytest.raises(UserError, match="not readable as Parquet"):
        load_manifest(manifest_path(corpus.root))


def test_without_the_synthesiser_the_message_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    with pytest.raises(UserError, match=r"pip install fithubert\[synthesis\]"):
        prepare_corpus(TINY, tmp_path / "data")
    assert not (tmp_path / "data" / "audio").exists()


def test_a_full_disk_in_a_speaking_process_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    def fail(path: Path, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(Path, "write_bytes", fail)
    items = [{"id": "keyword-1", "split": "train", "kind": "keyword"}]
    where = {"folder": str(tmp_path / "data" / "aside"), "world": "default"}
    job = {"task": "silence", "seed": "default/1", "items": items, **where}
    monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps(job)))
    assert recording.main() == recording.USER_ERROR_STATUS
    assert (
        capsys.readouterr().err == f"{tmp_path / 'data'}: the disk is full; free some space and run the command again\n"
    )
