"""What every network of the zoo promises: one test per promise, over the whole registry."""

import copy
import io
import math

import pytest
import torch
from torch import nn

import sigprop
from sigprop import networks
from sigprop.networks import DataDependentLayer, ResidualBlock

NAMES = networks.names()
#: Families on an architecture of their own, whatever is asked for.
FIXED = {"transformer": "transformer", "t-fixup": "transformer", "lstm": "lstm"}
FIXED |= {"nfnet": "resnet", "vgg": "resnet", "instancenorm": "resnet"}
TOKENS = [
    *("plain", "layernorm", "rescale", "fixup", "skipinit", "rezero", "layerscale", "deepnorm"),
    *("mup", "unit-scaled"),
]
NO_TOKENS = [
    *("batchnorm", "batchnorm-last", "groupnorm", "weightnorm", "scaled-weightnorm"),
    *("normprop", "nf-resnet"),
]
#: Without skip connections.
CHAINS = ("feedforward", "normprop", "vgg", "lstm")
#: Their branches contribute exactly 0 at the start, so x_L = x_0.
IDENTITIES = ("fixup", "skipinit", "rezero", "nfnet")
#: Parametrized weights pickle as a state_dict only, as torch says.
PARAMETRISED = ("weightnorm", "scaled-weightnorm", "normprop", "nf-resnet", "nfnet")

CASES = [(name, FIXED[name]) for name in FIXED]
CASES += [(name, a) for name in NAMES if name not in FIXED for a in ("mlp", "resnet")]
CASES += [(name, "transformer") for name in TOKENS]
RESIDUAL = pytest.mark.parametrize(
    ("name", "architecture"), [(n, a) for n, a in CASES if n not in CHAINS]
)
EVERY = pytest.mark.parametrize(("name", "architecture"), CASES)


def small(name, architecture="mlp", seed=0, **options):
    torch.manual_seed(seed)
    options = {"depth": 3, "width": 8, "inputs": (2, 6, 6), "classes": 4, **options}
    if architecture != "lstm":
        options["architecture"] = architecture
    return networks.build(name, **options)


def batch(seed=1, size=12):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(size, 2, 6, 6, generator=generator), torch.arange(size) % 4


def test_every_network_is_in_a_case():
    assert {name for name, _ in CASES} == set(NAMES)
    assert set(TOKENS) | set(NO_TOKENS) | set(FIXED) | set(CHAINS) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_the_first_line_says_what_it_is(name):
    page = networks.NETWORKS[name].__doc__
    assert page is not None
    first = page.splitlines()[0]
    assert first.startswith("Return ")
    assert first.endswith(".")
    assert len(first) <= 98
    assert "Source:" in page


@EVERY
def test_gives_logits_of_the_asked_shape(name, architecture):
    net = small(name, architecture)
    logits = net(batch()[0])
    assert logits.shape == (12, 4)
    assert torch.isfinite(logits).all()
    assert net.eval()(batch(2, size=1)[0]).shape == (1, 4)


@EVERY
def test_is_determined_by_the_seed(name, architecture):
    inputs, _ = batch()
    first, again = (small(name, architecture)(inputs) for _ in range(2))
    assert torch.equal(first, again)
    if name != "fixup":  # its head starts at 0
        assert not torch.equal(first, small(name, architecture, seed=1)(inputs))


@EVERY
def test_trains_a_few_steps_and_moves_every_parameter(name, architecture):
    torch.manual_seed(0)
    net = small(name, architecture)
    inputs, targets = batch()
    net(inputs)  # what is data-dependent is set
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-2, momentum=0.9)
    moved = dict.fromkeys((n for n, _ in net.named_parameters()), False)
    losses = []
    for _ in range(5):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(net(inputs), targets)
        loss.backward()
        for n, parameter in net.named_parameters():
            assert parameter.grad is not None, n
            assert torch.isfinite(parameter.grad).all(), n
            moved[n] |= bool(parameter.grad.any())
        optimizer.step()
        losses.append(loss.item())
    assert all(map(math.isfinite, losses))
    # a norm cancels a key's bias in attention; that of a stochastic branch may be dropped 5 times
    stuck = [n for n, did in moved.items() if not did and not n.endswith("key.bias")]
    assert stuck == []


