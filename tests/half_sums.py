"""A half-precision graph as a device computes it that also adds products up in half precision, 16 at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

TOGETHER = 16  # products that a tensor core sums exactly before their sum is added to the half-precision one


def answers_in_half(
    model: onnx.ModelProto, inputs: NDArray[np.uint8]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Scores [N] and maps [N, H, W] of inputs [N, H, W, 3], one after the other."""
    evaluator = ReferenceEvaluator(model, new_ops=[Conv, MatMul])
    found = [evaluator.run(["score", "anomaly_map"], {"image": image[None]}) for image in inputs]
    return np.concatenate([score for score, _ in found]), np.concatenate([anomaly_map for _, anomaly_map in found])


class Conv(OpRun):  # type: ignore[misc]
    """onnx's own, but for the sums."""

    op_domain = ""

    def _run(self, x: Any, weight: Any, bias: Any = None, pads: Any = None, strides: Any = None, **_: Any) -> Any:
        top, left, bottom, right = pads or (0, 0, 0, 0)
        step = tuple(strides or (1, 1))
        padded = torch.nn.functional.pad(torch.from_numpy(x.copy()).float(), (left, right, top, bottom))
        columns = torch.nn.functional.unfold(padded, weight.shape[2:], stride=step)
        rows = torch.from_numpy(weight.copy()).float().flatten(1)
        total = torch.zeros(len(x), len(rows), columns.shape[2], dtype=torch.float16)
        for k in range(0, rows.shape[1], TOGETHER):
            total = total + (rows[:, k : k + TOGETHER] @ columns[:, k : k + TOGETHER]).half()
        if bias is not None:
            total = (total.float() + torch.from_numpy(bias.copy()).float()[:, None]).half()
        height = (padded.shape[2] - weight.shape[2]) // step[0] + 1
        return (total.reshape(len(x), len(rows), height, -1).numpy().astype(x.dtype),)


class MatMul(OpRun):  # type: ignore[misc]
    """onnx's own, but for the sums of half-precision products."""

    op_domain = ""

    def _run(self, a: Any, b: Any, **_: Any) -> Any:
        if a.dtype != np.float16:
            return (np.matmul(a, b),)
        x, y = torch.from_numpy(a.copy()).float(), torch.from_numpy(b.copy()).float()
        total = torch.zeros(*np.broadcast_shapes(a.shape[:-2], b.shape[:-2]), a.shape[-2], b.shape[-1]).half()
        for k in range(0, a.shape[-1], TOGETHER):
            total = total + (x[..., k : k + TOGETHER] @ y[..., k : k + TOGETHER, :]).half()
        return (total.numpy(),)
