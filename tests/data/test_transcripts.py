"""Transcripts of a folder: every spelling of a name is matched, what is not is counted, doubtful tables are refused."""

import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fithubert.data import normalise
from fithubert.data.folder import find_transcripts
from fithubert.errors import UserError
from fithubert.files import split_lines

RECORDINGS = [Path(name) for name in ("a.wav", "b.wav", "x/c.wav", "x/d.flac", "y/d.wav", "\u00e9.wav")]


def read(tmp_path: Path, content: str) -> tuple[dict[Path, str], str | None]:
    table = tmp_path / "table.tsv"
    table.write_bytes(content.encode())
    return find_transcripts(tmp_path, RECORDINGS, table)


@pytest.mark.parametrize(
    ("name", "recording"),
    [
        ("b.wav", "b.wav"),
        ("./b.wav", "b.wav"),
        ('"b.wav"', "b.wav"),
        ("x//../b.wav", "b.wav"),
        ("x\\c.wav", "x/c.wav"),
        ("c", "x/c.wav"),
        ("x/d", "x/d.flac"),
        ("d.wav", "y/d.wav"),
        (unicodedata.normalize("NFD", "\u00e9.wav"), "\u00e9.wav"),
    ],
)
def test_a_name_may_be_spelt_in_any_way(name: str, recording: str, tmp_path: Path) -> None:
    assert read(tmp_path, f"{name}\tHello\n") == ({Path(recording): "Hello"}, None)
    absolute = tmp_path / recording
    assert read(tmp_path, f"{absolute}\tHello\n") == ({Path(recording): "Hello"}, None)


def test_lines_without_a_recording_are_counted_and_the_first_is_named(tmp_path: Path) -> None:
    texts, note = read(tmp_path, "a.wav\tone\n./nope.wav\ttwo\nd\tof two recordings\nz/a.wav\tin no such folder\n")
    assert texts == {Path("a.wav"): "one"}
    assert note == "1 of 4 lines matched; first unmatched: line 2 './nope.wav'"


@pytest.mark.parametrize("character", ["\u2028", "\x0b", "\x0c", "\x1c", "\x1d", "\x1e", "\x85", "\r"])
def test_only_line_feeds_end_a_line(character: str, tmp_path: Path) -> None:
    found = read(tmp_path, f"a.wav\tone{character}two\r\nb.wav\tthree\n")
    assert {path.name: normalise(text) for path, text in found[0].items()} == {"a.wav": "one two", "b.wav": "three"}
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "x.trans.txt").write_bytes(f"c ONE{character}TWO\nd FOUR\n".encode())
    texts = find_transcripts(tmp_path, RECORDINGS, None)[0]
    assert {path.name: normalise(text) for path, text in texts.items()} == {"c.wav": "one two", "d.flac": "four"}


@given(st.lists(st.text(st.characters(exclude_characters="\n\r", exclude_categories=["Cs"])), min_size=1))
def test_lines_are_split_as_they_were_joined(lines: list[str]) -> None:
    for end in ("\n", "\r\n"):
        assert split_lines("".join(line + end for line in lines)) == lines


def test_the_columns_of_common_voice_are_known_by_name(tmp_path: Path) -> None:
    header = "client_id\tpath\tsentence_id\tsentence\tup_votes\n"
    found = read(tmp_path, f"\ufeff{header}u1\tb.wav\ts1\tHello there\t2\nu2\tc.wav\ts2\tSo\t0\n")
    assert found[0] == {Path("b.wav"): "Hello there", Path("x/c.wav"): "So"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a.wav\thi\nb.wav\thi\t3.2\n", r"line 2 has a column 3 \('3\.2'\); each line is path<TAB>text"),
        ("a.wav\tone\nb.wav\tx\n./a.wav\ttwo\n", r"lines 1 and 3 give \./a\.wav different texts; keep one of them"),
        ("path\tduration\na.wav\t1.2\n", r"line 1 names no column of texts \(text or sentence"),
        ("no tab here\n", "line 1 has no tab"),
        (
            "nope.wav\thello\n",
            r"names none of the recordings .*0 of 1 lines matched; first unmatched: line 1 'nope.wav'",
        ),
        ("", r"names none of the recordings under .* \(it is empty\)"),
    ],
)
def test_a_doubtful_table_is_refused(content: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message) as error:
        read(tmp_path, content)
    assert "\n" not in str(error.value)


def test_a_table_that_is_no_text_or_no_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "table.tsv").write_bytes(b"\xff\xfe\x00a")
    with pytest.raises(UserError, match=r"table\.tsv: data\.transcripts is not UTF-8"):
        find_transcripts(tmp_path, RECORDINGS, tmp_path / "table.tsv")
    with pytest.raises(UserError, match="not a regular file"):
        find_transcripts(tmp_path, RECORDINGS, tmp_path)


def test_equal_duplicates_are_one_text(tmp_path: Path) -> None:
    assert read(tmp_path, "a.wav\tHi there.\na.wav\thi there\n")[0] == {Path("a.wav"): "Hi there."}


def test_forms_of_one_letter_are_one() -> None:
    assert normalise("\uff26\uff55\uff4c\uff4c \ufb01ve\u2026 e\u0301 \uff07") == "full five \u00e9 '"


@given(st.text())
def test_a_normalised_text_stays_as_it_is(text: str) -> None:
    assert normalise(normalise(text)) == normalise(text)