@EVERY
def test_survives_a_state_dict_file(name, architecture):
    net, other = small(name, architecture), small(name, architecture, seed=1)
    net(batch()[0])
    file = io.BytesIO()
    torch.save(net.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    second, _ = batch(seed=2)
    outs = []
    for model in (net, other):
        torch.manual_seed(0)  # stochastic depth
        outs.append(model(second))
    # in training mode: what is data-dependent would show if it began again
    assert torch.equal(*outs)


@EVERY
def test_survives_deepcopy(name, architecture):
    net = small(name, architecture)
    inputs, _ = batch()
    outs = []
    for model in (copy.deepcopy(net), net, copy.deepcopy(net)):
        torch.manual_seed(0)
        outs.append(model(inputs))
    assert torch.equal(outs[0], outs[1])
    assert all(m.initialized for m in net.modules() if isinstance(m, DataDependentLayer))


@EVERY
def test_leaves_no_state_behind_in_evaluation(name, architecture):
    net = small(name, architecture).eval()
    before = copy.deepcopy(net.state_dict())
    with torch.no_grad():
        net(batch()[0])
    after = net.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)


@EVERY
def test_a_skip_connection_has_its_addition(name, architecture):
    blocks = small(name, architecture).blocks
    assert len(blocks) == {"transformer": 6, "vgg": 2}.get(FIXED.get(name, architecture), 3) - (
        1 if name == "vgg" else 0
    )
    for block in blocks:
        assert isinstance(block, ResidualBlock) is (name not in CHAINS)
        if isinstance(block, ResidualBlock):
            assert block.add.ports == ("skip", "branch")


@RESIDUAL
def test_starts_as_the_identity_where_it_is_claimed(name, architecture):
    net = small(name, architecture)
    net(batch()[0])  # a data-dependent start
    added = []
    for block in net.blocks:
        block.add.register_forward_pre_hook(lambda m, args: added.append(args[1].abs().max()))
    net(batch()[0])
    largest = max(added).item()
    assert (largest == 0) is (name in IDENTITIES)


@EVERY
def test_works_under_the_probe(name, architecture):
    def factory():
        return small(name, architecture)

    inputs, targets = batch()
    records = sigprop.measure(factory, inputs, targets, spectra=False)
    rows = records.signals
    blocks = rows[rows["name"].str.fullmatch(r"blocks\.\d+") & (rows["port"] == "out")]
    forward = blocks[blocks["direction"] == "forward"]
    net = factory()
    assert len(forward) == len(net.blocks)
    assert (forward["second_moment"] > 0).all()
    if name not in CHAINS:
        assert {"skip", "branch"} <= set(rows["port"])


