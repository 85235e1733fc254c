"""Writing is whole or absent and never over somebody else's files; reading is bounded and refuses in one line."""

import errno
import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from fithubert.errors import UserError, as_user_error, printable
from fithubert.files import (
    atomic_directory,
    atomic_file,
    only_writer,
    open_atomically,
    read_json,
    read_text,
    remove_leftovers,
)
from fithubert.workspace import Workspace

#: A process that writes or holds PATH until it is killed.
_HOLD = """
import sys, time
from pathlib import Path
from fithubert.files import atomic_directory, atomic_file, only_writer
path = Path(sys.argv[2])
held = {"file": atomic_file, "folder": atomic_directory, "writer": lambda p: only_writer(p, "it")}[sys.argv[1]](path)
with held as entry:
    if sys.argv[1] == "folder":
        (entry / "half").write_text("half")
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def hold() -> "Callable[[str, Path], subprocess.Popen[str]]":
    """Start a process that holds an entry; it has reached the block when this returns."""

    def start(kind: str, path: Path) -> "subprocess.Popen[str]":
        process = subprocess.Popen([sys.executable, "-c", _HOLD, kind, str(path)], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        return process

    return start


@pytest.mark.parametrize(("umask", "wanted"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_written_files_have_the_mode_of_the_umask(tmp_path: Path, umask: int, wanted: int) -> None:
    before = os.umask(umask)
    try:
        with atomic_file(tmp_path / "file") as temporary:
            temporary.write_text("x")
            temporary.chmod(0o600)
        with atomic_directory(tmp_path / "folder") as folder:
            # This library writes 0600 whatever the umask.
            save_file({"a": torch.zeros(2)}, folder / "model.safetensors")
    finally:
        os.umask(before)
    for path in ("file", "folder/model.safetensors"):
        assert (tmp_path / path).stat().st_mode & 0o777 == wanted


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_a_killed_writer_left_is_deleted_by_the_next_and_a_living_writer_is_spared(
    tmp_path: Path, hold: "Callable[[str, Path], subprocess.Popen[str]]", kind: str
) -> None:
    killed, living = hold(kind, tmp_path / "small"), hold(kind, tmp_path / "large")
    killed.kill()
    killed.wait()
    assert len(list(tmp_path.iterdir())) == 2
    foreign = tmp_path / ".download.part"
    foreign.write_text("of another program")
    with atomic_file(tmp_path / "another") as temporary:
        temporary.write_text("x")
    left = {path.name for path in tmp_path.iterdir()} - {"another", foreign.name}
    assert len(left) == 1
    assert left.pop().startswith(f".large.{living.pid}-")
    living.kill()
    living.wait()
    remove_leftovers(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"another", foreign.name}


def test_what_a_killed_save_left_is_no_student(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    for name in ("small", ".small.123-0123abcd.part", ".hidden"):
        workspace.student(name).mkdir(parents=True)
        (workspace.student(name) / "config.json").write_text("{}")
    assert workspace.list_students() == ["small"]


def test_a_folder_moved_aside_by_a_killed_writer_gets_its_name_back(tmp_path: Path) -> None:
    (tmp_path / ".small.123-0123abcd.old").mkdir()
    (tmp_path / ".small.123-0123abcd.old" / "config.json").write_text("{}")
    (tmp_path / ".small.123-0123abcd.part").mkdir()
    remove_leftovers(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["small"]
    assert (tmp_path / "small" / "config.json").read_text() == "{}"


@pytest.mark.parametrize("there", ["folder", "file", "ours and more"])
def test_a_foreign_folder_is_never_replaced(tmp_path: Path, there: str) -> None:
    path = tmp_path / "thesis"
    if there == "file":
        path.write_text("chapter")
    else:
        path.mkdir()
        (path / "chapter.tex").write_text("chapter")
        if there == "ours and more":
            (path / "config.json").write_text("{}")
    with pytest.raises(UserError, match=r"thesis: "), atomic_directory(path, {"config.json"}):
        pytest.fail("the body must not run")
    assert (path if there == "file" else path / "chapter.tex").read_text() == "chapter"
    assert [entry.name for entry in tmp_path.iterdir()] == ["thesis"]


def test_an_own_folder_is_replaced_and_an_error_leaves_the_old_one(tmp_path: Path) -> None:
    for text in ("old", "new"):
        with atomic_directory(tmp_path / "own", {"config.json"}) as folder:
            (folder / "config.json").write_text(text)
    with pytest.raises(UnicodeEncodeError), atomic_directory(tmp_path / "own", {"config.json"}) as folder:
        (folder / "config.json").write_text("half\ud800")
    assert (tmp_path / "own" / "config.json").read_text() == "new"
    assert [entry.name for entry in tmp_path.iterdir()] == ["own"]


def test_the_second_writer_is_refused_with_the_process_of_the_first(
    tmp_path: Path, hold: "Callable[[str, Path], subprocess.Popen[str]]"
) -> None:
    first = hold("writer", tmp_path / "training")
    with (
        pytest.raises(UserError, match=rf"process {first.pid} is at work on it"),
        only_writer(tmp_path / "training", "it"),
    ):
        pytest.fail("the body must not run")
    first.kill()
    first.wait()
    with only_writer(tmp_path / "training", "it"):
        assert (tmp_path / "training" / ".writer").read_text() == str(os.getpid())


def test_a_lock_that_a_killed_writer_left_to_its_child_for_a_moment_is_waited_for(tmp_path: Path) -> None:
    with only_writer(tmp_path, "it"):
        child = os.fork()
        if child == 0:
            time.sleep(0.5)
            os._exit(0)
    with only_writer(tmp_path, "it"):
        assert os.waitpid(child, os.WNOHANG)[0] == child


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("write", [lambda file: torch.save({"a": torch.zeros(10**5)}, file), lambda f: f.write(b"x")])
def test_a_full_disk_is_one_line_whoever_writes(write: Callable[[object], object]) -> None:
    with pytest.raises(Exception) as raised, Path("/dev/full").open("wb", buffering=0) as file:  # noqa: PT011
        write(file)
    refused = as_user_error(raised.value, Path("model.pt"))
    assert str(refused) == "model.pt: the disk is full; free some space and run the command again"


def test_a_refusal_inside_a_library_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"No such file or directory \(ENOENT\)"), atomic_file(tmp_path / "x"):
        save_file({"a": torch.zeros(2)}, tmp_path / "absent" / "x")
    assert as_user_error(RuntimeError("a bug")) is None
    assert as_user_error(BrokenPipeError(32, "Broken pipe")) is None


def test_reading_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    begun = time.monotonic()
    for path in (tmp_path, tmp_path / "fifo", Path("/dev/zero"), tmp_path / "absent", tmp_path / "bytes"):
        with pytest.raises(UserError) as raised:
            read_text(path)
        assert str(path) in str(raised.value)
        assert "\n" not in str(raised.value)
    assert time.monotonic() - begun < 60
    (tmp_path / "deep.json").write_text("[" * 200_000)
    with pytest.raises(UserError, match="not readable as JSON"):
        read_json(tmp_path / "deep.json")
    with pytest.raises(UserError, match="not readable as JSON"):
        read_json(_write(tmp_path / "digits.json", "9" * 6000))
    monkeypatch.setattr("fithubert.files.MAX_TEXT_BYTES", 10)
    with pytest.raises(UserError, match="larger than"):
        read_text(_write(tmp_path / "large", "x" * 11))


def test_writers_side_by_side_never_delete_what_another_has_just_begun(tmp_path: Path) -> None:
    def write(number: int) -> None:
        for round_number in range(60):
            with atomic_file(tmp_path / f"{number}-{round_number}") as temporary:
                temporary.write_text(str(number))
            with atomic_directory(tmp_path / f"folder-{number}", {"file"}) as folder:
                (folder / "file").write_text(str(number))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(4)))
    assert len(list(tmp_path.iterdir())) == 4 * 60 + 4


def test_the_first_of_two_writers_wins_without_replace(tmp_path: Path) -> None:
    for text in (b"first", b"second"):
        with open_atomically(tmp_path / "basis", replace=False) as file:
            file.write(text)
    assert (tmp_path / "basis").read_bytes() == b"first"


def test_names_are_printed_in_one_line_without_control_characters() -> None:
    assert printable("a\x1b[31m\nb\u202e.wav") == "a\\x1b[31m b\\u202e.wav"
    assert printable("grüße — 語.wav") == "grüße — 語.wav"


def _write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK])
def test_a_disk_without_locks_refuses_nobody(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", refuse)
    with only_writer(tmp_path, "it"), only_writer(tmp_path, "it"):
        pass
