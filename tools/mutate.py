"""Break the code in many small ways, and count how many of them the tests notice.

A parent process imports torch and pytest once, and forks for every mutant; the child loads the
mutated module before anything else of nybble, then runs the tests of that module's folder, the
nearest first, and stops at the first failure. A mutant that no test notices survives and is
printed. The unchanged code runs first: its tests must pass, and their time sets a mutant's limit.

    python tools/mutate.py                          200 mutants of formats, quantizers and ops
    python tools/mutate.py --sample 500 --seed 1    another repeatable random part of them
    python tools/mutate.py --all                    all of them: about a day
    python tools/mutate.py --minutes 30             as many of the 200 as begin in that time
    python tools/mutate.py --only quantizers/scales --sample 20

The sample is a function of the sources and the seed. Ends with status 1 when less than `--goal` of
the mutants is killed. The result is a JSON record.

Not done: mutants are not run against the tests of later layers (except that those of `ops` are, by
the tests of `nn` and `recipes`, which hold the behaviour of a layer), so a mutant of `formats` that
only a test of `ops` would notice counts as survived; C++ is not mutated.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import json
import math
import os
import platform
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from mutants import Mutant, apply, mutants

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src"
SUBJECTS = ("formats", "quantizers", "ops")
# A mutant may take this many times as long as the unchanged code, and no less than the seconds.
PATIENCE, LEAST_SECONDS = 4.0, 20.0
NO_TESTS = 5  # pytest's exit status
SAMPLE = 200  # mutants a run
VERSIONS = ("torch", "numpy", "scipy", "hypothesis", "pytest")  # of the record

# The folders of tests that judge a folder of sources, and for modules without a test file of their
# name the files that test them most closely: they run first.
JUDGES = {"ops": ("ops", "nn", "recipes")}
NEAREST = {
    "quantizers": {
        "blocks": ("absmax", "qtensor"),
        "fit": ("minmax", "quantizer"),
        "oracle": ("random", "packing", "gradscale", "absmax"),
        "storage": ("qtensor",),
        "unit": ("minmax",),
    },
    "ops": {
        "gemm": ("layer_oracle", "chunked_oracle", "library"),
        "spec": ("layer_oracle", "recipes"),
        "__init__": ("native_probe",),
        "": ("layer_oracle", "layer_slots_oracle", "library"),
    },
}

Run = tuple[str, ...]  # arguments of one call of pytest


@dataclass(frozen=True)
class Job:
    """A mutant in its file, or (mutant None) the unchanged file."""

    path: Path
    mutant: Mutant | None
    runs: tuple[Run, ...]

    @property
    def module(self) -> str:
        parts = self.path.relative_to(SOURCE).with_suffix("").parts
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    @property
    def name(self) -> str:
        return str(self.path.relative_to(SOURCE / "nybble"))


@dataclass
class Outcome:
    job: Job
    verdict: str  # "killed", "timeout" or "survived": no test failed
    seconds: float
    log: str = field(repr=False, default="")


def tests_of(path: Path) -> list[list[str]]:
    """The pytest runs that judge a file, in order: the nearest test files, then all.

    `quantizers/packing.py` -> its doctests and tests/quantizers/test_packing.py, then
    tests/quantizers; a file without tests of its own name: its doctests first. The second run is
    the same for all files of a folder, so the unchanged code makes it once.
    """
    subject = path.relative_to(SOURCE / "nybble").parts[0]
    folders = [ROOT / "tests" / name for name in JUDGES.get(subject, (subject,))]
    near = NEAREST.get(subject, {})
    stems = near.get(path.stem, (path.stem.strip("_"),))
    own = _test_files(folders, stems) or _test_files(folders, near.get("", ()))
    first = [str(path), *map(str, own)]
    everything = [str(folder) for folder in folders]
    return [first, everything]


def _test_files(folders: Sequence[Path], stems: Sequence[str]) -> list[Path]:
    return sorted({f for folder in folders for s in stems for f in folder.glob(f"test_*{s}*.py")})


class _Loader(importlib.abc.InspectLoader):
    """Loads one module from a changed syntax tree, under the name and path of the original."""

    def __init__(self, path: Path, code: CodeType) -> None:
        self.path, self.code = path, code

    def get_source(self, fullname: str) -> str:
        return self.path.read_text(encoding="utf-8")

    def get_code(self, fullname: str) -> CodeType:
        return self.code

    def is_package(self, fullname: str) -> bool:
        return self.path.name == "__init__.py"


class _Finder(importlib.abc.MetaPathFinder):
    def __init__(self, name: str, path: Path, code: CodeType) -> None:
        self.name, self.loader = name, _Loader(path, code)

    def find_spec(
        self, fullname: str, path: object = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != self.name:
            return None
        return importlib.util.spec_from_file_location(
            fullname,
            self.loader.path,
            loader=self.loader,
            submodule_search_locations=(
                [str(self.loader.path.parent)] if self.loader.is_package(fullname) else None
            ),
        )


def _child(job: Job, scratch: str) -> int:
    """Load the mutant, run its tests, and return 0 if none of them failed, else 1."""
    os.environ["TMPDIR"] = tempfile.tempdir = scratch
    os.chdir(ROOT)
    if job.mutant is not None:
        tree = apply(job.path.read_text(encoding="utf-8"), job.mutant)
        code = compile(tree, str(job.path), "exec")
        sys.meta_path.insert(0, _Finder(job.module, job.path, code))
    import pytest

    importlib.import_module(job.module)
    where = Path(str(sys.modules["nybble"].__file__))
    if SOURCE not in where.parents:
        print(f"nybble is imported from {where}, not from {SOURCE}: use this checkout's .venv")
        return 1
    common = ["-x", "-q", "-p", "no:cacheprovider", f"--basetemp={scratch}/pytest"]
    statuses = []
    for run in job.runs:
        statuses.append(int(pytest.main([*common, *run])))
        if statuses[-1] not in (0, NO_TESTS):
            return 1
    if set(statuses) == {NO_TESTS}:
        print(f"no test runs for {job.name}")
        return int(job.mutant is None)
    return 0


def _fork(job: Job, log: Path, scratch: str) -> int:
    """Start the child and return its process id."""
    process = os.fork()
    if process:
        return process
    status = 1
    try:
        os.setsid()  # its own process group: a time-out also ends what the tests started
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(out, 1)
        os.dup2(out, 2)
        status = _child(job, scratch)
    except BaseException:  # a mutant that cannot be imported, or that ends the interpreter
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def run_jobs(
    jobs: Sequence[Job],
    limits: Mapping[Path, float],
    parallel: int,
    report: Callable[[Outcome], None],
    minutes: float = math.inf,
) -> list[Outcome]:
    """Run every job in a process of its own, `parallel` at a time, and return what came out.

    After `minutes` no further one is begun.
    """
    waiting, running, outcomes = list(jobs)[::-1], {}, []
    last = time.monotonic() + 60 * minutes
    with tempfile.TemporaryDirectory(prefix="nybble-mutation-") as folder:
        while waiting or running:
            if time.monotonic() > last:
                waiting.clear()
            while waiting and len(running) < parallel:
                job = waiting.pop()
                scratch = tempfile.mkdtemp(dir=folder)
                log = Path(scratch) / "log.txt"
                start = time.monotonic()
                limit = limits.get(job.path, float("inf"))
                running[_fork(job, log, scratch)] = (job, log, start, start + limit)
            for process, (job, log, start, end) in list(running.items()):
                ended, status = os.waitpid(process, os.WNOHANG)
                late = not ended and time.monotonic() > end
                if late:
                    os.killpg(process, signal.SIGKILL)
                    os.waitpid(process, 0)
                elif not ended:
                    continue
                noticed = "timeout" if late else "killed" if status else "survived"
                seconds = time.monotonic() - start
                outcome = Outcome(job, noticed, seconds, log.read_text(errors="replace"))
                del running[process]
                shutil.rmtree(log.parent, ignore_errors=True)
                outcomes.append(outcome)
                report(outcome)
            time.sleep(0.01)
    return outcomes


def all_jobs(only: Sequence[str]) -> list[Job]:
    """Every mutant of the files under the folders (or files) `only`, relative to src/nybble."""
    paths: list[Path] = []
    for name in only:
        place = SOURCE / "nybble" / name
        if not place.exists():
            raise SystemExit(f"mutate: no {name} under {SOURCE / 'nybble'}")
        paths += sorted(place.rglob("*.py")) if place.is_dir() else [place]
    jobs = []
    for path in paths:
        runs = tuple(tuple(run) for run in tests_of(path))
        jobs += [Job(path, m, runs) for m in mutants(path.read_text(encoding="utf-8"))]
    return jobs


def baseline(jobs: Sequence[Job], parallel: int) -> dict[Path, float]:
    """Make every run on the unchanged code, once; return how long a mutant of a file may take."""

    def report(outcome: Outcome) -> None:
        state = "pass" if outcome.verdict == "survived" else "FAIL"
        names = " ".join(str(Path(argument).relative_to(ROOT)) for argument in outcome.job.runs[0])
        print(f"unchanged: {state} in {outcome.seconds:.1f} s  {names}", flush=True)

    unchanged = {run: Job(job.path, None, (run,)) for job in jobs for run in job.runs}
    outcomes = run_jobs(list(unchanged.values()), {}, parallel, report)
    failed = [o for o in outcomes if o.verdict != "survived"]
    for outcome in failed:
        print(outcome.log[-3000:])
    if failed:
        names = ", ".join(" ".join(o.job.runs[0]) for o in failed)
        raise SystemExit(f"mutate: the tests of the unchanged code fail or are missing: {names}")
    took = {outcome.job.runs[0]: outcome.seconds for outcome in outcomes}
    return {
        job.path: max(LEAST_SECONDS, PATIENCE * sum(took[run] for run in job.runs)) for job in jobs
    }


def show(outcome: Outcome) -> None:
    """One line for a mutant, and its change when it survived."""
    mutant = outcome.job.mutant
    assert mutant is not None
    print(
        f"{outcome.verdict:9}{outcome.seconds:6.1f} s  {outcome.job.name}:{mutant.line}"
        f"  {mutant.operator}",
        flush=True,
    )
    if outcome.verdict == "survived":
        print(f"    - {mutant.before}\n    + {mutant.after}", flush=True)


def record(outcomes: Sequence[Outcome], total: int, options: argparse.Namespace) -> dict[str, Any]:
    """What is written as JSON."""
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.strip()
    verdicts = Counter(o.verdict for o in outcomes)

    def score(key: Callable[[Outcome], str]) -> dict[str, dict[str, int]]:
        table: dict[str, Counter[str]] = {}
        for o in outcomes:
            table.setdefault(key(o), Counter())[o.verdict] += 1
        return {name: dict(sorted(counts.items())) for name, counts in sorted(table.items())}

    return {
        "kind": "mutation",
        "command": {k: v for k, v in vars(options).items() if k != "out"},
        "commit": commit or None,
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in VERSIONS},
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "mutants": total,
        "run": len(outcomes),
        **{name: verdicts[name] for name in ("killed", "timeout", "survived")},
        "score": 1 - verdicts["survived"] / max(1, len(outcomes)),
        "by_file": score(lambda o: o.job.name),
        "by_operator": score(lambda o: o.job.mutant.operator if o.job.mutant else ""),
        "survivors": [
            {"file": o.job.name, **asdict(o.job.mutant)}
            for o in sorted(
                outcomes, key=lambda o: (o.job.name, o.job.mutant and o.job.mutant.site)
            )
            if o.verdict == "survived" and o.job.mutant is not None
        ],
    }


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--only", nargs="+", default=list(SUBJECTS), metavar="PATH")
    parser.add_argument("--sample", type=int, default=SAMPLE, metavar="N", help="mutants to draw")
    parser.add_argument("--all", action="store_true", help="run every mutant")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--minutes", type=float, help="begin none after so many")
    parser.add_argument("--jobs", type=int, default=2, help="processes at a time")
    parser.add_argument("--goal", type=float, default=0.9, help="least share killed, for status 0")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "mutation.json")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    jobs = all_jobs(options.only)
    total = len(jobs)
    if not options.all and options.sample < total:
        # In random order: what a limit of time leaves is a fair sample too.
        jobs = random.Random(options.seed).sample(jobs, options.sample)
    print(f"{len(jobs)} of {total} mutants of {', '.join(options.only)}", flush=True)

    # Imported here once, so that no child pays for it. Nothing of nybble is: a child must be the
    # first to load the mutated module. One thread: a pool of threads does not survive a fork.
    os.environ["OMP_NUM_THREADS"] = "1"
    import hypothesis.strategies
    import pytest
    import scipy.stats
    import torch

    del hypothesis, pytest, scipy
    torch.set_num_threads(1)
    loaded = [name for name in sys.modules if name.split(".")[0] == "nybble"]
    assert not loaded, f"{loaded} would stay unmutated in every child"

    limits = baseline(jobs, options.jobs)
    outcomes = run_jobs(jobs, limits, options.jobs, show, options.minutes or math.inf)
    result = record(outcomes, total, options)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(
        f"{result['killed']} killed, {result['timeout']} timed out, {result['survived']} survived: "
        f"{100 * result['score']:.1f} % noticed. Written to {options.out}"
    )
    return int(result["score"] < options.goal)


if __name__ == "__main__":
    sys.exit(main())
