"""Traffic of the main memory and latency against ZigZag, a search over loop orders and memory
levels (Mei et al., IEEE TC 70(8) 2021; its LOMA engine).

The same machine is described to both: an array of m x n x k multipliers that hold weights, one
memory on chip for all three operands, main memory. Numbers are 8 bits, results 16, partial sums 32.

Two descriptions of the double buffer are used. `halved`: half of the memory, as we count, so that
both search the same space. `doubled`: the whole memory, of which ZigZag takes twice the tile of
every operand that is not there as a whole; ours then stores too much, and never too little.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from nybble.hardware.tiling import Array, Shape, array_cycles, traffic

zigzag = pytest.importorskip("zigzag.api", reason="zigzag-dse is not installed")
directions = pytest.importorskip("zigzag.hardware.architecture.memory_port")

pytestmark = pytest.mark.peers

PAGE = Path(__file__).resolve().parents[2] / "docs" / "hardware-method.md"
SLOW, FAST = 16, 256  # bytes a cycle of the main memory
EVERYTHING = 12  # more prime factors than any shape here has, so none are merged
CUBE, ROW = (16, 16, 16), (1, 32, 32)

Sizes = tuple[int, int, int]


@dataclass(frozen=True)
class Found:
    """Bytes of main memory, cycles altogether and those of the array alone."""

    bytes: float
    cycles: float
    ideal: float


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def machine(array: Sizes, capacity: int, bandwidth: int, doubled: bool) -> dict[str, Any]:
    """ZigZag's description. D1 is n, D2 is k, D3 is m. Inside the chip nothing is scarce."""
    m, n, k = array
    wide = 1 << 16

    def port(name: str, kind: str, least: int, most: int, *moves: str) -> dict[str, Any]:
        bounds = {"bandwidth_min": least, "bandwidth_max": most}
        return {"name": name, "type": kind, "allocation": list(moves), **bounds}

    def memory(size: int, operands: str, served: str, *ports: dict[str, Any]) -> dict[str, Any]:
        made = {"size": size, "operands": operands.split(), "served_dimensions": served.split()}
        return made | {"r_cost": 1, "w_cost": 1, "area": 0, "latency": 1, "ports": list(ports)}

    chip = memory(
        capacity * 8 if doubled else capacity * 4,
        "I1 I2 O",
        "D1 D2 D3",
        port("r_port_1", "read", 8, wide, "I1, tl"),
        port("r_port_2", "read", 8, wide, "I2, tl"),
        port("rw_port_1", "read_write", 8, wide, "O, tl", "O, fl"),
        port("w_port_1", "write", 8, wide, "I1, fh", "I2, fh", "O, fh"),
        port("r_port_3", "read", 8, wide, "O, th"),
    )
    moves = [f"{op}, {way}" for op in ("I1", "I2") for way in ("fh", "tl")]
    moves += [f"O, {way}" for way in ("fh", "tl", "fl", "th")]
    return {
        "name": "two_levels",
        "memories": {
            "weights": memory(
                16,
                "I2",
                "D3",
                port("r_port_1", "read", 8, 8, "I2, tl"),
                port("w_port_1", "write", 8, 8, "I2, fh"),
            ),
            "sums": memory(
                32,
                "O",
                "D2",
                port("r_port_1", "read", 32, 32, "O, tl"),
                port("r_port_2", "read", 32, 32, "O, th"),
                port("w_port_1", "write", 32, 32, "O, fh"),
                port("w_port_2", "write", 32, 32, "O, fl"),
            ),
            "chip": chip | {"force_double_buffering": doubled},
            "main": memory(
                10**12,
                "I1 I2 O",
                "D1 D2 D3",
                port("rw_port_1", "read_write", 8, bandwidth * 8, *moves),
            ),
        },
        "operational_array": {
            "input_precision": [8, 8],
            "unit_energy": 1,
            "unit_area": 1,
            "dimensions": ["D1", "D2", "D3"],
            "sizes": [n, k, m],
            "systolic_dimensions": ["D1", "D2"],  # results leave one row and column after the other
        },
    }


