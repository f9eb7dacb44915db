"""Configurations and overrides of training: taken, or refused in one line as a wrong call."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from odd_files import assert_one_clear_line, make_loop, quick

from dskd.runtime.errors import CallError, one_line
from dskd.train.config import TrainConfig, load_config

BAD_YAML = {
    "no yaml": "recipe: [1, 2\nx: 3",
    "tab": "recipe:\n\tepochs: 3",
    "only a word": "hello",
    "only a number": "3",
    "a list": "- 1\n- 2",
    "empty": "",
    "only a comment": "# nothing yet",
    "two documents": "a: 1\n---\nb: 2",
    "a key twice": "recipe: {epochs: 1}\nrecipe: {epochs: 2}",
    "an inner key twice": "recipe: {epochs: 1, epochs: 2}",
    "python object": "recipe: !!python/object/apply:os.system ['true']",
    "unknown tag": "recipe: !thing {}",
    "unhashable key": "? [a, b]\n: 1",
    "a date that is none": "method: 2020-99-99",
    "binary that is none": "method: !!binary '@@'",
    "control byte": "method: \x07",
    "alias": "recipe: &a {epochs: 3}\nloss: *a",
    "alias of nothing": "recipe: *a",
    "an alias of itself": "recipe: &a [*a]",
    "laughs": "a: &a [x]\n" + "".join(f"{y}: &{y} [{','.join([f'*{x}'] * 9)}]\n" for x, y in zip("abcdefgh", "bcdefghi", strict=True)),
    "merged laughs": "a: &a {x: 1}\n" + "".join(f"{y}: &{y} {{<<: [{','.join([f'*{x}'] * 9)}]}}\n" for x, y in zip("abcdefgh", "bcdefghi", strict=True)),
    "deep": "[" * 20_000,
    "deep mapping": "recipe: " + "{a: " * 20_000,
    "number as key": "1: 2",
    "nothing as key": "~: 2",
    "null section": "recipe: ~",
    "list as section": "recipe: [1]",
    "word as section": "recipe: fast",
    "list as number": "recipe: {epochs: [3]}",
    "word as number": "recipe: {epochs: many}",
    "half an epoch": "recipe: {epochs: 2.5}",
    "yes as number": "recipe: {epochs: yes}",
    "no as number": "recipe: {learning_rate: no}",
    "zero epochs": "recipe: {epochs: 0}",
    "minus epochs": "recipe: {epochs: -3}",
    "batch of one": "recipe: {batch: 1}",
    "nan": "recipe: {learning_rate: .nan}",
    "infinity": "recipe: {learning_rate: .inf}",
    "infinite weight": "loss: {cosine: .inf}",
    "nan sigma": "map: {sigma: .nan}",
    "huge sigma": "map: {sigma: 1e300}",
    "warm-up over one": "recipe: {warm_up: 1.5}",
    "huge seed": "recipe: {seed: 99999999999999999999}",
    "negative seed": "recipe: {seed: -1}",
    "unknown precision": "recipe: {precision: float8}",
    "unknown backbone": "backbone: resnet19",
    "unknown method": "method: magic",
    "side not of 32": "input: {height: 100, width: 96}",
    "side of zero": "input: {height: 0, width: 96}",
    "negative side": "input: {height: -32, width: 96}",
    "huge side": "input: {height: 3200000, width: 96}",
    "crop of three": "input: {height: 64, width: 96, crop: [1, 2, 3]}",
    "negative crop": "input: {height: 64, width: 96, crop: [-5, 0, 10, 10]}",
    "empty crop": "input: {height: 64, width: 96, crop: [0, 0, 0, 10]}",
    "crop of words": "input: {height: 64, width: 96, crop: [a, b, c, d]}",
    "held out all": "data: {held_out: 1.0}",
    "rate of zero": "thresholds: {reject_rate: 0}",
    "rate of nan": "thresholds: {review_rate: .nan}",
    "review rarer than reject": "thresholds: {review_rate: 0.01, reject_rate: 0.05}",
    "share over one": "augment: {pseudo_anomalies: 7}",
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_YAML)
def test_a_bad_configuration_is_a_wrong_call_in_one_line(name: str, tmp_path: Path) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(BAD_YAML[name])
    with pytest.raises(CallError) as refused:
        load_config(file, [])
    assert_one_clear_line(str(refused.value), str(file))


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"\xff\xfe\x00", "cannot be read"), (b"caf\xe9: 1", "cannot be read"), (b"#" * (2 << 20), "over")],
)
def test_a_configuration_that_is_no_text_is_a_wrong_call(content: bytes, words: str, tmp_path: Path) -> None:
    file = tmp_path / "bad.yaml"
    file.write_bytes(content)
    with pytest.raises(CallError, match=words) as refused:
        load_config(file, [])
    assert_one_clear_line(str(refused.value), str(file))


@pytest.mark.parametrize("name", ["", "missing.yaml", "loop", "a\0b", "x" * 300])
def test_a_configuration_that_is_no_file_is_a_wrong_call(name: str, tmp_path: Path) -> None:
    make_loop(tmp_path / "loop")
    with pytest.raises(CallError):
        load_config(tmp_path / name, [])


@pytest.mark.parametrize(
    ("given_key", "near"),
    [
        ("recipe.epoch", "recipe.epochs"), ("recipe.lerning_rate", "recipe.learning_rate"),
        ("recipie.epochs", "recipe.epochs"), ("recipie.epoch", "recipe.epochs"), ("los.cosine", "loss.cosine"),
        ("input.hight", "input.height"), ("input.tilling.side", "input.tiling.side"), ("side", "input.tiling.side"),
        ("thresholds.review", "thresholds.review_rate"), ("augment.flip_verticl", "augment.flip_vertical"),
        ("bakbone", "backbone"), ("metod", "method"), ("epochs", "recipe.epochs"), ("batch", "recipe.batch"),
        ("sigma", "map.sigma"), ("crop", "input.crop"), ("width", "input.width"), ("fusion", "map.fusion"),
        ("loss.epochs", "recipe.epochs"), ("recipe.sigma", "map.sigma"), ("dskd.fussion", "dskd.fusion"),
        ("recipe.epoch.deep", "recipe.epochs"),
    ],
)  # fmt: skip
def test_an_unknown_key_is_named_with_the_nearest_known_one(given_key: str, near: str) -> None:
    with pytest.raises(CallError) as refused:
        load_config(None, [f"{given_key}=1"])
    assert f"{given_key} is unknown; did you mean {near}?" in str(refused.value)
    assert_one_clear_line(str(refused.value), "unknown")


@pytest.mark.parametrize(
    "override",
    [
        "", "=", "=3", "epochs", "recipe", "recipe.epochs", "recipe.epochs=", "recipe.epochs=many", "recipe..epochs=3",
        ".=3", "recipe.=3", "recipe=3", "recipe.epochs.deep=3", "recipe.epochs=[1", "recipe.epochs={a: 1}",
        "recipe.epochs=*x", "recipe.epochs=!!python/name:os.system", "recipe.epochs=1e400", "recipe.seed=-1",
        "recipe.learning_rate=nan", "recipe.learning_rate=.nan", "input.crop=1", "input.crop.x=1", "xyzzy=1",
        "recipe.epochs=" + "[" * 5000, "method=\x07", "recipe.\n=1", "augment.flip=perhaps", "input.height=1_0",
    ],
)  # fmt: skip
def test_a_bad_override_is_a_wrong_call(override: str) -> None:
    with pytest.raises(CallError) as refused:
        load_config(None, [override])
    assert len(one_line(str(refused.value))) > 20


def assert_taken_or_refused(file: Path | None, overrides: list[str], names: str) -> None:
    """Any exception but a CallError in one line goes through and fails the test."""
    try:
        config = load_config(file, overrides)
    except CallError as error:
        message = str(error)
    else:
        assert TrainConfig.model_validate(config.model_dump(mode="json")) == config
        return
    assert_one_clear_line(one_line(message), names)


@quick
@given(st.text(max_size=80))
def test_any_text_as_configuration_is_taken_or_refused(text: str) -> None:
    with tempfile.NamedTemporaryFile("w", suffix=".yaml", encoding="utf-8", errors="surrogatepass") as file:
        file.write(text)
        file.flush()
        assert_taken_or_refused(Path(file.name), [], file.name)


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.dates()
TREES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3), max_leaves=8)  # fmt: skip


@quick
@given(section=st.sampled_from(sorted(TrainConfig.model_fields)), tree=TREES)
def test_any_tree_in_any_section_is_taken_or_refused(section: str, tree: object) -> None:
    with tempfile.NamedTemporaryFile("w", suffix=".yaml", encoding="utf-8") as file:
        yaml.safe_dump({section: tree}, file, allow_unicode=False)
        assert_taken_or_refused(Path(file.name), [], file.name)


@quick
@given(key=st.sampled_from(["recipe.epochs", "map.sigma", "input.crop", "backbone", "augment.flip"]), tree=TREES)
def test_any_value_of_an_override_is_taken_or_refused(key: str, tree: object) -> None:
    value = yaml.safe_dump(tree, default_flow_style=True)
    assert_taken_or_refused(None, [f"{key}={value}"], key.split(".")[0])
