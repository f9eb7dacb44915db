"""``dskd init``: a station file that runs as it is printed."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from dskd.runtime.bundle.loading import Bundle
from dskd.runtime.errors import CallError
from dskd.runtime.station.init import cameras, main, station_file
from dskd.runtime.station.load import read_station


def test_the_file_is_right_and_never_overwrites_another(
    bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "line.yaml"
    assert main([str(file), "--bundle", str(bundle.path), "--source", "test://pattern", "--source", "csi://0"]) == 0
    assert f"next: dskd station {file}" in capsys.readouterr().out
    config, faults = read_station(file)
    assert not faults
    assert config
    assert [camera.source for camera in config.cameras.values()] == ["test://pattern", "csi://0"]
    assert [recipe.bundle for recipe in config.recipes.values()] == [bundle.path.resolve()]
    assert config.data == tmp_path / "station-data"
    before = file.read_text()
    with pytest.raises(CallError, match="there already"):
        main([str(file), "--bundle", str(bundle.path), "--source", "test://pattern"])
    assert file.read_text() == before


def test_a_password_is_not_written_into_the_file(bundle: Bundle, tmp_path: Path) -> None:
    file = tmp_path / "line.yaml"
    with pytest.raises(CallError, match=r"not written.*write \$\{NAME\}") as refused:
        main([str(file), "--bundle", str(bundle.path), "--source", "rtsp://ada:hunter2@10.0.0.5/x"])
    assert "hunter2" not in str(refused.value)
    assert not file.exists()


@pytest.mark.parametrize("name", ["it's a part", 'quote" and # hash', "größe: 5", "- dash"])
def test_any_name_and_path_is_written_so_that_it_is_read_back(name: str, bundle: Bundle, tmp_path: Path) -> None:
    folder = shutil.copytree(bundle.path, tmp_path / name)
    (tmp_path / "line.yaml").write_text(station_file(name, folder, [f"folder://{folder}/golden?loop=1&fps=1"]))
    config, faults = read_station(tmp_path / "line.yaml")
    assert not faults
    assert config
    assert [recipe.bundle for recipe in config.recipes.values()] == [folder]


def test_every_line_that_is_commented_out_is_right_too(bundle: Bundle, tmp_path: Path) -> None:
    text = station_file("part", bundle.path, ["test://pattern"])
    text = re.sub(r"^( *)# ( *[a-z_]+:)", r"\1\2", text, flags=re.M)
    assert "    trigger: {kind: software" in text
    (tmp_path / "line.yaml").write_text(text)
    config, faults = read_station(tmp_path / "line.yaml")
    assert not faults
    assert config
    assert set(config.outputs) == {"gate", "plc"}


def test_each_camera_is_named_once_by_the_device_that_gives_pictures(tmp_path: Path) -> None:
    for device, index in (("video0", 0), ("video1", 1), ("video2", 0), ("video10", 0)):
        (tmp_path / device).mkdir()
        (tmp_path / device / "name").write_text("A camera\n")
        (tmp_path / device / "index").write_text(f"{index}\n")
    (tmp_path / "video3").mkdir()  # gone meanwhile
    assert cameras(tmp_path) == ["v4l2:///dev/video0", "v4l2:///dev/video2", "v4l2:///dev/video10"]
    assert cameras(tmp_path / "absent") == []