def search(
    folder: Path,
    sizes: Sizes,
    array: Sizes,
    capacity: int,
    *,
    bandwidth: int = SLOW,
    doubled: bool = False,
    factors: int = 6,
) -> Found:
    """ZigZag's mapping of least latency. `factors`: to how many loops it merges (6 if not told)."""
    m, n, k = sizes
    chip, mapping = folder / "chip.yaml", folder / "mapping.yaml"  # JSON is YAML
    chip.write_text(json.dumps(machine(array, capacity, bandwidth, doubled)))
    spatial = {"D1": [f"K, {array[1]}"], "D2": [f"C, {array[2]}"], "D3": [f"B, {array[0]}"]}
    links = {"O": "O", "W": "I2", "I": "I1"}
    mapping.write_text(
        json.dumps([{"name": "default", "spatial_mapping": spatial, "memory_operand_links": links}])
    )
    layer = {
        "id": 0,
        "name": "gemm",
        "operator_type": "Gemm",
        "equation": "O[b][k]+=W[k][c]*I[b][c]",
        "loop_dims": ["B", "K", "C"],
        "loop_sizes": [m, n, k],
        "operand_precision": {"W": 8, "I": 8, "O": 32, "O_final": 16},
        "operand_source": {"I": 0, "W": 0},
    }
    _, cycles, layers = zigzag.get_hardware_performance_zigzag(
        [layer],
        str(chip),
        str(mapping),
        dump_folder=str(folder / "out"),
        pickle_filename=str(folder / "out.pickle"),
        lpf_limit=factors,
        loma_show_progress_bar=False,
    )
    found = layers[0][1][0][0]
    words = sum(
        levels[-1].get(way)
        for levels in found.memory_word_access.values()
        for way in directions.DataDirection
    )
    return Found(float(words * bandwidth), float(cycles), float(found.ideal_temporal_cycle))


def ours(sizes: Sizes, array: Sizes, capacity: int, bandwidth: int = SLOW) -> Found:
    """The same of our own search."""
    m, n, k = sizes
    shape = Shape(1, m, n, k, float(m * k), float(k * n), 2.0 * m * n)
    moved = traffic(shape, capacity)
    cycles = array_cycles(shape, Array(*array, ("weight",), True), "weight")
    return Found(moved, max(cycles, moved / bandwidth), cycles - array[1] - array[2])


def compulsory(sizes: Sizes) -> int:
    """Bytes that cross once whatever the memory."""
    m, n, k = sizes
    return m * k + k * n + 2 * m * n


# Powers of two, so that both can take every tile that the other takes: square, tall, flat, large
# and small K; larger than the memory, and inside it.
EVEN = (
    (4096, (64, 64, 64)),
    (8192, (64, 64, 64)),
    (4096, (128, 64, 64)),
    (8192, (64, 128, 64)),
    (8192, (64, 64, 128)),
    (16384, (64, 64, 128)),
    (4096, (32, 32, 512)),
    (8192, (32, 32, 512)),
    (4096, (256, 32, 64)),
    (8192, (32, 256, 64)),
    (4096, (256, 64, 16)),
    (8192, (128, 64, 128)),
    (32768, (128, 64, 64)),
    # Here partial sums would win if they crossed once instead of twice.
    (4096, (32, 64, 128)),
    (4096, (64, 32, 128)),
    (4096, (16, 256, 128)),
)


@pytest.mark.parametrize(("capacity", "sizes"), EVEN, ids=str)
def test_the_same_where_both_try_the_same(tmp_path: Path, capacity: int, sizes: Sizes) -> None:
    theirs = search(tmp_path, sizes, CUBE, capacity, factors=EVERYTHING)
    mine = ours(sizes, CUBE, capacity)
    assert mine.bytes == theirs.bytes
    assert mine.bytes >= compulsory(sizes)
    # Main memory decides. ZigZag adds a cycle to begin with, and its drain.
    assert mine.cycles == pytest.approx(theirs.cycles - 1 - (15 + 15), abs=1)


# 5, 7 and 11 tiles, 13 of which the last is cut: ZigZag takes the divisors of the number of array
# tiles, 1 or 7 of 7, ours 1, 2, 4 or 7 with a last tile that is not full. On the other hand it
# counts in tiles of 16 where ours has powers of two, of 80 for instance only 64 and 80.
UNEVEN = (
    (8192, (80, 112, 176)),
    (32768, (80, 112, 176)),
    (16384, (112, 112, 112)),
    (32768, (112, 112, 112)),
    (8192, (197, 80, 48)),
    (16384, (197, 80, 48)),
    (8192, (50, 70, 90)),
)


