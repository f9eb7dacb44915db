"""Files and bodies from outside, mutated: whatever they hold, what is raised is the product's own error.

Each kind is tried 100,000 times by ``make test-all``, fewer in ``make test``; a failure names its number, from which it
can be made again.
"""

from __future__ import annotations

import json
import os
import random
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import yaml
from budget import cases
from onnx import TensorProto, helper
from pydantic import BaseModel
from safetensors.numpy import save
from starlette.requests import Request
from station_files import write_station

from dskd.jetson.fleet_config import load_fleet_config
from dskd.jetson.signing import Refused, Statement, load_private, load_trusted, make_key, open_envelope, sign
from dskd.runtime.bundle.graph_operators import require_bounded
from dskd.runtime.configuration.strict_yaml import LOADER, PlainYaml, parse_yaml
from dskd.runtime.errors import DskdError
from dskd.runtime.station.load import read_station
from dskd.runtime.web.app import _body
from dskd.runtime.web.changes import Thresholds
from dskd.runtime.web.changes import Trigger as TriggerBody
from dskd.runtime.web.endpoint import Refused as RefusedBody
from dskd.runtime.web.session import SignIn
from dskd.train.checkpoint import load_checkpoint, save_checkpoint

MUTATIONS = int(os.environ.get("DSKD_FUZZ_MUTATIONS", "100000"))  # .ci/run asks for a tenth
SHARE = 250  # one in so many is tried by ``make test``
PIECES = [
    b"!!bool", b"!!int", b"!!float", b"!!timestamp", b"!!binary", b"!!set", b"!!omap", b"!!pairs", b"!!null", b"!!str",
    b"!!python/object:os.system", b"!<tag:yaml.org,2002:int>", b"&a", b"*a", b"<<:", b"- ", b"? ", b": ", b"{", b"}", b"[",
    b"]", b",", b"'", b'"', b"|", b">", b"#", b"%YAML 1.1\n", b"---\n", b"...\n", b"\t", b"\n", b" ", b"~", b"null", b"true",
    b"yes", b"0x", b"0b", b"0o8", b"1e999", b".inf", b".nan", b"-", b"1:60", b"2026-13-45", b"\xff\xfe", b"\x00", b"\xc3",
    "ä".encode(), b"${X}", b"9" * 400, b"1e-400", b"NaN", b"Infinity", b"\\ud800", b"\\x", b"//", b"..", b"\x85", b"\xe2\x80\xa8",
]  # fmt: skip


def mutated(data: bytes, chance: random.Random) -> bytes:
    """One to four changes: pieces that mean something, bytes, cuts, repetitions, nesting."""
    changed = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        at = chance.randint(0, len(changed))
        match chance.randrange(6):
            case 0:
                changed[at:at] = chance.choice(PIECES)
            case 1:
                end = min(len(changed), at + chance.randint(0, 12))
                changed[at:end] = chance.choice(PIECES) + b" "
            case 2:
                changed[at : at + 1] = bytes([chance.randrange(256)])
            case 3:
                del changed[at : at + chance.choice([1, 3, 40])]
            case 4:
                changed[at:at] = changed[chance.randint(0, at) : at][:200]
            case _:
                changed[at:at] = chance.choice([b"[", b"{a: ", b"- ", b"!!set "]) * chance.choice([1, 30, 300])
    return bytes(changed)


