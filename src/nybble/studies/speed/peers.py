"""Other packages on the same training step: their time, and the bytes they keep for backward.

float32, nybble and one peer take their steps in turn in one process, for each peer that is
installed; the others are listed as not installed, with the command that installs them. A peer that
does not run is listed with its own error. Times are ratios to float32's: below 1 is faster.

Slow peers get fewer rounds: as many as fit in `seconds`, at least one.
"""

from __future__ import annotations

import copy
import importlib.util
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from importlib import metadata
from typing import Any

import torch

from nybble.errors import UserError
from nybble.recipes import get_recipe
from nybble.studies.speed import record
from nybble.studies.speed.forms import Side, best_float32, clock_of, four_bit_side
from nybble.studies.speed.peer_models import PEERS, Peer
from nybble.studies.speed.workload import TRANSFORMER, Workload, check_name, make_workload
from nybble.studies.statistics import median_ratio
from nybble.studies.steptime import interleave, loss_step
from nybble.training.saved import measure_saved_bytes

Progress = Callable[[str, int, int], None]
NYBBLE = "nybble"


@dataclass(frozen=True)
class PeersConfig:
    """What to measure: each of `models` at `batch`, on `threads`.

    >>> PeersConfig(models=("transformer",), batch=8).command()
    'nybble bench peers --models transformer --batch 8'
    """

    models: tuple[str, ...] = ("resnet18", "transformer")
    batch: int = 32
    recipe: str = "sun2020"
    backend: str = "auto"
    activations: str = "4bit"
    threads: int = 1
    rounds: int = 5
    seconds: int = 120

    def __post_init__(self) -> None:
        for name in self.models:
            check_name(name)
            if ":" in name:
                raise UserError(f"--models {name}: peers are measured on the built-in models.")
        get_recipe(self.recipe)
        for name in ("batch", "threads", "rounds", "seconds"):
            record.at_least(name, getattr(self, name))

    def command(self) -> str:
        """The command that repeats the measurement."""
        default = {field.name: field.default for field in fields(self)}
        return record.words("nybble bench peers", asdict(self), default)


def measure_peers(
    config: PeersConfig,
    progress: Progress = lambda what, done, total: None,
    peers: tuple[Peer, ...] = PEERS,
) -> dict[str, Any]:
    """Measure, and return the record: a row for nybble and each peer on each model.

    Raises:
        UserError: names that are unknown.
    """
    before = torch.get_num_threads()
    rows: list[dict[str, Any]] = []
    total = len(config.models) * len(peers)
    try:
        torch.set_num_threads(config.threads)
        for place, name in enumerate(config.models):
            workload = make_workload(name, config.batch)
            clock = clock_of(config.threads)
            float32 = best_float32(workload, clock, compile_too=False, tries=1)
            ours = four_bit_side(workload, config.recipe, config.backend, config.activations)
            own: list[dict[str, Any]] = []
            for done, peer in enumerate(peers):
                progress(f"{name}: {peer.name}", place * len(peers) + done, total)
                own.append(measure_peer(config, workload, peer, float32, ours))
            rows.append(_our_row(config, workload, float32, ours))
            rows += own
    finally:
        torch.set_num_threads(before)
    return record.make(
        "peers",
        config.command(),
        {**asdict(config), "models": list(config.models)},
        measurements=rows,
    )


def installed(package: str) -> bool:
    """Whether a package, or a module in one, would be found.

    >>> installed("torch"), installed("no_such_package")
    (True, False)
    """
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:
        return False


def version_of(package: str) -> str | None:
    """The version of the distribution that has the package, where it has one."""
    names = metadata.packages_distributions().get(package.partition(".")[0], [])
    return metadata.version(names[0]) if names else None


def _row(workload: Workload, peer: Peer | None, **values: Any) -> dict[str, Any]:
    return {
        "model": workload.name,
        "name": peer.name if peer else NYBBLE,
        "gradients": peer.gradients if peer else "4 bits",
        "version": None,
        "note": None,
        "time": None,
        "speedup": None,
        "saved_bytes": None,
        "float32_saved_bytes": None,
        **values,
    }


def _saved(workload: Workload, side: Side) -> int:
    with measure_saved_bytes(side.model) as saved:
        loss = workload.run(side.model)
    total = saved.release()
    del loss
    return total


def _batch(workload: Workload, side: Side) -> Workload:
    return workload.channels_last() if side.form.startswith("channels-last") else workload


def _our_row(config: PeersConfig, workload: Workload, float32: Side, ours: Side) -> dict[str, Any]:
    found = _in_turn(config, {"float32": float32, "peer": ours})
    return _row(
        workload,
        None,
        **found,
        saved_bytes=_saved(_batch(workload, ours), ours),
        float32_saved_bytes=_saved(_batch(workload, float32), float32),
    )


def measure_peer(
    config: PeersConfig, workload: Workload, peer: Peer, float32: Side, ours: Side
) -> dict[str, Any]:
    """The row of one peer: its figures, or why there are none."""
    kind = TRANSFORMER if workload.name == TRANSFORMER else "vision"
    if not installed(peer.package):
        return _row(workload, peer, note=f"not installed: {peer.install}")
    known = {"version": version_of(peer.package)}
    if kind not in peer.models:
        return _row(workload, peer, **known, note="has no layers for this model")
    batch = _batch(workload, float32)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = copy.deepcopy(workload.model).train()
            example = workload.args[:1] if peer.wants_example else ()
            model = peer.make(model, *example)
            if batch is not workload:
                model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            side = Side(float32.form, model, loss_step(model, lambda: batch.run(model)))
            found = _in_turn(config, {"float32": float32, "peer": side, "ours": ours})
            saved = _saved(batch, side)
    except Exception as error:  # whatever another package may do
        text = (str(error).strip().splitlines() or ["no message"])[0][:200]
        return _row(workload, peer, **known, note=f"fails: {type(error).__name__}: {text}")
    return _row(
        workload,
        peer,
        **known,
        **found,
        saved_bytes=saved,
        float32_saved_bytes=_saved(batch, float32),
    )


def _in_turn(config: PeersConfig, sides: dict[str, Side]) -> dict[str, Any]:
    """Ratios of time: the peer's to float32's, and to ours where we are there."""
    steps = {name: side.step for name, side in sides.items()}
    start = time.perf_counter()
    interleave(steps, pairs=1, warmup=0)
    again = time.perf_counter() - start  # compiles what there is to compile
    rounds = min(config.rounds, max(1, int(config.seconds / max(again, 1e-9)) - 1))
    samples = interleave(steps, rounds, warmup=0)
    clock = clock_of(config.threads)
    times = {name: [float(getattr(s, clock)) for s in own] for name, own in samples.items()}
    return {
        "time": median_ratio(times["peer"], times["float32"]).to_dict(),
        "speedup": median_ratio(times["float32"], times["peer"]).median,
        "rounds": rounds,
    }
