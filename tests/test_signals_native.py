"""The compiled statistics against sums of exact float64 loops, in every layout, type and size."""

from __future__ import annotations

import ctypes
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sigprop.errors import ProbeWarning
from sigprop.signals import native
from sigprop.signals.channel_statistics import compute, compute_plain
from sigprop.signals.columns import COLUMNS, POOLED_COLUMNS
from sigprop.signals.correlation import compute_products
from sigprop.signals.norms import compute_norms, compute_updates
from sigprop.signals.pooled import Pooled
from sigprop.signals.signal import Signal, interpret, measure_signal, pool, pool_plain

TYPES = list(native.TYPES)


def normal(*shape: int, mean: float = 0.0, std: float = 1.0, seed: int = 0) -> Tensor:
    return torch.empty(shape).normal_(mean, std, generator=torch.Generator().manual_seed(seed))


def misread(signal: Signal, x: Tensor, axis: int) -> list[str]:
    """Return what of a signal is wrong, each channel against exactly rounded sums (math.fsum)."""
    wrong = []
    moments, activity = signal.moments, signal.activity
    channels = x.detach().reshape(1) if x.ndim == 0 else x.detach().movedim(axis, 0)
    for c, channel in enumerate(channels.double().reshape(len(channels), -1).tolist()):
        finite = [v for v in channel if math.isfinite(v)]
        n = max(len(finite), 1)
        mean = math.fsum(v / n for v in finite)
        d = [v - mean for v in finite]
        std = math.sqrt(math.fsum(v**2 for v in d) / n)
        m3, m4 = math.fsum(v**3 for v in d), math.fsum(v**4 for v in d)
        # Odd moments cancel: their tolerance is that of the terms.
        truth = {
            "count": (moments.count[c], len(finite), 0),
            "nonfinite": (activity.nonfinite[c], len(channel) - len(finite), 0),
            "zeros": (activity.zeros[c], finite.count(0.0), 0),
            "lowest": (activity.lowest[c], min(finite, default=0), 0),
            "highest": (activity.highest[c], max(finite, default=0), 0),
            "mean": (moments.mean[c], mean, 1e-5 * std + 1e-12 * abs(mean)),
            "m2": (moments.m2[c], n * std**2, 1e-5 * n * std**2),
            "m3": (moments.m3[c], m3, 1e-5 * math.fsum(abs(v**3) for v in d)),
            "m4": (moments.m4[c], m4, 1e-5 * m4),
        }
        wrong += [
            f"channel {c}: {name} is {got!r}, not {want!r}"
            for name, (got, want, tolerance) in truth.items()
            if not abs(got - want) <= tolerance
        ]
    return wrong


def right(x: Tensor, axis: int = 1) -> bool:
    assert native.supports(x)
    wrong = misread(interpret(compute(x, axis).numpy()), x, axis)
    assert not wrong, "\n".join(wrong[:5])
    return True


#: Around the widths of registers (4, 8, 16), of a row's shortest run and of a fold (64 x 16).
SIZES = [1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 33, 49, 64, 255, 256, 257, 1023, 1024, 1025]


@pytest.mark.parametrize("size", SIZES)
def test_every_length_of_a_row(size: int) -> None:
    assert right(normal(3, 5, size, mean=0.5), 1)
    assert right(normal(1, 2, size, mean=0.5), 1)


@pytest.mark.parametrize("size", SIZES)
def test_every_width_of_columns(size: int) -> None:
    assert right(normal(7, size, mean=-0.5), 1)
    assert right(normal(130, size), -1)


