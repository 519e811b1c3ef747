"""One forward and backward pass through three networks: who keeps the variance of the signal?

Run: python examples/02_compare_at_init.py
"""

from functools import partial

import torch

import sigprop

DEPTH = 20
inputs = torch.randn(256, 64, generator=torch.Generator().manual_seed(0))

records = sigprop.concat(
    [
        sigprop.measure(
            partial(sigprop.networks.build, name, depth=DEPTH, width=128, inputs=64),
            inputs,
            seeds=3,
            network=name,
        )
        for name in ("plain", "batchnorm", "rescale")
    ]
)

outputs = records.by_block("second_moment", direction="forward", port="out")
table = outputs.pivot_table(index="block", columns="network", values="second_moment")
print("second moment of every block's output, mean over 3 seeds")
print(table.to_string(float_format="{:.3g}".format))

growth = (table.iloc[-1] / table.iloc[0]) ** (1 / (DEPTH - 1))
print("\ngrowth per block")
print(growth.to_string(float_format="{:.3f}".format))
