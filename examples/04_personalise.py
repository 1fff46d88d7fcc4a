"""Adapt a trained model to a new speaker, on the device: one core, little memory, 4 bits.

Digits are learned from some speakers. Then recordings of somebody who was never heard adapt the
model, in a process that may take `limit` MiB for training. Float32 gets the same chance.

python examples/04_personalise.py fsdd:free-spoken-digit-dataset

A name behind it keeps what was found as results/NAME.json.
"""

import sys
from pathlib import Path
from typing import Any

from nybble.reports.personal import KIND
from nybble.reports.results import check_name, save
from nybble.studies.capped import run_capped
from nybble.studies.speed.record import make
from nybble.training import TrainConfig, train


def main(
    data: str,
    *,
    known: str = "george,jackson,lucas,yweweler",
    new: str = "theo",
    own: int = 25,
    model: str = "resnet20",
    limit: int = 80,
    batch: int = 40,
    epochs: int = 10,
    own_epochs: int = 10,
    out: str = "runs/personalise",
    record: str | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Of the new speaker, recordings from index `own` on adapt the model, those before it test.
    `options` are more fields of TrainConfig for both runs."""
    if record is not None:
        check_name(record, Path("results"))  # before the work, not after it
    base = TrainConfig(
        task="speech",
        data=data,
        model=model,
        epochs=epochs,
        task_options=(("speakers", f"{known},{new}"), ("split", f"speakers:{new}")),
        activations="4bit",
        out=f"{out}/base",
        resume=True,
        **options,
    )
    unheard = train(base)["final"]["test_accuracy"]
    print(f"{known}: learned; {new}, unheard: {100 * unheard:.1f} %")

    answers: dict[str, Any] = {}
    for name, recipe, activations in (("float32", "fp32", "none"), ("4 bits", "sun2020", "4bit")):
        adapt = TrainConfig(
            task="speech",
            data=data,
            recipe=recipe,
            activations=activations,
            start=f"{out}/base",
            epochs=own_epochs,
            batch_size=batch,
            task_options=(("speakers", new), ("split", f"index:{own}")),
            out=f"{out}/{recipe}",
            resume=Path(out, recipe, "config.json").exists(),
            **options,
        )
        largest = run_capped("largest", adapt, limit << 20)["largest"]
        answers[name] = {**run_capped("train", adapt, limit << 20), "largest": largest}
        print(f"{name}: {line(answers[name], limit, batch)}")
    if record is not None:
        keep(
            record,
            {"data": data.partition(":")[0], "known": known, "new": new, "own": own}
            | {"model": model, "limit": limit, "batch": batch, "epochs": epochs}
            | {"own_epochs": own_epochs},
            unheard,
            answers,
        )
    return {"unheard": unheard, **answers}


def keep(name: str, configuration: dict[str, Any], unheard: float, answers: dict[str, Any]) -> None:
    """Write results/NAME.json."""
    sides = []
    for recipe, answer in zip(("fp32", "sun2020"), answers.values(), strict=True):
        side = {"recipe": recipe, "fits": answer["fits"], "largest": answer["largest"]}
        if answer["fits"]:
            run = answer["record"]
            side |= {
                "before": run["start"]["test_accuracy"],
                "after": run["final"]["test_accuracy"],
            }
            side |= {"minutes": answer["minutes"], "peak_bytes": answer["peak_bytes"]}
        else:
            side["reason"] = answer["reason"]
        sides.append(side)
    command = f"python examples/04_personalise.py fsdd:free-spoken-digit-dataset {name}"
    found = make(KIND, command, configuration, unheard=unheard, measurements=sides)
    print(f"record: {save(found, name, Path('results'))}")


def line(answer: dict[str, Any], limit: int, batch: int) -> str:
    """What became of one side."""
    largest = f"largest batch that fits into {limit} MiB: {answer['largest']}"
    if not answer["fits"]:
        return f"ran out of {limit} MiB at batch {batch} ({answer['reason']}); {largest}"
    record = answer["record"]
    before, after = record["start"]["test_accuracy"], record["final"]["test_accuracy"]
    return (
        f"{100 * before:.1f} % before, {100 * after:.1f} % after {answer['minutes']:.1f} minutes, "
        f"peak {answer['peak_bytes'] / 2**20:.0f} MiB; {largest}"
    )


if __name__ == "__main__":
    main(*sys.argv[1:2] or ["fsdd"], record=sys.argv[2] if len(sys.argv) > 2 else None)