@pytest.mark.parametrize("size", SIZES)
def test_every_number_of_samples(size: int) -> None:
    assert right(normal(size, 3), 1)
    assert right(normal(size, 20), 1)
    assert right(normal(size, 2, 18), 1)
    assert right(normal(size, 4, 3, 3), 1)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize(
    ("shape", "axis"), [((5, 3, 7, 7), 1), ((66, 40), 1), ((33, 5), 1), ((9, 6, 2, 3), 1)]
)
def test_every_type(dtype: torch.dtype, shape: tuple[int, ...], axis: int) -> None:
    x = normal(*shape, mean=2.0).to(dtype)
    x.view(-1)[::5] = 0.0
    assert right(x, axis)
    x.view(-1)[3] = math.inf
    x.view(-1)[-1] = math.nan
    assert right(x, axis)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_every_half_is_widened_as_torch_widens_it(dtype: torch.dtype) -> None:
    """All 65,536 of them: one a channel, as columns and as rows of equals."""
    every = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)
    wide = every.double()
    zero = torch.zeros((), dtype=torch.float64)
    for table in (compute(every[None], 1), compute(every[None, :, None].repeat(1, 1, 17), 1)):
        assert torch.equal(table[:, 3], wide.where(wide.isfinite(), zero))
        assert torch.equal(table[:, 1] > 0, wide.isfinite())


VIEWS = {
    "channels last": normal(4, 20, 5, 5).to(memory_format=torch.channels_last),
    "channels last in 3d": normal(2, 5, 3, 4, 4).to(memory_format=torch.channels_last_3d),
    "transposed": normal(20, 30).T,
    "permuted": normal(6, 5, 4, 3).permute(2, 0, 3, 1),
    "with gaps": normal(20, 30)[::2, ::3],
    "expanded": normal(4, 1, 5).expand(4, 20, 5),
    "with an offset": normal(40, 7)[3:, :],
    "one sample": normal(1, 6, 4, 4),
    "one channel": normal(6, 1, 4, 4),
    "with a gradient": normal(5, 4).requires_grad_(),
}


@pytest.mark.parametrize("x", VIEWS.values(), ids=VIEWS.keys())
def test_every_way_to_lie_in_memory(x: Tensor) -> None:
    for axis in range(x.ndim):
        assert right(x, axis)


def test_a_scalar_and_a_vector() -> None:
    assert right(torch.tensor(2.5), 0)
    assert right(normal(100), 0)


