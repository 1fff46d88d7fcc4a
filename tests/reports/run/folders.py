"""Run folders made up for tests of the report: what `nybble train` writes, without training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from nybble.formats import get_format
from nybble.training.config import TrainConfig
from nybble.training.folder import SCHEMA as CONFIG_SCHEMA
from nybble.training.folder import SCHEMA_VERSION as CONFIG_VERSION
from nybble.training.result import write_result
from nybble.watching import Record

LAYERS = ("conv1", "block.conv2", "block.conv3", "fc")
FORMATS = {
    "input": "uint4",
    "weight": "int4_sym",
    "grad_input": "fp4_radix4",
    "grad_weight": "fp4_radix4_odd",
}
EVIL = "</script><img src=x onerror=alert(1)>\u2028<!--"


def config(**changes: Any) -> dict[str, Any]:
    fields = {"data": "mnist5k", "model": "cnn", "epochs": 3, **changes}
    return TrainConfig(**fields).resolved().to_dict()


def epoch(number: int, score: float) -> dict[str, Any]:
    return {
        "epoch": number,
        "train_loss": 2.0 / number,
        "train_accuracy": score - 0.01,
        "test_loss": 2.1 / number,
        "test_accuracy": score,
        "test_extras": {},
        "lr": 0.1 / number,
        "seconds": 10.0,
        "cpu_seconds": 15.0,
        "test_seconds": 1.0,
        "elapsed_seconds": 10.0 * number,
        "step_ms": 40.0,
        "gradients": {"nonzero": {}, "dead": []},
    }


def result(score: float = 0.9, epochs: int = 3, **changes: Any) -> dict[str, Any]:
    made = [epoch(e + 1, score - 0.1 * (epochs - 1 - e)) for e in range(epochs)]
    record: dict[str, Any] = {
        "status": "complete",
        "error": None,
        "config": config(),
        "seed": 0,
        "folder": "runs/x",
        "metric": "accuracy",
        "unit": "%",
        "digits": 2,
        "comparison": "difference",
        "higher_is_better": True,
        "data": {"name": "mnist5k", "train": 4000, "test": 1000, "sha256": "ab" * 32},
        "model": {"name": "cnn", "parameters": 24_000},
        "recipe": {"name": "sun2020", "record": None},
        "layers": [layer(name) for name in LAYERS],
        "versions": {"python": "3.11", "nybble": "0.1.0", "torch": "2.13"},
        "machine": {"cpu": "a processor", "cores": 2, "threads": 2},
        "commit": "abc",
        "written": "2026-01-02T03:04:05Z",
        "steps": 60,
        "total_steps": 60,
        "saved_bytes": 1_500_000,
        "epochs": made,
        "dead_layers": [],
        "warnings": [],
        "alarms": [],
        "raised": {},
    }
    if made:
        record["final"] = {k: v for k, v in made[-1].items() if k != "gradients"}
        record["best_accuracy"] = made[-1]["test_accuracy"]
    return {**record, **changes}


def layer(name: str, wide: bool = False) -> dict[str, str]:
    if wide:
        pairs = {gemm: "fp16 x fp16" for gemm in ("output", "grad_input", "grad_weight")}
        return {"layer": name, "type": "Linear", "rule": "r", "bits": "16 16 16 16 16 16", **pairs}
    return {
        "layer": name,
        "type": "Conv2d",
        "rule": "sun2020",
        "bits": "4 4 4 4 4 4",
        "output": "uint4 x int4_sym",
        "grad_input": "fp4_radix4 x int4_sym",
        "grad_weight": "fp4_radix4_odd x uint4",
        "backend": "native avx2",
    }


def look(step: int, name: str, operand: str, **changes: Any) -> Record:
    fields: dict[str, Any] = {
        "format": FORMATS[operand],
        "bits": 4,
        "histogram": [10 * (i + 1) for i in range(16)],
        "used": 16,
        "zeros": 0.25,
        "underflow": 0.125,
        "saturation": 0.01,
        "scale": 0.5,
        "snr_db": 12.0,
        "cosine": 0.97,
        "norm_ratio": 0.9,
        "noise_ratio": 4.0,
    }
    return Record(step, name, operand, **{**fields, **changes})


def turns(layers: tuple[str, ...], steps: int, every: int) -> list[tuple[int, str]]:
    """(step, layer) of every look, as the watch takes them."""
    found = []
    for step in range(1, steps + 1):
        for place, name in enumerate(layers):
            if (step - 1 + place * every // len(layers)) % every == 0:
                found.append((step, name))
    return found


def watch_lines(
    layers: tuple[str, ...] = LAYERS, steps: int = 60, every: int = 6, **changes: Any
) -> list[str]:
    lines = [json.dumps({"schema": "nybble.watch/1", "every": every})]
    for name in FORMATS.values():
        values = [float(v) for v in get_format(name).values()]
        lines.append(json.dumps({"format": name, "values": values}))
    for step, name in turns(layers, steps, every):
        shown = {"underflow": step / steps, **changes}
        lines += [look(step, name, operand, **shown).to_json() for operand in FORMATS]
    return lines


def alarm(step: int, name: str, operand: str = "grad_weight") -> dict[str, Any]:
    text = f"step {step}: layer '{name}', {operand}: dead: it is zero. Remedy: wait"
    return {"step": step, "alarm": "dead", "layer": name, "operand": operand, "text": text}


def make(
    folder: Path,
    score: float = 0.9,
    *,
    seed: int = 0,
    recipe: str = "sun2020",
    watch: list[str] | None = None,
    settings: dict[str, Any] | None = None,
    **changes: Any,
) -> Path:
    """A folder with a complete run; `watch`: the lines of watch.jsonl, none if empty."""
    folder.mkdir(parents=True, exist_ok=True)
    asked = config(seed=seed, recipe=recipe, **(settings or {}))
    write_result(folder, result(score, **{"config": asked, "seed": seed, **changes}))
    head = {"schema": CONFIG_SCHEMA, "schema_version": CONFIG_VERSION, "config": asked}
    (folder / "config.json").write_text(json.dumps(head))
    log = "2026-01-02 03:04:05  epoch 1/3 step 10/20  loss 2.5000  40.0 ms/step\n"
    (folder / "log.txt").write_text(log + log.replace("10/20  loss 2.5", "20/20  loss 2.0"))
    lines = watch_lines() if watch is None else watch
    if lines:
        (folder / "watch.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def make_large(folder: Path, layers: int = 200, steps: int = 100_000, looks: int = 300) -> Path:
    """A long run of a deep network: as many looks as a run takes, of about 450 bytes each."""
    names = tuple(f"model.layers.{i}.attention.projection" for i in range(layers))
    make(folder, watch=[], layers=[layer(name) for name in names], steps=steps, total_steps=steps)
    every = -(-steps // looks)
    rests = []
    for i in range(97):  # some looks, in turn: to make each anew would take half a minute
        share = ((i * 37) % 97) / 97
        change = {"underflow": share, "saturation": share / 50, "snr_db": 5 + 13 * share}
        change |= {"histogram": [1 + (i * (k + 3)) % 89 for k in range(16)], "rms": 0.01}
        change |= {"scale": 0.02 * (1 + share), "shrinkage": 0.9, "bias": 0.001, "flips": 0.01}
        found = {o: look(1, "x", o, **change).to_json().split(",", 3)[3] for o in FORMATS}
        rests.append(found)
    with (folder / "watch.jsonl").open("w") as file:
        file.write("\n".join(watch_lines((), 0)).replace('"every": 6', f'"every": {every}') + "\n")
        for k in range(looks):
            for i, name in enumerate(names):
                step = min(steps, 1 + (k + 1) * every - i * every // layers)
                for operand in FORMATS:
                    rest = rests[(k * 5 + i * 11) % 97][operand]
                    file.write(f'{{"step":{step},"layer":"{name}","operand":"{operand}",{rest}\n')
    return folder
