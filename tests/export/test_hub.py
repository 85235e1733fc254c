"""An export on the hub: a fake one on this machine gets every file, and the token goes nowhere else."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fithubert.errors import UserError
from fithubert.export.hub import open_hub, push_folder
from fithubert.models.weights import save_student
from tests.export.students import tiny_readout
from tests.http_server import TOKEN, FakeHub, serve_hub


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    with serve_hub(monkeypatch) as running:
        yield running


@pytest.mark.slow
def test_an_export_is_uploaded_whole_with_its_card(hub: FakeHub, tmp_path: Path) -> None:
    save_student(tiny_readout("fithubert").student, tmp_path / "thin")
    arguments = ["export", "thin", "--to", "huggingface", "--out", "hf", "--hub-name", "me/small"]
    done = subprocess.run(
        [sys.executable, "-m", "fithubert", *arguments],
        cwd=tmp_path,
        env={**os.environ, "HF_ENDPOINT": hub.address, "HF_TOKEN": TOKEN, "HF_HOME": str(tmp_path / "home")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert f"on the hub: {hub.address}/me/small" in done.stdout
    written = {path.relative_to(tmp_path / "hf").as_posix(): path for path in (tmp_path / "hf").rglob("*.*")}
    assert hub.files == {name: path.read_bytes() for name, path in written.items()}
    assert {"README.md", "config.json", "model.safetensors", "modeling_fithubert.py"} <= set(hub.files)
    assert 'AutoModel.from_pretrained("me/small", trust_remote_code=True)' in hub.files["README.md"].decode()
    ((_, created, key),) = [request for request in hub.asked if request[0] == "/api/repos/create"]
    assert {"name": "small", "organization": "me"}.items() <= json.loads(created).items()
    assert '"private"' in created.decode()
    assert key == f"Bearer {TOKEN}"
    assert TOKEN not in done.stdout + done.stderr
    assert not any(TOKEN.encode() in content for content in hub.files.values())


@pytest.mark.parametrize(
    ("refused", "said"),
    [
        ({"/api/whoami-v2": 401}, "me/small: the hub refuses the token; run `hf auth login` again"),
        ({"/api/whoami-v2": 500}, "me/small: the hub answers 500"),
        ({"/api/repos/create": 403}, "the token may not write there; use one with write access.*`hf upload me/small"),
        ({"/api/models/me/small/commit/main": 403}, "the token may not write there.* is complete"),
    ],
)
def test_a_refusal_is_one_line_without_the_token(
    hub: FakeHub, tmp_path: Path, refused: dict[str, int], said: str
) -> None:
    hub.refuses = refused
    (tmp_path / "README.md").write_text("---\nlicense: other\n---\n")
    with pytest.raises(UserError, match=said) as caught:
        push_folder(open_hub("me/small"), "me/small", tmp_path)
    assert TOKEN not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert hub.files == {}


@pytest.mark.parametrize("name", ["small", "a/b/c", "me/..", "me/sm all", "", "-me/small"])
def test_a_name_that_is_none_is_refused(hub: FakeHub, name: str) -> None:
    with pytest.raises(UserError, match=r"must be OWNER/NAME"):
        open_hub(name)


def test_without_a_token_or_network_nothing_is_begun(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(UserError, match=r"no token is stored; run `hf auth login`, or set HF_TOKEN"):
        open_hub("me/small")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UserError, match=r"me/small: the hub cannot be reached \(.*refused"):
        open_hub("me/small")