@pytest.mark.parametrize("layout", ["rows", "columns", "few columns"])
@pytest.mark.parametrize("ratio", [1.0, 1e2, 1e4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_nothing_cancels_about_a_large_mean(layout: str, ratio: float, dtype: torch.dtype) -> None:
    shape = {"rows": (40, 4, 50), "columns": (2000, 40), "few columns": (2000, 3)}[layout]
    assert right(normal(*shape, mean=ratio).to(dtype))


@pytest.mark.parametrize("layout", ["rows", "columns", "few columns"])
@pytest.mark.parametrize("scale", [1e-40, 1e-30, 1e-12, 1e-6, 1e8, 1e19, 1e30, 1e37])
def test_powers_stay_in_range(layout: str, scale: float) -> None:
    shape = {"rows": (40, 4, 50), "columns": (200, 40), "few columns": (200, 3)}[layout]
    assert right(normal(*shape) * scale)
    assert right(normal(*shape).double() * scale**2)


@pytest.mark.parametrize("shape", [(60, 4, 50), (600, 40), (600, 3)], ids=str)
def test_a_beginning_unlike_the_rest(shape: tuple[int, ...]) -> None:
    """Whatever the provisional center is taken from, it may mislead."""
    x = normal(*shape)
    for odd in (1e3, 1e9, 1e-9, 1e30, math.nan, math.inf):
        tail, sparse = x.clone(), torch.zeros(shape)
        tail[shape[0] // 2 :] = tail[shape[0] // 2 :] * min(abs(odd), 1e30) + 5
        sparse.view(-1)[shape[-1] + 1] = odd
        assert right(tail)
        assert right(sparse)


@pytest.mark.parametrize("shape", [(60, 4, 50), (600, 40), (600, 3)], ids=str)
@pytest.mark.parametrize("value", [0.0, -0.0, 0.1, -3e-39, 1e4 + 1 / 3, 3e38])
def test_a_constant_has_no_spread(shape: tuple[int, ...], value: float) -> None:
    signal = measure_signal(torch.full(shape, value))
    assert signal.moments.m2.tolist() == [0.0] * shape[1]
    assert signal.moments.m4.tolist() == [0.0] * shape[1]
    assert signal.moments.mean.tolist() == [float(np.float32(value))] * shape[1]
    assert signal.number("zero_fraction") == float(value == 0)


@pytest.mark.parametrize("shape", [(60, 4, 50), (600, 40), (600, 3), (5, 4, 3, 3)], ids=str)
@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_left_out(shape: tuple[int, ...], odd: float) -> None:
    x = normal(*shape, mean=3.0)
    x[0, 0] = odd
    assert right(x)
    x[:, 1] = odd
    assert right(x)
    assert right(torch.full(shape, odd))


def test_denormals_are_no_zeros() -> None:
    x = torch.tensor([[1e-45, 0.0], [-0.0, 0.0], [0.0, 1e-40]])
    assert compute(x)[:, 2].tolist() == [2, 2]


@settings(max_examples=200, deadline=None)
@given(
    shape=st.lists(st.integers(1, 20), min_size=1, max_size=4),
    axis=st.integers(0, 3),
    mean=st.sampled_from([0.0, 1.0, -1e4]),
    scale=st.sampled_from([1e-20, 1.0, 1e20]),
    rectified=st.booleans(),
    seed=st.integers(0, 99),
)
def test_both_ways_agree(
    shape: list[int], axis: int, mean: float, scale: float, rectified: bool, seed: int
) -> None:
    axis %= len(shape)
    x = normal(*shape, mean=mean, seed=seed) * scale
    x = x.relu() if rectified else x
    a, b = (
        interpret(table.double().numpy()) for table in (compute(x, axis), compute_plain(x, axis))
    )
    size, n = float(x.abs().max()) or 1.0, b.moments.count
    std = np.sqrt(b.moments.m2 / n) / size
    for name, power in (("mean", 1), ("m2", 2), ("m3", 3), ("m4", 4)):
        got, want = (getattr(way.moments, name) / size**power for way in (a, b))
        # Plain sums are in single precision, of terms about as large as the spread or, for what is
        # constant, as the rounding of its mean.
        terms = np.maximum(n * (std + 1e-7) ** power, np.abs(want)) if power > 1 else std + 1
        assert (np.abs(got - want) <= 1e-5 * terms).all()
    assert np.array_equal(a.activity.zeros, b.activity.zeros)
    assert np.array_equal(a.activity.highest, b.activity.highest)


def test_a_wrong_center_without_a_second_reading_is_noticed() -> None:
    """The saboteur: sums in single precision about 0, where the mean is 1e4 standard deviations."""
    x = normal(400, 3, mean=1e4)
    sums = [(x**p).sum(0) for p in range(1, 5)]
    n, zero = torch.full((3,), 400.0), torch.zeros(3)
    table = torch.stack([n, n, zero, x.amin(0), x.amax(0), zero + 1, zero, *sums], dim=1)
    assert any("m2" in line for line in misread(interpret(table.numpy()), x, 1))
    assert misread(interpret(compute(x).numpy()), x, 1) == []


@pytest.mark.parametrize("column", [c for c in COLUMNS if c not in ("elements", "scale", "center")])
def test_a_damaged_column_is_noticed(column: str) -> None:
    x = normal(40, 3, mean=1.0)
    table = compute(x)
    table[1, COLUMNS.index(column)] += 1
    assert misread(interpret(table.numpy()), x, 1)


def test_a_reading_alters_nothing_and_repeats_to_the_bit() -> None:
    x = normal(30, 4, 9)
    x[0, 0, 0] = math.nan
    before, rng = x.clone(), torch.get_rng_state()
    assert torch.equal(compute(x), compute(x))
    assert torch.equal(x.view(torch.int32), before.view(torch.int32))
    assert torch.equal(torch.get_rng_state(), rng)


def test_what_the_library_cannot_see_is_left_to_torch() -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    assert native.supports(torch.ones(2))
    assert not native.supports(torch.ones(2, dtype=torch.complex64))
    assert not native.supports(torch.ones(2, device="meta"))
    assert not native.supports(torch.ones(2).to_sparse())
    assert not native.supports(
        torch.imag(torch.ones(2, dtype=torch.complex64).conj())
    )  # lazy minus
    with FakeTensorMode() as mode:
        assert not native.supports(mode.from_tensor(torch.ones(2)))
    seen = []

    def look(x):
        seen.append(native.supports(x))
        return x

    torch.func.vmap(look)(torch.ones(2, 2))
    assert seen == [False]


def test_the_environment_can_leave_it_shut() -> None:
    script = "from sigprop.signals import native; print(native.LIBRARY)"
    environment = {**os.environ, "SIGPROP_NATIVE": "0"}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, env=environment
    )
    assert done.stdout == "None\n"


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.tuples(st.integers(1, 9), st.integers(1, 40)), min_size=0, max_size=6),
    st.sampled_from([1.0, 1e-25, 1e25]),
    st.floats(-100, 100),
    st.integers(0, 99),
)
def test_pooling_in_c_is_pooling_in_numpy(shapes, scale: float, mean: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    tables = []
    for channels, samples in shapes:
        x = (torch.randn(samples, channels, generator=generator) + mean) * scale
        x[torch.rand(x.shape, generator=generator) < 0.1] = math.nan
        tables.append(compute(x, 1).numpy())
    fast, slow = pool(tables), pool_plain(tables)
    for name, number in vars(slow).items():
        size = np.maximum(np.abs(number), 1e-300)
        # Sums in another order; the mean of n values of either sign cancels against their size.
        slack = 1e-12 * size + (1e-13 * slow.max_abs if name == "mean" else 0)
        assert (np.abs(vars(fast)[name] - number) <= slack).all(), name


def test_a_channel_without_finite_samples_costs_no_digits() -> None:
    x = normal(40, 3) * 1e-3 + 1.0  # about 0 instead of about 1 the fourth powers cancel
    x[:, 0] = math.nan
    fast, slow = pool([compute(x, 1).numpy()]), pool_plain([compute(x, 1).numpy()])
    np.testing.assert_allclose(fast.m4, slow.m4, rtol=1e-12)


def test_pooling_that_forgets_the_channel_means_is_noticed() -> None:
    """The saboteur: within channels there is no spread here, over the layer there is."""
    pooled = pool([compute(torch.tensor([[0.0, 2.0], [0.0, 2.0]]), 1).numpy()])
    assert pooled.within[0] == 0
    assert pooled.m2[0] == 4
    assert pooled.between[0] == 8


# --- threads --------------------------------------------------------------------------------------

#: GNU OpenMP's way to start a function in several threads: function, data, threads, flags.
POOL = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)
WORK = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


