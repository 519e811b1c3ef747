"""Attach a probe to a model of your own, train two steps, and look at what was recorded.

Run: python examples/01_attach_to_your_model.py
"""

import torch
from torch import Tensor, nn

import sigprop


class Block(nn.Module):
    """A residual block as anyone writes it: nothing in it knows of sigprop."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        out = self.norm(self.conv(x))
        out += x
        return self.relu(out)


torch.manual_seed(0)
model = nn.Sequential(
    nn.Conv2d(1, 16, 3), *(Block(16) for _ in range(8)), nn.Flatten(), nn.Linear(16 * 36, 10)
)
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
images, labels = torch.randn(64, 1, 8, 8), torch.randint(0, 10, (64,))

with sigprop.attach(model, optimizer) as probe:  # the blocks are found by themselves
    for _ in range(2):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()

signals = probe.records.signals
forward = signals.query("step == 0 and kind == 'block' and port == 'out'")
forward = forward[forward["direction"] == "forward"]
print(forward[["block", "name", "second_moment", "channel_variance", "mean_shift"]].to_string())

weights = probe.records.parameters.query("step == 0 and block >= 0 and ndim == 4")
print(weights[["block", "name", "grad_to_weight", "update_to_weight"]].to_string())

print(probe.records.coverage[["name", "recorded", "calls", "gradient", "reason"]].to_string())
