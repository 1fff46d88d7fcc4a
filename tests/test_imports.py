"""`import nybble` is cheap: torch's time and little more, and nothing heavy that is optional."""

from __future__ import annotations

import json
import subprocess
import sys

import nybble

# Seconds that `import nybble` may cost beyond torch.
BUDGET = 0.5
HEAVY = {
    "IPython", "accelerate", "datasets", "gfloat", "hypothesis", "joblib", "lightning",
    "matplotlib", "ml_dtypes", "mlxtend", "onnx", "pandas", "PIL", "pytest", "rich",
    "scipy", "sklearn", "tensorboard", "torchao", "torchaudio", "torchvision", "transformers",
    "typer",
}  # fmt: skip

# CPU time of the process, not the clock: other work on the machine does not count.
MEASURE = """
import json, sys, time
import torch, numpy, safetensors
before, start = set(sys.modules), time.process_time()
import nybble
seconds = time.process_time() - start
new = {name.split(".")[0] for name in set(sys.modules) - before}
print(json.dumps({"seconds": seconds, "new": sorted(new)}))
"""


def measure() -> dict[str, object]:
    done = subprocess.run(
        [sys.executable, "-c", MEASURE], capture_output=True, text=True, check=True
    )
    result: dict[str, object] = json.loads(done.stdout)
    return result


def test_import_is_fast_and_light() -> None:
    runs = []
    for _ in range(3):  # the best of three: the first may write byte code
        runs.append(measure())
        if runs[-1]["seconds"] < BUDGET:
            break
    assert min(run["seconds"] for run in runs) < BUDGET, runs
    heavy = HEAVY & set(runs[0]["new"])
    assert not heavy, f"import nybble also imports {sorted(heavy)}"


def test_help_imports_no_command() -> None:
    code = (
        "import json, sys; from nybble.cli.app import main; status = main(['--help'])\n"
        "print(json.dumps([status, sorted(sys.modules)]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    status, modules = json.loads(done.stdout.splitlines()[-1])
    assert status == 0
    commands = {m for m in modules if m.startswith("nybble.cli.")} - {"nybble.cli.app"}
    assert not commands
    assert not (HEAVY - {"rich", "typer"}) & set(modules)


def test_the_package_is_typed() -> None:
    from pathlib import Path

    assert (Path(nybble.__file__).parent / "py.typed").is_file()