@pytest.fixture(params=[1, 2, 3, 8])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    """That PyTorch computes with so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.fixture
def asked() -> Iterator[list[int]]:
    """For how many threads the library asks, of a pool whose workers run one after the other."""
    numbers: list[int] = []

    @POOL
    def start(work: int, data: int, count: int, flags: int) -> None:
        numbers.append(count)
        for _ in range(count):
            WORK(work)(data)

    assert native.LIBRARY is not None
    assert native.LIBRARY is not None
    native.LIBRARY.sigprop_set_thread_pool(start)
    yield numbers
    assert native.LIBRARY is not None
    native.LIBRARY.sigprop_set_thread_pool(native._thread_pool())


def statistics() -> list[Tensor]:
    """Return what the library says of tensors long enough to be shared, and of short ones."""
    shapes = [(64, 16, 32, 32), (64, 5, 7, 7), (2000, 130), (500, 300), (9, 40_000), (8, 4), (3,)]
    tensors = [normal(*shape, mean=0.5) for shape in shapes]
    tables = [compute(x, min(1, x.ndim - 1)) for x in tensors]
    products = [compute_products(x, x + 1) for x in tensors]
    pairs = [(x, x + 1) for x in tensors]
    return [
        *tables,
        *products,
        *map(torch.from_numpy, (compute_norms(pairs), compute_updates(pairs))),
    ]


def test_numbers_do_not_depend_on_how_many_threads_read(threads: int) -> None:
    seen = statistics()
    torch.set_num_threads(1)
    assert all(torch.equal(a, b) for a, b in zip(seen, statistics(), strict=True))


def test_long_tensors_are_shared_and_short_ones_are_not(threads: int, asked: list[int]) -> None:
    x = normal(64, 6, 40, 40)
    once = compute(x, 1)
    assert asked == ([] if threads == 1 else [min(threads, 6)])
    assert right(x)
    asked.clear()
    compute(x[:2], 1)
    assert asked == []
    assert native.LIBRARY is not None
    native.LIBRARY.sigprop_set_thread_pool(native._thread_pool())
    assert torch.equal(compute(x, 1), once)


@pytest.mark.skipif("OpenMP" not in torch.__config__.parallel_info(), reason="no OpenMP")
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere its symbols may be hidden")
def test_the_threads_of_pytorch_are_found() -> None:
    assert native._thread_pool() is not None


def test_a_thread_pool_that_does_not_work_is_noticed(threads: int) -> None:
    """The saboteur: nobody reads, and the table is what its memory held."""
    assert native.LIBRARY is not None
    idle = POOL(lambda work, data, count, flags: None)
    assert native.LIBRARY is not None
    native.LIBRARY.sigprop_set_thread_pool(idle)
    try:
        x = normal(64, 6, 40, 40, mean=7.0)
        wrong = misread(interpret(compute(x, 1).numpy()), x, 1)
        assert bool(wrong) == (threads > 1)
    finally:
        assert native.LIBRARY is not None
    native.LIBRARY.sigprop_set_thread_pool(native._thread_pool())


# --- the library beside its sources ---------------------------------------------------------------

NATIVE = Path(native.__file__).parent


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the sources with the library that was compiled from them."""
    for path in NATIVE.iterdir():
        if path.suffix in (".c", ".h", ".so", ".py"):
            shutil.copy(path, tmp_path)
    return tmp_path


