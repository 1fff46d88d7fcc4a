"""Speed and memory of 4-bit training against float32, measured on this machine.

    workload.py   the model, its input and its loss
    forms.py      float32's best form, and the 4-bit model
    step.py       a whole training step; profile.py: where its time goes
    memory.py     bytes kept for backward, and the peak of a process
    kernels.py    matrix products, convolutions, quantising and packing
    peers.py      other packages on the same step
    machine.py    what this machine gains, in a minute
    targets.py    the aims that a figure is compared with
    record.py     what every record holds

Every ratio comes from one process that takes turns: see `studies/steptime.py`.
"""
