"""Watch training on real digits and write a report to look at.

Run: python examples/03_watch_training.py [FOLDER]
"""

import sys
from pathlib import Path

import sigprop
from sigprop.experiments.training import Plan

folder = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/watch-training")

records = sigprop.compare(
    ["plain", "rescale"],
    data="digits",
    plan=Plan(steps=60, learning_rate=0.01, evaluate_every=20),
    seeds=2,
    options={"depth": 12, "width": 32},
)

training = records.training.query("mode == 'eval'")
print(training.groupby(["network", "step"])[["loss", "accuracy"]].mean().to_string())
print("report:", sigprop.report(records, folder))
