"""Saves are all or nothing: killed, watched and doubled ones leave one whole model, and hurt nothing else."""

import os
from pathlib import Path

import pytest
import torch
from saving import outcomes

from neglog import Fit, export, mle, models
from neglog.errors import DataError


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[int] | list[str]]:
    return outcomes(tmp_path_factory.mktemp("saves"))


@pytest.fixture(scope="module")
def fit() -> Fit:
    x = torch.arange(12.0, dtype=torch.float64)[:, None]
    return mle(models.gaussian, x, torch.sin(x[:, 0]) + 0.1 * x[:, 0])


@pytest.mark.parametrize(("name", "old"), [("first", "none"), ("later", "0")])
def test_a_save_that_is_killed_leaves_the_old_model_or_the_new(
    found: dict[str, list[int] | list[str]], name: str, old: str
) -> None:
    """And the next save works, and removes what was left: its file is the only one."""
    calls = found[name]
    assert len(calls) >= 8
    after = calls.index("1 0 1")
    assert calls == [f"{old} 0 1"] * after + ["1 0 1"] * (len(calls) - after)
    assert after >= 4


def test_saves_that_are_killed_at_any_time_leave_no_mixture(found: dict[str, list[int] | list[str]]) -> None:
    assert set(found["any"]) <= {"none", "0", "1"}
    assert "none" not in found["any"][1:]  # The second process is killed after a save.


def test_a_reader_finds_one_whole_model_while_others_save(found: dict[str, list[int] | list[str]]) -> None:
    assert set(found["read"]) <= {"0", "1"}


def test_several_saves_at_once_all_succeed(found: dict[str, list[int] | list[str]]) -> None:
    assert found["several"] == [0, 0, 0]
    kind, *names = found["several left"]
    assert kind in ("0", "1")
    assert names == ["model.json"]


def test_no_symbolic_link_is_followed(tmp_path: Path, fit: Fit) -> None:
    theirs = tmp_path / "theirs.txt"
    theirs.write_text("precious")
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("model.json.new", "params.safetensors.new", f".model.json.{'0' * 32}.new"):
        (folder / name).symlink_to(theirs)
    export.save(fit, folder)
    (folder / "model.json").rename(tmp_path / "kept.json")
    (folder / "model.json").symlink_to(tmp_path / "kept.json")
    before = (tmp_path / "kept.json").read_bytes()
    export.save(mle(models.laplace, torch.empty((3, 0)), torch.tensor([1.0, 2.0, 4.0])), folder)
    assert theirs.read_text() == "precious"
    assert (tmp_path / "kept.json").read_bytes() == before
    assert not (folder / "model.json").is_symlink()
    assert set(export.load(folder).params) == {"location.weight", "location.bias", "scale"}


@pytest.mark.parametrize(
    "names", [["params.safetensors.new"], ["params.safetensors.new", "model.json.new"],
              ["params.safetensors", "model.json.new"]],
)  # fmt: skip
def test_what_a_killed_first_save_of_format_1_left_is_no_hindrance(
    tmp_path: Path, fit: Fit, names: list[str]
) -> None:
    for name in names:
        (tmp_path / name).write_bytes(b"half")
    assert export.load(export.save(fit, tmp_path)).nll == fit.nll
    assert os.listdir(tmp_path) == ["model.json"]


def test_estimates_that_somebody_else_put_there_are_left_alone(tmp_path: Path, fit: Fit) -> None:
    (tmp_path / "params.safetensors").write_bytes(b"mine")
    with pytest.raises(DataError, match="not empty"):
        export.save(fit, tmp_path)
    export.save(fit, tmp_path / "model")
    (tmp_path / "params.safetensors").rename(tmp_path / "model" / "params.safetensors")
    export.save(fit, tmp_path / "model")
    assert (tmp_path / "model" / "params.safetensors").read_bytes() == b"mine"


def test_a_model_has_the_permissions_of_other_files_and_keeps_its_own(tmp_path: Path, fit: Fit) -> None:
    export.save(fit, tmp_path / "model")
    (tmp_path / "other").write_text("")
    path = tmp_path / "model" / "model.json"
    assert path.stat().st_mode == (tmp_path / "other").stat().st_mode
    path.chmod(0o600)
    export.save(fit, tmp_path / "model")
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_save_that_fails_leaves_what_was_there(
    tmp_path: Path, fit: Fit, monkeypatch: pytest.MonkeyPatch
) -> None:
    export.save(fit, tmp_path)
    before = (tmp_path / "model.json").read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("neglog.files.os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        export.save(mle(models.laplace, torch.empty((3, 0)), torch.tensor([1.0, 2.0, 4.0])), tmp_path)
    assert os.listdir(tmp_path) == ["model.json"]
    assert (tmp_path / "model.json").read_bytes() == before


def test_a_flipped_bit_is_the_same_model_or_an_error(tmp_path: Path, fit: Fit) -> None:
    path = export.save(fit, tmp_path) / "model.json"
    whole = path.read_bytes()
    refused = 0
    for place in range(0, len(whole), 7):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << (place % 8)
        path.write_bytes(flipped)
        try:
            found = export.load(tmp_path)
        except DataError:
            refused += 1
            continue
        assert found.nll == fit.nll
        assert all(torch.equal(found.params[name], fit.params[name]) for name in fit.params)
    assert refused > len(whole) // 14  # All but those in the layout.
