"""The documentation: it builds as a site without a warning, and what the how-to pages say to type does what they say."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from conftest import ROOT, SMALL
from documented import run

import dskd
from dskd.runtime.bundle.loading import Bundle

HOWTO = ROOT / "docs" / "howto"
NOT_HERE = {  # what needs a device, a network, a camera, or far more time
    "jetson wheels": "downloads wheels", "jetson doctor": "run in the emulated machine of docs/jetson.md",
    "export.trt": "needs TensorRT", "calibration": "test_calibration_command.py", "station": "runs until it is stopped",
    "train.sweep": "test_sweep.py", "jetson slots": "test_jetson_update.py",
}  # fmt: skip


def commands(page: str) -> list[list[str]]:
    """The words of each ``dskd`` line of a page's shell blocks."""
    blocks = re.findall(r"```sh\n(.*?)```", (HOWTO / f"{page}.md").read_text(), re.S)
    lines = [shlex.split(line, comments=True) for block in blocks for line in block.splitlines()]
    return [words for words in lines if words[:1] == ["dskd"]]


def is_left_out(words: list[str]) -> bool:
    return words[1] in NOT_HERE or " ".join(words[1:3]) in NOT_HERE


@pytest.mark.thorough
def test_the_site_builds_without_a_warning_and_no_link_leads_nowhere(tmp_path: Path) -> None:
    if find_spec("sphinx") is None or find_spec("myst_parser") is None:
        pytest.skip("sphinx and myst-parser are not installed (pip install '.[docs]')")
    words = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-n", "-b", "html"]
    done = subprocess.run([*words, ROOT / "docs", tmp_path], capture_output=True, text=True, timeout=300, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "howto" / "first-model.html").is_file()
    names = (tmp_path / "api.html").read_text()
    assert all(f'id="dskd.{name}"' in names for name in dskd.__all__)
    assert "Opens a bundle" in names
    pages = [page.read_text() for page in tmp_path.rglob("*.html")]
    loaded = {link for page in pages for link in re.findall(r'(?:src|<link[^>]*href)="(https?://[^"]+)"', page)}
    assert loaded == set()  # nothing comes from a network


def test_the_page_of_names_has_every_public_name() -> None:
    named = re.findall(r"^\.\. auto\w+:: dskd\.(\w+)", (ROOT / "docs" / "api.md").read_text(), re.M)
    assert sorted(named) == sorted(dskd.__all__)


def test_every_page_stands_in_the_index() -> None:
    docs = ROOT / "docs"
    index = (docs / "index.md").read_text()
    listed = set(re.findall(r"^([\w/-]+)$", index, re.M))
    pages = {str(page.relative_to(docs).with_suffix("")) for page in [*docs.glob("*.md"), *HOWTO.glob("*.md")]}
    assert listed == pages - {"index"}


def test_how_to_pages_are_one_screen() -> None:
    for page in HOWTO.glob("*.md"):
        assert len(page.read_text().splitlines()) <= 50, page.name


@pytest.mark.thorough
def test_the_commands_of_the_how_to_pages_run(small_set: Path, bundle: Bundle, tmp_path: Path) -> None:
    """Those of the first model in full; of the others what needs neither a device nor hours, one after another."""
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "good").symlink_to(small_set / "train" / "good")
    (tmp_path / "parts" / "test").symlink_to(small_set / "test")
    (tmp_path / "pictures").symlink_to(small_set / "test")
    (tmp_path / "release").mkdir()
    small = [part for setting in SMALL for part in ("--set", setting)]
    ran = 0
    for page in ("first-model", "jetson", "fleet"):
        for words in commands(page):
            if is_left_out(words):
                continue
            more = small if words[1] == "train" else []
            run([sys.executable, "-m", *words, *more], tmp_path)
            ran += 1
    assert ran == 4 + 3 + 2
    assert (tmp_path / "evaluation" / "acceptance.html").is_file()
    assert (tmp_path / "bundle" / "manifest.yaml").is_file()
    assert (tmp_path / "host" / "bracket" / "bracket.update").is_file()


def test_what_is_left_out_is_a_command_of_a_how_to_page() -> None:
    used = [words for page in HOWTO.glob("*.md") for words in commands(page.stem)]
    for name in NOT_HERE:
        assert any(" ".join(words[1:]).startswith(name) for words in used), name


@pytest.mark.thorough
def test_station_files_of_the_how_to_pages_are_right(bundle: Bundle, tmp_path: Path) -> None:
    """With a folder for each camera: a file that --check-config takes."""
    for page in ("plc", "products"):
        text = "".join(re.findall(r"```yaml\n(.*?)```", (HOWTO / f"{page}.md").read_text(), re.S))
        text = re.sub(r"bundle: [^}]+", f"bundle: {bundle.path}", text)
        if "recipes:" not in text:
            text += f"recipes:\n  part: {{bundle: {bundle.path}}}\n"
        (tmp_path / "line.yaml").write_text(f"name: line\ndata: data\n{text}")
        run([sys.executable, "-m", "dskd", "station", "line.yaml", "--check-config"], tmp_path)


def test_lookouts_manifest_becomes_folders_by_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (snippet,) = re.findall(r"```python\n(.*?)```", (HOWTO / "from-lookout.md").read_text(), re.S)
    monkeypatch.chdir(tmp_path)
    Path("images").mkdir()
    lines = ""
    for number, label in enumerate((0, 1, 0)):
        Path(f"images/{number}.png").write_bytes(b"png")
        lines += f'{{"source-ref": "s3://bucket/a/{number}.png", "anomaly-label": {label}}}\n'
    Path("output.manifest").write_text(lines)
    exec(compile(snippet, "from-lookout.md", "exec"), {})
    names = sorted(str(path) for path in Path("parts").rglob("*.png"))
    assert names == ["parts/test/anomaly/1.png", "parts/test/good/0.png", "parts/test/good/2.png"]
