"""A stack of LSTM layers over the rows of an image, written out so that every layer is a module."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sigprop.errors import BadInput
from sigprop.networks.arguments import check_number
from sigprop.networks.catalog import register
from sigprop.networks.design import Design
from sigprop.networks.network import Network
from sigprop.networks.transformer import Tokens


class LSTMLayer(nn.Module):
    """One LSTM layer over a sequence: (N, T, inputs) -> (N, T, width), from a state of zeros.

    i, f, o = σ(W_x x_t + W_h h_{t-1} + b), g = tanh(...), c_t = f c_{t-1} + i g, h_t = o tanh c_t.

    Source: Hochreiter & Schmidhuber 1997; forget gate of Gers et al. 2000; layer normalization of
    both products and of c_t as in Ba et al. 2016, eqs. 20-22.

    Args:
        inputs: features of a step.
        width: units.
        forget_bias: bias of the forget gate at the start (Jozefowicz et al. 2015 recommend 1).
        norm: layer normalization.
    """

    def __init__(
        self, inputs: int, width: int, forget_bias: float = 1.0, norm: bool = False
    ) -> None:
        super().__init__()
        self.from_input = nn.Linear(inputs, 4 * width)
        self.from_state = nn.Linear(width, 4 * width, bias=False)
        nn.init.xavier_uniform_(self.from_input.weight)
        with torch.no_grad():
            for gate in self.from_state.weight.chunk(4):
                nn.init.orthogonal_(gate)
            self.from_input.bias.zero_()
            self.from_input.bias[width : 2 * width] = forget_bias
        self.norm_input = nn.LayerNorm(4 * width) if norm else nn.Identity()
        self.norm_state = nn.LayerNorm(4 * width) if norm else nn.Identity()
        self.norm_cell = nn.LayerNorm(width) if norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Return h_1..h_T, shape (N, T, width)."""
        given = self.norm_input(self.from_input(x))
        h = c = given.new_zeros(len(x), self.from_state.in_features)
        states = []
        for step in given.unbind(dim=1):
            i, f, o, g = (step + self.norm_state(self.from_state(h))).chunk(4, dim=-1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(self.norm_cell(c))
            states.append(h)
        return torch.stack(states, dim=1)


class LastToken(nn.Module):
    """The last step of a sequence: (N, T, width) -> (N, width)."""

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x[:, -1]``."""
        return x[:, -1]


@register("lstm")
def lstm(design: Design, forget_bias: float = 1.0, norm: bool = False) -> nn.Module:
    """Return ``depth`` LSTM layers on top of each other; a step is a token or a row of an image.

    Recurrent weights are orthogonal, input weights Xavier. It is recurrent whatever architecture,
    order or activation is asked for.

    Source: Hochreiter & Schmidhuber 1997; Ba et al. 2016 (layer normalization).

    Args:
        design: depth, width, inputs as for a Transformer, classes.
        forget_bias: bias of the forget gates at the start.
        norm: layer normalization of both products and of the cell.

    Raises:
        BadInput: inputs are no sequence and no image, or forget_bias is not finite.
    """
    if len(design.inputs) not in (2, 3):
        raise BadInput(
            "an LSTM needs inputs=(steps, features) or (channels, height, width), "
            f"got {design.inputs}"
        )
    check_number("the size of forget_bias", abs(forget_bias))
    widths = [design.tokens[1], *[design.width] * design.depth]
    layers = [
        LSTMLayer(inputs, design.width, forget_bias, norm) for inputs in widths[: design.depth]
    ]
    head = nn.Sequential(LastToken(), nn.Linear(design.width, design.classes))
    return Network(Tokens(), nn.Sequential(*layers), head)