def refused(folder: Path) -> str:
    """Return the reason in the warning with which a library is refused."""
    with pytest.warns(ProbeWarning) as caught:
        assert native.open_library(folder) is None
    (message,) = {str(warning.message) for warning in caught}
    start, end = (
        f"the compiled library {folder / 'kernels.so'} is not used: ",
        "; install sigprop again to compile it (plain torch computes the same numbers, slower)",
    )
    assert message.startswith(start)
    assert message.endswith(end)
    return message[len(start) : -len(end)]


def test_a_library_beside_its_own_sources_is_opened(folder: Path) -> None:
    assert native.open_library(folder) is not None


@pytest.mark.parametrize("name", ["lanes.h", "pooling.c", "columns.h"])
def test_an_old_library_beside_new_sources_is_refused(folder: Path, name: str) -> None:
    with (folder / name).open("a") as source:
        source.write("/* changed since */\n")
    assert refused(folder) == "it was compiled from other sources than those beside it"


def test_a_source_that_was_added_or_renamed_counts(folder: Path) -> None:
    (folder / "pooling.c").rename(folder / "pool.c")
    assert refused(folder) == "it was compiled from other sources than those beside it"


def test_a_library_from_before_checksums_is_refused(folder: Path) -> None:
    old = folder / "old.c"
    old.write_text("void sigprop_read(void) {}\n")
    command = ["cc", "-shared", "-fPIC", "-o", str(folder / "kernels.so"), str(old)]
    subprocess.run(command, check=True)
    old.unlink()
    assert refused(folder) == "it was compiled from other sources than those beside it"


def test_line_ends_of_a_checkout_do_not_count(folder: Path) -> None:
    path = folder / "columns.h"
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert native.open_library(folder) is not None


def test_a_wheel_without_sources_is_opened(folder: Path) -> None:
    for path in (*folder.glob("*.c"), *folder.glob("*.h")):
        path.unlink()
    assert native.open_library(folder) is not None


@pytest.mark.parametrize("columns", ["COLUMNS", "POOLED_COLUMNS"])
def test_other_columns_than_pythons_are_refused(
    folder: Path, columns: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = getattr(native, columns)
    monkeypatch.setattr(native, columns, (here[1], here[0], *here[2:]))
    name = columns.lower().replace("_", " ")
    assert refused(folder) == f"its {name} are {here}, not {(here[1], here[0], *here[2:])}"


def test_the_columns_are_the_fields_of_pooled() -> None:
    assert tuple(field.name for field in fields(Pooled)) == POOLED_COLUMNS
