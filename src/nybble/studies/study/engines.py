"""Where cells run: joblib's own back ends.

    loky    processes on this machine (joblib's default)
    dask    a Dask cluster: its scheduler's address, or a local one
    ray     a Ray cluster: its address, or a local one

OUT must be a folder that every worker sees under the same path. A package of a cluster is imported
when it is asked for, and not before.
"""

from __future__ import annotations

import importlib
import logging
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from typing import Any

from nybble.errors import UserError, suggest
from nybble.studies.study.cell import Work, run_cell

EXTRAS = {"dask": "cluster-dask", "ray": "cluster-ray"}
PACKAGES = {"dask": "distributed", "ray": "ray"}


def check_engine(name: str, address: str | None) -> None:
    """Refuse an engine that is not known or not installed.

    Raises:
        UserError: no such engine, its package is missing, or it takes no address.

    >>> check_engine("loky", None)
    """
    if name not in ENGINES:
        raise UserError(
            f"unknown engine '{name}': the engines are {', '.join(ENGINES)}."
            f"{suggest(name, ENGINES)}"
        )
    if name not in PACKAGES:
        if address is not None:
            raise UserError(
                f"--address {address}: the engine {name} is this machine; leave it out."
            )
        return
    try:
        importlib.import_module(PACKAGES[name])
    except ImportError as error:
        raise UserError(
            f"--engine {name} needs the package {PACKAGES[name]}, which does not import ({error}): "
            f"pip install 'nybble[{EXTRAS[name]}]'."
        ) from error


def at_a_time(name: str, jobs: int | None, address: str | None) -> int:
    """How many cells go on at the same time if `jobs` is None: one here, as many as this machine
    has cores in a local cluster, and all that a cluster can (-1, in joblib's words).

    >>> at_a_time("loky", None, None), at_a_time("dask", None, "tcp://head:8786")
    (1, -1)
    """
    if jobs is not None:
        return jobs
    if name == "loky":
        return 1
    return (os.cpu_count() or 1) if address is None else -1


def deaf_children() -> None:
    """Processes that this thread starts from now on do not hear Ctrl-C.

    The terminal sends it to all of them; it is the parent's to hear, also while they are still
    importing. A mask is inherited. Both resource trackers are started before: starting one ends
    with the signal unblocked.
    """
    if not hasattr(signal, "pthread_sigmask"):
        return
    from multiprocessing import resource_tracker

    from joblib.externals.loky.backend import resource_tracker as lokys

    resource_tracker.ensure_running()
    lokys.ensure_running()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})


def run_works(name: str, works: Iterator[Work], jobs: int, address: str | None) -> None:
    """Run the cells of `works` on the engine, `jobs` at a time; `works` is drawn from as cells end.

    Raises:
        UserError: the engine cannot be used, or a cell says that no other could go on.
    """
    from joblib import Parallel, delayed

    with ExitStack() as stack:
        stack.enter_context(ENGINES[name](jobs, address))
        Parallel(n_jobs=jobs, batch_size=1, pre_dispatch="n_jobs")(
            delayed(run_cell)(work) for work in works
        )


def _loky(jobs: int, address: str | None) -> AbstractContextManager[Any]:
    from joblib import parallel_config

    context: AbstractContextManager[Any] = parallel_config(backend="loky")
    return context


class _Dask(ExitStack):
    """A client of the cluster, and joblib's dask back end."""

    def __init__(self, jobs: int, address: str | None) -> None:
        super().__init__()
        self._jobs, self._address = jobs, address

    def __enter__(self) -> _Dask:
        import dask
        from distributed import Client
        from joblib import parallel_config

        # A cell starts a process, which a worker that is a daemon may not.
        self.enter_context(dask.config.set({"distributed.worker.daemon": False}))
        connect: Any = Client  # its package has no types
        try:
            if self._address is None:
                client = connect(
                    n_workers=self._jobs,
                    threads_per_worker=1,
                    dashboard_address=None,
                    silence_logs=logging.ERROR,
                )
            else:
                client = connect(self._address)
        except OSError as error:
            raise UserError(
                f"--address {self._address}: no Dask cluster there: {error}."
            ) from error
        self.enter_context(client)
        self.enter_context(parallel_config(backend="dask"))
        return self


class _Ray(ExitStack):
    """A connection to the cluster, and joblib's ray back end."""

    def __init__(self, jobs: int, address: str | None) -> None:
        super().__init__()
        self._jobs, self._address = jobs, address

    def __enter__(self) -> _Ray:
        import ray
        from joblib import parallel_config
        from ray.util.joblib import register_ray

        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        try:
            if self._address is None:
                ray.init(num_cpus=self._jobs, include_dashboard=False, **quiet)
            else:
                ray.init(address=self._address, **quiet)
        except (ConnectionError, ValueError) as error:
            raise UserError(f"--address {self._address}: no Ray cluster there: {error}.") from error
        self.callback(ray.shutdown)
        register_ray()
        self.enter_context(parallel_config(backend="ray"))
        return self


ENGINES: dict[str, Callable[[int, str | None], AbstractContextManager[Any]]] = {
    "loky": _loky,
    "dask": _Dask,
    "ray": _Ray,
}
