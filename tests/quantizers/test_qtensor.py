"""QTensor: size, layout, and files that must be refused when they are not what was written."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from nybble.errors import UserError
from nybble.formats import Table16, get_format
from nybble.quantizers import SAWB, AbsMax, MinMax, QTensor, Quantizer, RandomKey, Unit, quantize
from nybble.quantizers.scales import Fit
from nybble.quantizers.storage import digest

CASES = [
    Quantizer(get_format("int4_sym"), SAWB()),
    Quantizer(get_format("int4_sym"), SAWB(per_channel=True)),
    Quantizer(get_format("int4"), MinMax()),
    Quantizer(get_format("int4"), AbsMax("row")),
    Quantizer(get_format("fp4_e2m1"), AbsMax("block", block=16)),
    Quantizer(get_format("fp4_e2m1"), AbsMax.mx(0)),
    Quantizer(get_format("fp4_e2m1"), AbsMax.nv()),
    Quantizer(get_format("int3"), AbsMax()),
    Quantizer(get_format("int6"), AbsMax()),
    Quantizer(get_format("fp16"), Unit()),
    Quantizer(Table16(tuple(range(-40, 40, 5))), AbsMax()),
]
IDS = [q.short for q in CASES]


def data(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def equal(a: QTensor, b: QTensor) -> bool:
    return (
        torch.equal(a.packed, b.packed)
        and a.format == b.format
        and a.shape == b.shape
        and torch.equal(a.dequantize().view(torch.int32), b.dequantize().view(torch.int32))
        and torch.equal(a.fit.inv, b.fit.inv)
        and (a.fit.granularity, a.fit.axis, a.fit.blocks)
        == (b.fit.granularity, b.fit.axis, b.fit.blocks)
    )


@pytest.mark.parametrize("quantizer", CASES, ids=IDS)
@pytest.mark.parametrize("shape", [(5, 70), (1, 1), (0, 3), (3, 0), (2, 3, 17)])
def test_save_and_load(quantizer: Quantizer, shape: tuple[int, ...], tmp_path: Path) -> None:
    q = quantize(data(*shape), quantizer)
    path = tmp_path / "q.safetensors"
    q.save(path)
    assert equal(QTensor.load(str(path)), q)
    q.save(path)  # over an old one
    assert os.listdir(tmp_path) == ["q.safetensors"]


def test_a_nan_scale_survives(tmp_path: Path) -> None:
    q = quantize(torch.tensor([float("nan"), 1.0]), CASES[0])
    q.save(tmp_path / "q")
    assert bool(QTensor.load(tmp_path / "q").dequantize().isnan().all())


def test_bytes() -> None:
    n = 64 * 100
    assert quantize(data(n), CASES[0]).nbytes == n // 2 + 4
    assert quantize(data(10, 640), CASES[3]).nbytes == n // 2 + 10 * 4
    assert quantize(data(n), CASES[2]).nbytes == n // 2 + 4 + 4
    assert quantize(data(64, 100), CASES[5]).nbytes == n // 2 + 2 * 100
    assert quantize(data(10, 640), CASES[6]).nbytes == n // 2 + n // 16 + 4
    assert quantize(data(n), CASES[8]).nbytes == n + 4
    assert quantize(data(n), CASES[9]).nbytes == 2 * n + 4


def test_properties_and_device() -> None:
    q = quantize(data(6, 4), CASES[2])
    assert q.scale is q.fit.scale
    assert q.zero_point is q.fit.zero_point
    assert q.version == 1
    assert q.device.type == "cpu"
    assert equal(q.to("cpu"), q)
    assert q.to("meta").device.type == "meta"
    assert repr(q) == "QTensor(shape=(6, 4), format=int4, scale=tensor, nbytes=40)"
    with pytest.raises(UserError, match="no small-integer form"):
        quantize(data(3), CASES[9]).integers()


def test_codes_of_the_wrong_length_are_refused() -> None:
    fit = Fit.of(torch.tensor(1.0))
    with pytest.raises(UserError, match="take 32 uint8 bytes, got 5"):
        QTensor(torch.zeros(5, dtype=torch.uint8), get_format("int4"), (9,), fit)
    with pytest.raises(UserError, match="float32"):
        QTensor(torch.zeros(32), get_format("int4"), (9,), fit)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "weights.safetensors"
    quantize(data(6, 40), CASES[0]).save(path)
    return path


def refused(path: Path, words: str | None = None) -> None:
    with pytest.raises(UserError, match=words) as caught:
        QTensor.load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_every_altered_byte_is_noticed(saved: Path) -> None:
    original = saved.read_bytes()
    for place in range(len(original)):
        changed = bytearray(original)
        changed[place] ^= 1 << (place % 8)
        saved.write_bytes(bytes(changed))
        try:
            q = QTensor.load(saved)
        except UserError as error:
            assert str(saved) in str(error)
        else:  # a flip in unimportant JSON, such as white space, may change nothing
            saved.write_bytes(original)
            assert equal(q, QTensor.load(saved))


def test_every_truncation_is_noticed(saved: Path) -> None:
    original = saved.read_bytes()
    for length in range(0, len(original), 7):
        saved.write_bytes(original[:length])
        refused(saved)


def rewrite(path: Path, change: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
    """A forged file: its checksum fits, its content may not."""
    with safetensors.safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()["nybble"])
        kept = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    kept.update(tensors)
    header.pop("sha256")
    header.update(change)
    header["sha256"] = digest(header, kept)
    path.write_bytes(safetensors.torch.save(kept, {"nybble": json.dumps(header)}))


@pytest.mark.parametrize(
    ("change", "tensors", "words"),
    [
        ({"version": 2}, {}, "format version 2"),
        ({"format": "int5"}, {}, "do not take"),
        ({"format": "int44"}, {}, "unknown format"),
        ({"format": None}, {}, "name or a dict"),
        ({"shape": [6, 41, 9]}, {}, "do not take"),
        ({"shape": [-6, -40]}, {}, "shape"),
        ({"shape": "big"}, {}, None),
        ({"shape": None}, {}, None),
        ({"granularity": "row", "axis": 0}, {}, "scale has shape"),
        ({"granularity": "channel", "axis": 0}, {}, "scale has shape"),
        ({"granularity": "channel", "axis": 5}, {}, "axis"),
        ({"granularity": "channel", "axis": None}, {}, None),
        ({"granularity": "block", "axis": 0, "blocks": 0}, {}, "layout"),
        ({"granularity": "all", "axis": 0, "blocks": 1}, {}, "layout"),
        ({}, {"scale": torch.ones(2)}, "scale has shape"),
        ({}, {"scale": torch.ones((), dtype=torch.float64)}, "float64"),
        ({}, {"codes": torch.zeros(128, dtype=torch.int8)}, "int8"),
        ({}, {"codes": torch.zeros(2, 64, dtype=torch.uint8)}, "do not take"),
        ({}, {"extra": torch.zeros(1)}, "it holds"),
        ({}, {"zero_point": torch.tensor(0.5)}, "not an integer"),
        ({}, {"zero_point": torch.zeros(3)}, "not an integer"),
        ({"format": "int3"}, {"codes": torch.full((128,), 0x18, dtype=torch.uint8)}, "3 bits"),
        ({"format": "int2"}, {"codes": torch.full((128,), 0x40, dtype=torch.uint8)}, "2 bits"),
        ({"format": "int6"}, {"codes": torch.full((240,), 64, dtype=torch.uint8)}, "6 bits"),
    ],
)
def test_forged_files_are_refused(
    saved: Path, change: dict[str, Any], tensors: dict[str, torch.Tensor], words: str | None
) -> None:
    rewrite(saved, change, tensors)
    refused(saved, words)


def test_an_honest_rewrite_is_accepted(saved: Path) -> None:
    before = QTensor.load(saved)
    rewrite(saved, {}, {})
    assert equal(QTensor.load(saved), before)
    codes = torch.full((240,), 63, dtype=torch.uint8)
    rewrite(saved, {"format": "int6"}, {"codes": codes})
    assert torch.equal(QTensor.load(saved).codes(), codes.view(6, 40))


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x"
    refused(path, "no such file")
    refused(tmp_path)
    path.write_bytes(b"")
    refused(path, "safetensors")
    path.write_bytes(b"PK\x03\x04 a pickle in a zip")
    refused(path, "safetensors")
    path.write_bytes(struct.pack("<Q", 1 << 60) + b"{}")
    refused(path, "safetensors")
    path.write_bytes(safetensors.torch.save({"w": torch.ones(2)}))
    refused(path, "no 'nybble' entry")
    for text, words in (("{", "not JSON"), ("[1]", "JSON object")):
        path.write_bytes(safetensors.torch.save({"w": torch.ones(2)}, {"nybble": text}))
        refused(path, words)


def test_a_file_that_cannot_be_written_names_itself(tmp_path: Path) -> None:
    q = quantize(data(3), CASES[0])
    missing = tmp_path / "no" / "where"
    with pytest.raises(UserError, match="cannot be written") as caught:
        q.save(missing)
    assert str(missing) in str(caught.value)
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(UserError, match="cannot be written"):
        q.save(folder)
    assert os.listdir(tmp_path) == ["folder"]  # no temporary file is left


def test_a_failed_write_leaves_the_old_file(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = saved.read_bytes()

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="No space left on device"):
        quantize(data(3), CASES[0]).save(saved)
    assert saved.read_bytes() == before
    assert os.listdir(saved.parent) == [saved.name]


def test_the_seed_of_a_stochastic_tensor_is_not_needed_to_read_it(tmp_path: Path) -> None:
    from nybble.formats import Stochastic

    q = quantize(
        data(50), Quantizer(get_format("int4"), AbsMax(), Stochastic()), key=RandomKey(seed=3)
    )
    q.save(tmp_path / "q")
    assert equal(QTensor.load(tmp_path / "q"), q)
