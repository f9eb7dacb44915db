"""The straight path: train, prune, export, verify, inspect."""

from __future__ import annotations

import json
import re
import sqlite3
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from conftest import Command, Member
from onnx import numpy_helper

from dskd.export.graph.cost import graph_cost
from dskd.export.prune import prune
from dskd.export.run_to_bundle import convert
from dskd.runtime.bundle.loading import Bundle, load_bundle
from dskd.runtime.result import Verdict
from dskd.train.evaluate import EagerGraph
from dskd.train.networks.backbones import BACKBONES
from dskd.train.networks.maps import AnomalyMap
from dskd.train.trained_run import TrainedRun


def test_bundle_holds_the_pruned_graph_and_nothing_of_the_encoder_student(
    trained_run: TrainedRun, bundle: Bundle
) -> None:
    model = onnx.load(bundle.file("model.onnx"))
    assert not [node.name for node in model.graph.node if "encoder_student" in node.name]
    present = [numpy_helper.to_array(tensor) for tensor in model.graph.initializer]
    both = dict(prune(trained_run.graph("encoder_student")).path.named_parameters())
    for name, weight in both.items():
        found = any(w.shape == weight.shape and np.allclose(w, weight.numpy()) for w in present)
        assert found != name.startswith("encoder_student"), name


@pytest.mark.thorough
def test_pruned_cost_is_read_from_the_file(full_width: Member) -> None:
    bundle = full_width.bundle
    model = onnx.load(bundle.file("model.onnx"))
    sizes = {numpy_helper.to_array(tensor).size for tensor in model.graph.initializer}
    assert max(sizes) == 768 * 512 * 9  # the embedding's first convolution: the right networks are in there
    cost = graph_cost(model)
    assert cost.parameters == 17_981_824  # without encoder student and the decoder's last stage
    assert cost.macs * (256 * 256) // (64 * 96) == 3_803_185_152
    graph = bundle.manifest.graphs["model.onnx"]
    assert (graph.parameters, graph.macs, graph.opset) == (cost.parameters, cost.macs, 20)


@pytest.mark.thorough
def test_a_map_of_three_scales_keeps_the_whole_decoder(full_width: Member, tmp_path: Path) -> None:
    graph = EagerGraph(
        full_width.run.method.inference_path("teacher"), AnomalyMap(64, 96), BACKBONES["resnet18"]
    ).eval()
    convert(prune(graph), torch.zeros((1, 64, 96, 3), dtype=torch.uint8), 20, tmp_path / "model.onnx")
    cost = graph_cost(onnx.load(tmp_path / "model.onnx"))
    assert cost.parameters == 18_158_272  # 18.17 M with the BatchNorms that are folded away
    assert cost.macs * (256 * 256) // (64 * 96) == 4_323_278_848


def test_bundle_says_where_it_comes_from(trained_run: TrainedRun, bundle: Bundle) -> None:
    provenance = bundle.manifest.provenance
    assert provenance.licence == "test"
    assert provenance.training_images == 12
    assert provenance.held_out_images == 2
    assert provenance.teacher_weights == "random"
    assert provenance.checkpoint_sha256 == trained_run.record["model_sha256"]
    assert {"torch", "onnx", "onnxruntime", "numpy"} <= set(provenance.versions)


def test_bundle_holds_the_scores_behind_its_thresholds(trained_run: TrainedRun, bundle: Bundle) -> None:
    trained = sorted(trained_run.record["held_out_scores"])  # type: ignore[call-overload]
    assert bundle.held_out_scores("model.onnx") == pytest.approx(trained, abs=1e-3)
    half = bundle.held_out_scores("model.fp16.onnx")
    assert half == pytest.approx(trained, rel=0.05, abs=0.01)
    assert half[-1] == pytest.approx(bundle.manifest.graphs["model.fp16.onnx"].thresholds.review.score)
    assert bundle.held_out_scores("model.int8.onnx") == []