def fuzz(
    data: bytes, take: Callable[[bytes], object], allowed: tuple[type[Exception], ...], number: int = MUTATIONS
) -> int:
    """Tries mutations; returns how many were refused. Anything but ``allowed`` fails, with what it was raised by."""
    refused = 0
    for seed in range(cases(number) if cases(number) == number else number // SHARE):
        changed = mutated(data, random.Random(seed))
        try:
            take(changed)
        except allowed:
            refused += 1
        except Exception as error:
            pytest.fail(f"mutation {seed} of {changed[:400]!r}: {type(error).__name__}: {error}")
    return refused


@pytest.mark.parametrize(
    "text", ["!!bool x", "!!timestamp x", '!!int ""', '!!float ""', '!!int "-"', "!!int [1]", "!!binary é"]
)
@pytest.mark.parametrize("reader", [PlainYaml, LOADER])
def test_tags_that_do_not_fit(text: str, reader: type, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("dskd.runtime.configuration.strict_yaml.LOADER", reader)
    with pytest.raises(yaml.YAMLError):
        parse_yaml(f"name: {text}")
    (tmp_path / "station.yaml").write_text(f"name: {text}\n", "utf-8")
    config, faults = read_station(tmp_path / "station.yaml")
    assert config is None
    assert len(faults) == 1


@pytest.mark.budget
def test_station_files(tmp_path: Path) -> None:
    file = write_station(tmp_path, outputs={"v": {"kind": "gpio", "line": 1}}, sinks={"a": {"kind": "archive"}}, web={})
    data, other = file.read_bytes(), tmp_path / "mutated.yaml"

    def take(changed: bytes) -> None:
        other.write_bytes(changed)
        config, faults = read_station(other)
        assert config is not None or faults
        for fault in faults:
            assert "\n" not in str(fault)

    fuzz(data, take, (DskdError,))


@pytest.mark.budget
def test_plain_yaml() -> None:
    data = b"name: !!str x\nlist: [1, 2.5, true, ~, 2026-01-01]\nmap: {a: 'b', c: \"d\"}\ntext: |\n  x\n? k\n: v\n"
    refused = fuzz(data, lambda changed: parse_yaml(changed.decode("utf-8", "replace")), (yaml.YAMLError,))
    assert refused


@pytest.mark.budget
def test_fleet_files(tmp_path: Path) -> None:
    file = tmp_path / "fleet.yaml"
    data = (
        b"product: bracket\nsource: https://host/x/\nlive: {inspections: 50}\nbroker: {address: 'mqtt://h', topic: t}\n"
    )

    def take(changed: bytes) -> None:
        file.write_bytes(changed)
        load_fleet_config(file)

    fuzz(data, take, (DskdError,))


@pytest.mark.budget
def test_statements_of_updates(tmp_path: Path) -> None:
    make_key(tmp_path, "k")
    key, trusted = load_private(tmp_path / "k.pem"), load_trusted(tmp_path)
    statement = Statement(
        product="bracket", version=3, bundle="b", manifest_sha256="0" * 64, archive="b.tar", archive_bytes=1,
        archive_sha256="1" * 64, unpacked_bytes=1, files=1,
    )  # fmt: skip
    raw = sign(statement, key)

    def take(changed: bytes) -> None:
        assert open_envelope(changed, trusted, "bracket") == statement, "a change that means something is believed"

    fuzz(raw, take, (Refused,))


@pytest.mark.budget
@pytest.mark.parametrize(
    ("model", "text"),
    [
        (Thresholds, '{"review": 0.5, "reject": 1e3, "confirm": true, "bundle": "x"}'),
        (SignIn, '{"token": "abc", "name": "Ada"}'),
        (TriggerBody, '{"part": "p-1"}'),
    ],
)
def test_bodies_of_requests(model: type[BaseModel], text: str) -> None:
    def take(body: bytes) -> None:
        async def receive() -> dict[str, object]:
            return {"type": "http.request", "body": body, "more_body": False}

        scope = {"type": "http", "method": "POST", "path": "/", "headers": [(b"content-type", b"application/json")]}
        with suppress(StopIteration):  # nothing in it waits: one step is all
            _body(Request(scope, receive), model).send(None)  # type: ignore[attr-defined, arg-type]

    fuzz(text.encode(), take, (RefusedBody,), MUTATIONS // 3)


@pytest.mark.budget
def test_checkpoints(tmp_path: Path) -> None:
    model = torch.nn.Linear(2, 1)
    optimiser = torch.optim.Adam(model.parameters())
    model(torch.ones(1, 2)).sum().backward()
    optimiser.step()
    file = tmp_path / "checkpoint.safetensors"
    save_checkpoint(file, model, optimiser, 3, {"scale": 2.0}, {"configuration": "c"})
    data = file.read_bytes()

    def take(changed: bytes) -> None:
        file.write_bytes(changed)
        load_checkpoint(file, model, optimiser, {"configuration": "c"})

    refused = fuzz(data, take, (DskdError,))
    assert refused


@pytest.mark.parametrize(
    "metadata",
    [
        {"step": "x"},
        {},
        {"step": "-1"},
        {"step": "3", "scaler": "["},
        {"step": "3", "run": "[]"},
        {"step": "3", "scaler": "7"},
    ],
)
def test_a_checkpoint_that_says_nonsense_of_itself(metadata: dict[str, str], tmp_path: Path) -> None:
    model = torch.nn.Linear(2, 1)
    file = tmp_path / "c.safetensors"
    tensors = {f"model.{name}": value.numpy() for name, value in model.state_dict().items()}
    file.write_bytes(save(tensors, metadata))
    with pytest.raises(DskdError, match="damaged"):
        load_checkpoint(file, model, torch.optim.SGD(model.parameters()), {})


# ------------------------------------------------------------------------------------------------------------- graphs


def graph(*nodes: onnx.NodeProto) -> onnx.ModelProto:
    made = helper.make_graph(
        list(nodes), "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])],
        [helper.make_tensor("w", TensorProto.FLOAT, [4], np.ones(4, np.float32))],
    )  # fmt: skip
    return helper.make_model(made)


def body() -> onnx.GraphProto:
    return helper.make_graph([helper.make_node("Identity", ["a"], ["b"])], "body", [], [])


@pytest.mark.parametrize("operator", ["Loop", "Scan", "If", "SequenceMap"])
def test_a_graph_that_may_run_without_end_is_refused(operator: str, tmp_path: Path) -> None:
    onnx.save(
        graph(helper.make_node("Relu", ["x"], ["r"]), helper.make_node(operator, ["r"], ["y"], body=body())),
        tmp_path / "m",
    )
    with pytest.raises(DskdError, match=operator):
        require_bounded(tmp_path / "m")


def test_functions_that_could_hide_a_loop_are_refused(tmp_path: Path) -> None:
    model = graph(helper.make_node("Relu", ["x"], ["y"]))
    loop = helper.make_node("Loop", ["x"], ["y"], body=body())
    model.functions.append(helper.make_function("d", "F", ["x"], ["y"], [loop], [helper.make_opsetid("", 17)]))
    onnx.save(model, tmp_path / "m")
    with pytest.raises(DskdError, match="functions"):
        require_bounded(tmp_path / "m")


@pytest.mark.budget
def test_graphs(tmp_path: Path) -> None:
    data = graph(helper.make_node("Relu", ["x"], ["y"], name="Loop")).SerializeToString()
    file = tmp_path / "m.onnx"
    file.write_bytes(data)
    require_bounded(file)

    def take(changed: bytes) -> None:
        file.write_bytes(changed)
        require_bounded(file)

    fuzz(data, take, (DskdError,))
    for raw in (b"", b"\x3a", b"\x3a\xff\xff\xff\xff\x0f", b"\x80" * 20, struct.pack("<Q", 1 << 63)):
        file.write_bytes(raw)
        with suppress(DskdError):
            require_bounded(file)


# -------------------------------------------------------------------------------------------------- many faults at once


def test_checking_a_file_takes_no_longer_per_fault_the_more_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """300 unknown keys took 162 seconds, for each fault read the file anew."""
    reads = [0]
    from dskd.runtime.station import load

    nodes = load.nodes_of

    def counted(text: str) -> yaml.Node | None:
        reads[0] += 1
        return nodes(text)

    monkeypatch.setattr(load, "nodes_of", counted)
    file = write_station(tmp_path)
    file.write_text(file.read_text() + "".join(f"unknown{k}: 1\n" for k in range(300)))
    began = time.monotonic()
    _, faults = read_station(file)
    assert len(faults) == 300
    assert faults[-1].line > faults[0].line > 0
    assert reads[0] == 1
    assert json.dumps([str(fault) for fault in faults[:3]])
    assert time.monotonic() >= began