@pytest.mark.parametrize("name", NAMES)
def test_compiles_without_a_graph_break(name):
    architecture = FIXED.get(name, "mlp")
    net = small(name, architecture, depth=1).eval()
    inputs, _ = batch()
    torch.compiler.reset()
    compiled = torch.compile(net, backend="eager", fullgraph=True)
    with torch.no_grad():
        assert torch.allclose(compiled(inputs), net(inputs), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_takes_every_nonlinearity(name):
    for activation in ("relu", "tanh", "gelu", "silu", "identity", "softsign", "elu", "hardswish"):
        net = small(name, FIXED.get(name, "mlp"), activation=activation, depth=1)
        assert torch.isfinite(net(batch()[0])).all(), activation


@pytest.mark.parametrize("name", [n for n in NAMES if n not in FIXED])
def test_stages_halve_the_image_and_double_the_width(name):
    net = small(name, "resnet", depth=5, stages=3, inputs=(2, 9, 6))
    x = net.stem(torch.randn(4, 2, 9, 6))
    shapes = []
    for block in net.blocks:
        x = block(x)
        shapes.append(tuple(x.shape[1:]))
    assert shapes == [(8, 9, 6), (8, 9, 6), (16, 5, 3), (16, 5, 3), (32, 3, 2)]
    assert net.head(x).shape == (4, 4)


@pytest.mark.parametrize("name", [n for n in NAMES if n not in (*FIXED, *CHAINS)])
def test_bottlenecks_and_groups(name):
    options = {"width": 16, "block": "bottleneck", "groups": 2, "stages": 2}
    net = small(name, "resnet", **options)
    net(batch()[0])
    convolutions = [m for m in net.blocks[0].branch.modules() if isinstance(m, nn.Conv2d)]
    assert [(c.kernel_size[0], c.out_channels, c.groups) for c in convolutions] == [
        (1, 4, 1),
        (3, 4, 2),
        (1, 16, 1),
    ]


@pytest.mark.parametrize("name", [n for n in NAMES if n not in PARAMETRISED])
def test_pickles_whole(name):
    net = small(name, FIXED.get(name, "mlp"))
    file = io.BytesIO()
    torch.save(net, file)
    file.seek(0)
    inputs, _ = batch()
    assert torch.equal(torch.load(file, weights_only=False)(inputs), net(inputs))


@pytest.mark.parametrize("name", NO_TOKENS)
def test_what_is_not_defined_on_tokens_says_so(name):
    with pytest.raises(
        sigprop.BadInput, match=f"^'{name}' is for architectures 'mlp' and 'resnet'; [a-z']"
    ):
        small(name, "transformer")


# --- exact counts of parameters ----------------------------------------------------------------


def count(name, **options):
    with torch.device("meta"):
        net = networks.build(name, **options)
    return sum(parameter.numel() for parameter in net.parameters())


@pytest.mark.parametrize(
    ("variant", "millions"), [("F0", 71.5), ("F1", 132.6), ("F2", 193.8), ("F3", 254.9)]
)
def test_nfnets_have_the_parameters_of_the_paper(variant, millions):
    # Brock et al. 2021b, table 1
    found = count("nfnet", variant=variant, inputs=(3, 192, 192), classes=1000, activation="gelu")
    assert found / 1e6 == pytest.approx(millions, abs=0.05)


@pytest.mark.parametrize(
    ("plan", "millions"), [("vgg11", 133), ("vgg13", 133), ("vgg16", 138), ("vgg19", 144)]
)
def test_vgg_has_the_parameters_of_the_paper(plan, millions):
    # Simonyan & Zisserman 2015, table 2
    options = {"inputs": (3, 224, 224), "classes": 1000, "hidden": 4096, "bias": "after"}
    assert count("vgg", plan=plan, **options) / 1e6 == pytest.approx(millions, abs=0.5)


@pytest.mark.parametrize(("depth", "millions"), [(9, 0.27), (27, 0.85), (54, 1.7)])
def test_cifar_resnets_have_the_parameters_of_the_paper(depth, millions):
    # He et al. 2016a, table 6 (ResNet-20, -56, -110), whose shortcuts are free: ours have weights
    options = {"architecture": "resnet", "depth": depth, "width": 16, "stages": 3}
    options |= {"inputs": (3, 32, 32), "order": "weight-norm-act"}
    shortcuts = 16 * 32 + 32 * 64 + 2 * (32 + 64)
    found = (count("batchnorm", **options) - shortcuts) / 1e6
    assert found == pytest.approx(millions, abs=0.05 if depth == 54 else 0.005)


def test_a_transformer_layer_has_twelve_squares_and_thirteen_widths():
    d = 48
    sizes = [count("transformer", depth=n, width=d, inputs=(7, 5), classes=3) for n in (2, 3)]
    assert sizes[1] - sizes[0] == 12 * d * d + 13 * d


def test_an_lstm_layer_has_its_four_gates():
    w = 24
    sizes = [count("lstm", depth=n, width=w, inputs=(7, 5)) for n in (2, 3)]
    assert sizes[1] - sizes[0] == 4 * w * (2 * w + 1)


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("skipinit", 1),
        ("rezero", 1),
        ("fixup", 6 - 2 * 16),  # 4 scalar biases, a scale and a bias for two vectors of biases
        ("layerscale", 16 + 2 * 2 * 16),  # λ, and gain and bias of two norms
        ("rescale", 1),  # a multiplier; biases stand in front of instead of behind
        ("batchnorm", 4 * 16 - 2 * 16),
    ],
)
def test_what_a_family_adds_to_a_plain_block(name, more):
    def block(which):
        return count(which, depth=3, width=16) - count(which, depth=2, width=16)

    assert block(name) - block("plain") == more