@pytest.mark.slow
@pytest.mark.parametrize("opset", [pytest.param(17, marks=pytest.mark.thorough), 20])
def test_export_command_and_verify_command(
    trained_run: TrainedRun, command: Command, tmp_path: Path, opset: int
) -> None:
    out = tmp_path / "bundle"
    done = command("export.onnx", "--run", trained_run.folder, "--out", out, "--opset", opset, "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["parameters"]["trained"] - told["parameters"]["exported"] > 2_700_000  # the encoder student is gone
    assert onnx.load(out / "model.onnx").opset_import[0].version == opset
    done = command("export.verify", "--bundle", out, "--run", trained_run.folder, "--json")
    assert done.returncode == 0, done.stderr
    pairs = json.loads(done.stdout)["pairs"]
    *exact, brain, half = pairs
    assert [(p["from"], p["to"]) for p in exact] == [("torch", "pruned"), ("pruned", "onnx"), ("torch", "onnx")]
    assert all(p["images"] >= 32 for p in pairs)
    scores = load_bundle(out).golden().scores
    assert all(max(p["max_abs_diff_score"], p["max_abs_diff_map"]) < 1e-4 * scores.max() for p in exact)
    assert [(pair["from"], pair["to"]) for pair in (brain, half)] == [("onnx", "bf16"), ("onnx", "fp16")]
    assert 0 < half["max_abs_diff_map"] < 0.05 * scores.max()


def test_runtime_inspects_a_folder_into_every_sink(
    bundle: Bundle, small_set: Path, command: Command, tmp_path: Path
) -> None:
    sinks = [f"sqlite://{tmp_path}/line.db", f"jsonl://{tmp_path}/line.jsonl", f"images://{tmp_path}/overlays"]
    options = [part for sink in sinks for part in ("--sink", sink)]
    done = command("runtime", "--bundle", bundle.path, "--source", small_set / "test", *options)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in (tmp_path / "line.jsonl").read_text().splitlines()]
    rows = (
        sqlite3.connect(tmp_path / "line.db")
        .execute("SELECT frame, verdict, score FROM inspections ORDER BY id")
        .fetchall()
    )
    assert len(lines) == 14
    assert [(line["frame"], line["verdict"], line["score"]) for line in lines] == rows
    assert {v for _, v, _ in rows} <= {v.value for v in Verdict}
    assert len(list((tmp_path / "overlays").rglob("*.png"))) == 14
    assert "captured 14 inspected 14 dropped 0" in done.stdout


def test_runtime_json_of_one_image_has_the_agreed_fields(bundle: Bundle, small_set: Path, command: Command) -> None:
    image = small_set / "test" / "crack" / "000.png"
    done = command("runtime", "--bundle", bundle.path, "--source", image, "--review-threshold", "0", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    agreed = {"source", "frame", "verdict", "score", "threshold", "ratio", "regions", "timings_ms", "bundle", "backend"}
    assert agreed <= set(told)
    assert set(told["regions"][0]) == {"box", "area", "peak"}
    assert told["bundle"] == bundle.id


def test_bare_runtime_inspects_the_golden_frames(bundle: Bundle, command: Command) -> None:
    done = command("runtime", DSKD_BUNDLE=str(bundle.path))
    assert done.returncode == 0, done.stderr
    assert "golden check of 8 frames" in done.stdout
    assert "inspected 8" in done.stdout
    told = re.findall(r"^(PASS|REVIEW|REJECT) +(\d+\.\d\d)x \((\d+\.\d{4})\)  ", done.stdout, re.M)
    assert len(told) == 8
    assert all((float(ratio) > 1) == (verdict == "REJECT") for verdict, ratio, _ in told if ratio != "1.00")


def test_a_video_is_inspected_frame_by_frame(bundle: Bundle, small_set: Path, command: Command, tmp_path: Path) -> None:
    import cv2

    clip = tmp_path / "clip.avi"
    frames = [cv2.imread(str(p)) for p in sorted((small_set / "test" / "good").iterdir())]
    writer = cv2.VideoWriter(str(clip), cv2.VideoWriter_fourcc(*"MJPG"), 10, frames[0].shape[1::-1])
    for frame in frames:
        writer.write(frame)
    writer.release()
    done = command("runtime", "--bundle", bundle.path, "--source", f"file://{clip}", "--json")
    assert done.returncode == 0, done.stderr
    assert [i["frame"] for i in json.loads(done.stdout)["inspections"]] == ["0", "1", "2", "3"]