@pytest.mark.parametrize(("capacity", "sizes"), UNEVEN, ids=str)
def test_uneven_sizes(tmp_path: Path, capacity: int, sizes: Sizes) -> None:
    theirs = search(tmp_path, sizes, CUBE, capacity, factors=EVERYTHING)
    mine = ours(sizes, CUBE, capacity)
    assert mine.bytes >= compulsory(sizes)
    assert 0.5 < mine.bytes / theirs.bytes < 1.5


# An operand that stays as a whole needs no second copy of itself, but ours reserves one.
RESERVED = (
    (16384, (128, 64, 128)),
    (8192, (32, 32, 512)),
    (8192, (64, 64, 64)),
    (32768, (128, 64, 64)),
)


@pytest.mark.parametrize(("capacity", "sizes"), RESERVED, ids=str)
def test_a_reserve_for_the_next_tile(tmp_path: Path, capacity: int, sizes: Sizes) -> None:
    theirs = search(tmp_path, sizes, CUBE, capacity, doubled=True, factors=EVERYTHING)
    mine = ours(sizes, CUBE, capacity)
    assert theirs.bytes <= mine.bytes < 1.5 * theirs.bytes


# Layers as they are, with ZigZag's own settings: what it is, M, N, K.
LAYERS = (
    ("ResNet-50, 3 x 3, 56 x 56", (3136, 64, 576)),
    ("ResNet-50, 1 x 1, 28 x 28", (784, 512, 128)),
    ("its weight gradient, 3 x 3", (64, 576, 3136)),
    ("square", (512, 512, 512)),
    ("square, 8 times that", (1024, 1024, 1024)),
    ("transformer, projection", (128, 768, 768)),
    ("transformer, feed-forward", (512, 3072, 768)),
    ("197 tokens", (197, 768, 768)),
    ("small K", (1024, 1024, 16)),
    ("fits, ragged", (100, 75, 50)),
)
CHIP = 131072


@pytest.mark.slow
@pytest.mark.parametrize(("name", "sizes"), LAYERS, ids=str)
def test_layers(tmp_path: Path, name: str, sizes: Sizes) -> None:
    """Never below what must cross, never more than a quarter above ZigZag. We are below it where it
    merges 10 to 20 prime factors of the loops to six, and so tries only coarse tiles."""
    theirs = search(tmp_path, sizes, ROW, CHIP, doubled=True)
    mine = ours(sizes, ROW, CHIP)
    quick = search(tmp_path, sizes, ROW, CHIP, doubled=True, bandwidth=FAST)
    fast = ours(sizes, ROW, CHIP, FAST)
    assert compulsory(sizes) <= mine.bytes <= 1.25 * theirs.bytes
    assert mine.cycles <= 1.25 * theirs.cycles
    assert mine.ideal == theirs.ideal == quick.ideal
    cells = (
        name,
        f"{sizes[0]} x {sizes[1]} x {sizes[2]}",
        *(f"{x / 1000:.0f}" for x in (compulsory(sizes), theirs.bytes, mine.bytes)),
        *(f"{x / y:.2f}" for x, y in ((mine.bytes, theirs.bytes), (mine.cycles, theirs.cycles))),
        f"{fast.cycles / quick.cycles:.2f}",
    )
    row = f"| {' | '.join(cells)} |"
    assert row in PAGE.read_text(encoding="utf-8"), f"docs/hardware-method.md should have: {row}"


@pytest.mark.parametrize("sizes", [(64, 64, 64), (100, 75, 50), (512, 512, 512)], ids=str)
def test_latency_of_an_array_that_need_not_wait(tmp_path: Path, sizes: Sizes) -> None:
    """Ours has a fill of n + k. ZigZag has a drain of n + k - 2, and the first and last tiles that
    are moved before and after: 5 % of a Gemm of a few hundred cycles, nothing of a large one."""
    theirs = search(tmp_path, sizes, ROW, CHIP, bandwidth=FAST)
    mine = ours(sizes, ROW, CHIP, FAST)
    tiles = math.prod(math.ceil(x / y) for x, y in zip(sizes, ROW, strict=True))
    assert mine.ideal == theirs.ideal == tiles
    assert 0.94 * theirs.cycles <= mine.cycles <= theirs.cycles
