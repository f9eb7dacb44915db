"""Checks of disk, memory, bundle and engine."""

from __future__ import annotations

import os
import re

from dskd.jetson.doctor.base import Context, Finding, fail, ok, warn
from dskd.runtime.bundle.loading import file_sha256
from dskd.runtime.bundle.manifest import PRECISIONS
from dskd.runtime.errors import CallError, DskdError, MissingPart, one_line
from dskd.runtime.inspection.cuda.device import find_device
from dskd.runtime.inspection.engine import EngineFacts, build_command, engine_paths, read_facts, why_unfit
from dskd.runtime.inspection.proved import open_proved

LITTLE_DISK, NO_DISK = 5e9, 1e9  # bytes; an update needs room for a second bundle and its engines
LITTLE_MEMORY, NO_MEMORY = 1.5e9, 0.5e9  # bytes; building an engine needs far more than running it


def disk(context: Context) -> Finding:
    """Free space where the station writes."""
    folder = next(path for path in (context.data, *context.data.parents) if path.exists())
    status = os.statvfs(folder)
    free = status.f_bavail * status.f_frsize
    shown = f"{free / 1e9:.1f} GB free at {folder}"
    mend = "lower the archive's max_age_days or max_count, remove old runs, or give the data a disk of its own"
    if free < NO_DISK or (status.f_files and status.f_favail < 1000):
        return fail(f"the disk is full: {shown}", mend)
    return warn(f"the disk is nearly full: {shown}", mend) if free < LITTLE_DISK else ok(shown)


def memory(context: Context) -> Finding:
    """Memory that is still to be had."""
    match = re.search(r"MemAvailable:\s+(\d+) kB", context.machine.text("/proc/meminfo") or "")
    if match is None:
        return warn("/proc/meminfo cannot be read", "mount /proc")
    free = int(match[1]) * 1024
    shown = f"{free / 1e9:.1f} GB of memory available"
    mend = "stop the desktop (sudo systemctl set-default multi-user.target), or add swap for engine builds"
    if free < NO_MEMORY:
        return fail(shown, mend)
    return warn(shown, mend) if free < LITTLE_MEMORY else ok(shown)


def bundle(context: Context) -> Finding:
    """Every byte of the bundle, and its golden frames on the backend that would run."""
    try:
        loaded = context.loaded_bundle
    except CallError as error:
        return warn(str(error).partition(";")[0], "copy a bundle to the device and name it with --bundle")
    except DskdError as error:
        return fail(str(error), "copy the bundle again, or export it again")
    try:
        backend, check = open_proved(loaded)
        backend.close()
    except DskdError as error:
        return fail(f"{loaded.id}: {one_line(str(error))}", "export the bundle again, or use the onnxruntime backend")
    return ok(f"{loaded.id}: {check.images} golden frames within {check.score:.1e} on {backend.name}")


def engine(context: Context) -> Finding:
    """Whether the engines beside the bundle fit this device, TensorRT and graph."""
    try:
        loaded = context.loaded_bundle
    except DskdError:
        return ok("no bundle to have an engine for")
    present = [precision for precision in PRECISIONS if engine_paths(loaded, precision)[0].exists()]
    if not present:
        if context.libraries["tensorrt"].error:
            return ok("no engine, and no TensorRT to build one")
        return warn("TensorRT is here, but the bundle has no engine", build_command("fp16"))
    for precision in present:
        facts = None
        try:
            facts = read_facts(engine_paths(loaded, precision)[1])
            reason = _why_stale(context, facts, precision)
        except DskdError as error:
            reason = str(error).partition(";")[0]
        if reason:
            return fail(f"the {precision} engine is stale: {reason}", build_command(precision))
        built, now = facts and facts.built_on.power_mode, context.power.mode
        if built and now and built != now:
            detail = (
                f"the {precision} engine was built in power mode {built}, now is {now}: other kernels may be faster"
            )
            return warn(detail, f"{build_command(precision)} --opt-level 3 (builds anew)")
    return ok(f"engines {', '.join(present)} fit")


def _why_stale(context: Context, facts: EngineFacts, precision: str) -> str | None:
    """Like the backend's own look; without a GPU, what can be told without one."""
    loaded, here = context.loaded_bundle, context.libraries["tensorrt"]
    plan = engine_paths(loaded, facts.precision)[0]
    if here.error:
        return f"it is for TensorRT {facts.tensorrt}, and none imports here"
    try:
        return why_unfit(facts, plan, loaded, find_device(), here.version)
    except MissingPart:
        pass
    if facts.tensorrt != here.version:
        return f"it was built for TensorRT {facts.tensorrt}, here is {here.version}"
    if facts.graph_sha256 != loaded.manifest.files.get(facts.graph):
        return f"it was built from another {facts.graph}"
    return None if file_sha256(plan) == facts.plan_sha256 else "its plan is not the one that its facts are about"
