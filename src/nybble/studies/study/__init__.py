"""A study: recipes x tasks x variants x seeds, run to the end whatever happens, in one store.

    grid      what a study is (`Study`, `StudyTask`, `Variant`), and its cells
    store     OUT/study.sqlite, one row a cell
    session   how the parent and its workers stop together
    cell      one cell in a worker: train, then measure
    engines   joblib's back ends: loky, dask, ray
    run       all of it
    record    the JSON record that tables and pages are made from

A cell is an ordinary `nybble train` run in OUT/cells/KEY/. Ready studies are in `studies/ready`,
what may be measured on a finished cell in `studies/measures`.
"""

from nybble.studies.study.grid import Cell, Study, StudyTask, Variant

__all__ = ["Cell", "Study", "StudyTask", "Variant"]
