"""Training: data, models, tasks, the loop, checkpoints and the record of a run."""
