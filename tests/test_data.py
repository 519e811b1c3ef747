import gzip
import itertools
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

import sigprop
from sigprop.errors import BadInput
from sigprop.inputs import datasets as data_module
from sigprop.inputs.datasets import Data, resolve


def toy(count=10, classes=3, test=None):
    inputs = torch.arange(float(count)).unsqueeze(1)
    return Data("toy", (inputs, torch.arange(count) % classes), test, (1,), classes)


def arrays_of(split: object) -> tuple[Tensor, Tensor]:
    """Return inputs and targets of a split that is held as two tensors."""
    assert isinstance(split, tuple)
    inputs, targets = split
    return inputs, targets


def take(iterator, count):
    return list(itertools.islice(iterator, count))


def seen(batches):
    return [inputs.flatten().tolist() for inputs, _ in batches]


def flat(batches):
    return list(itertools.chain.from_iterable(batches))


def python(code):
    """Run code in a fresh process that sees the package under test."""
    root = Path(sigprop.__file__).parents[1]
    command = [sys.executable, "-c", code]
    return subprocess.run(command, check=True, capture_output=True, text=True, cwd=root).stdout


class Squares(Dataset[Any]):
    """A Dataset that is not a TensorDataset, with a random transform if asked."""

    classes: tuple[str, ...] | None = ("even", "odd")

    def __init__(self, count=10, noise=0.0):
        self.count, self.noise = count, noise

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        return torch.tensor([float(index)]) + self.noise * torch.rand(1), index % 2


class Stream(IterableDataset[Any]):
    classes = ("a", "b")

    def __init__(self, count=6):
        self.count = count

    def __iter__(self):
        return iter((torch.tensor([float(i)]), i % 2) for i in range(self.count))


# --- digits ------------------------------------------------------------------------------------


def test_digits_are_standardized_images_in_a_stratified_split():
    data = resolve("digits")
    (inputs, targets), (test_inputs, test_targets) = map(arrays_of, (data.train, data.test))
    assert (data.name, data.shape, data.classes) == ("digits", (1, 8, 8), 10)
    assert inputs.shape == (1437, 1, 8, 8)
    assert test_inputs.shape == (360, 1, 8, 8)
    assert inputs.dtype == torch.float32
    assert targets.dtype == torch.int64
    assert inputs.double().mean().item() == pytest.approx(0, abs=1e-5)
    assert inputs.double().square().mean().item() == pytest.approx(1, abs=1e-5)
    share = torch.bincount(targets) / len(targets)
    test_share = torch.bincount(test_targets) / len(test_targets)
    # a stratified split can be off by one sample per class
    assert (share - test_share).abs().max() < 1 / 360 + 1 / 1437


def test_the_split_is_fixed_and_disjoint():
    first, again, other = resolve("digits"), resolve("digits"), resolve("digits", seed=1)
    inputs, targets = arrays_of(first.train)
    assert torch.equal(inputs, arrays_of(again.train)[0])
    assert not torch.equal(targets, arrays_of(other.train)[1])
    flat = torch.cat([inputs, arrays_of(first.test)[0]]).flatten(1)
    # every one of the 1797 images is there; none is in scikit-learn's set twice
    assert len(torch.unique(flat, dim=0)) == 1797


def test_resolving_leaves_the_global_generators_alone():
    torch.manual_seed(3)
    np.random.seed(3)  # noqa: NPY002 - the legacy generator is what is tested here
    before, numpy_before = torch.get_rng_state(), np.random.get_state()  # noqa: NPY002
    for spec in ("digits", Squares(), DataLoader(Squares(), shuffle=True)):
        data = resolve(spec)
        take(data.batches(0, 4), 5)
        list(data.test_batches())
    assert torch.equal(torch.get_rng_state(), before)
    np.testing.assert_equal(np.random.get_state(), numpy_before)  # noqa: NPY002


def test_scikit_learn_is_loaded_by_digits_only():
    code = "import sys, sigprop.inputs.datasets; assert 'sklearn' not in sys.modules"
    python(code)


# --- batches -----------------------------------------------------------------------------------


def test_an_epoch_shows_every_sample_once_when_batches_fit():
    epochs = seen(take(toy(12).batches(0, 4), 6))
    assert sorted(flat(epochs[:3])) == list(range(12))
    assert sorted(flat(epochs[3:])) == list(range(12))
    assert epochs[:3] != epochs[3:]


def test_targets_stay_with_their_inputs():
    for inputs, targets in take(toy(12).batches(0, 4), 9):
        assert torch.equal(inputs.flatten().long() % 3, targets)


def test_batches_are_whole_and_never_larger_than_the_data():
    assert {len(t) for _, t in take(toy(10).batches(0, 4), 7)} == {4}
    assert {len(t) for _, t in take(toy(10).batches(0, 64), 3)} == {10}


@pytest.mark.parametrize("start", [0, 1, 2, 3, 7, 1000])
def test_starting_late_is_the_same_as_having_been_there(start):
    source = toy(11)
    late = seen(take(source.batches(5, 4, start=start), 4))
    assert late == seen(itertools.islice(source.batches(5, 4), start, start + 4))


def test_starting_late_replays_nothing():
    class Counting(Squares):
        reads = 0

        def __getitem__(self, index):
            Counting.reads += 1
            return super().__getitem__(index)

    data = Data("counting", Counting(), None, (1,), 2)
    next(data.batches(0, 5, start=10**9))
    assert Counting.reads == 5


def test_the_order_depends_on_the_seed_only():
    first = seen(take(toy().batches(0, 5), 4))
    torch.manual_seed(99)
    assert seen(take(toy().batches(0, 5), 4)) == first
    assert seen(take(toy().batches(1, 5), 4)) != first


def test_the_order_is_the_same_in_another_process():
    code = (
        "import itertools, torch; from sigprop.inputs.datasets import Data\n"
        "d = Data('toy', (torch.arange(10.).unsqueeze(1), torch.arange(10) % 3), None, (1,), 3)\n"
        "print([i.flatten().tolist() for i, _ in itertools.islice(d.batches(0, 5), 4)])"
    )
    assert python(code).strip() == str(seen(take(toy().batches(0, 5), 4)))


def test_two_iterators_do_not_disturb_each_other():
    source = toy(12)
    one, two = source.batches(0, 4), source.batches(0, 4)
    mixed = [seen([next(it)])[0] for it in (one, two, one, two)]
    assert mixed[0] == mixed[1]
    assert mixed[2] == mixed[3]


@pytest.mark.parametrize(("batch_size", "start"), [(0, 0), (-1, 0), (4, -1)])
def test_impossible_batches_are_refused(batch_size, start):
    with pytest.raises(BadInput, match="batch_size must be at least 1 and start at least 0"):
        toy().batches(0, batch_size, start)


def test_the_test_split_comes_once_in_order():
    held_out = (torch.arange(5.0).unsqueeze(1), torch.zeros(5, dtype=torch.long))
    batches = list(toy(test=held_out).test_batches(2))
    assert seen(batches) == [[0, 1], [2, 3], [4]]
    assert list(toy().test_batches()) == []


# --- what a user may give ------------------------------------------------------------------------


def test_a_pair_of_tensors_or_arrays():
    data = resolve((np.zeros((6, 3)), np.array([0, 1, 2, 0, 1, 2])))
    assert (data.name, data.shape, data.classes, data.test) == ("custom", (3,), 3, None)
    assert arrays_of(data.train)[0].dtype == torch.float32
    tensors = (torch.zeros(4, 2, dtype=torch.float64), torch.tensor([0, 1, 0, 1]))
    assert arrays_of(resolve(tensors).train)[0].dtype == torch.float64
    assert resolve(list(tensors)).classes == 2


def test_data_is_itself():
    data = toy()
    assert resolve(data) is data
    assert data == data
    assert data != toy()


def test_data_prints_no_tensors():
    assert repr(toy()) == "Data('toy', train: 10 samples, test: none, (1,), 3 classes)"
    lazy = Data("lazy", Squares(), None, (1,), 2)
    assert repr(lazy) == "Data('lazy', train: Squares, test: none, (1,), 2 classes)"


def test_two_splits():
    train = (torch.zeros(4, 2), torch.tensor([0, 1, 2, 1]))
    data = resolve((train, (torch.ones(2, 2), torch.tensor([0, 1]))))
    assert data.classes == 3
    assert next(data.test_batches())[0].sum() == 4
    mixed = resolve((Squares(), DataLoader(Squares(4), batch_size=3)))
    assert seen(mixed.test_batches()) == [[0, 1, 2], [3]]


def test_a_tensor_dataset_becomes_tensors():
    inputs, targets = torch.randn(4, 2), torch.tensor([0, 1, 0, 1])
    assert arrays_of(resolve(TensorDataset(inputs, targets)).train)[0] is inputs


def test_a_dataset_is_drawn_from_in_a_seeded_order_with_seeded_transforms():
    data = resolve(Squares(noise=0.1))
    assert (data.shape, data.classes) == ((1,), 2)
    first = seen(take(data.batches(0, 4), 5))
    torch.manual_seed(17)
    assert seen(take(data.batches(0, 4), 5)) == first
    assert seen(take(data.batches(0, 4, start=3), 2)) == first[3:]


def test_classes_come_from_targets_too():
    class WithTargets(Squares):
        classes = None
        targets = (0, 5, 1)

    assert resolve(WithTargets()).classes == 6


def test_a_loader_keeps_its_batches_and_resumes():
    data = resolve(DataLoader(Squares(noise=0.1), batch_size=4, shuffle=True))
    first = seen(take(data.batches(0, 999), 7))
    assert [len(b) for b in first] == [4, 4, 2, 4, 4, 2, 4]
    assert sorted(round(x - 0.05) for x in flat(first[:3])) == list(range(10))
    torch.manual_seed(17)
    assert seen(take(data.batches(0, 999, start=4), 3)) == first[4:]
    assert seen(take(data.batches(1, 999), 7)) != first


def test_a_loader_with_a_generator_of_its_own_still_works():
    loader = DataLoader(Squares(), batch_size=5, shuffle=True, generator=torch.Generator())
    assert sorted(flat(seen(take(resolve(loader).batches(0, 1), 2)))) == list(range(10))


def test_a_stream_comes_through_a_loader():
    data = resolve(DataLoader(Stream(), batch_size=4))
    assert seen(take(data.batches(0, 1, start=1), 2)) == [[4, 5], [0, 1, 2, 3]]


def test_a_loader_over_tensors_knows_its_classes():
    pairs = TensorDataset(torch.zeros(4, 2), torch.tensor([0, 3, 1, 1]))
    assert resolve(DataLoader(pairs, batch_size=2)).classes == 4


# --- what is refused -----------------------------------------------------------------------------

GOOD = torch.zeros(4, 2)
LABELS = torch.tensor([0, 1, 0, 1])


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("digit", r"no data set or directory is called 'digit'; did you mean 'digits'\?"),
        (3, "cannot read data from int; give"),
        ((GOOD, [0, 1, 0, 1]), "inputs and targets must be tensors or arrays, got list"),
        ((GOOD, LABELS[:3]), "the data: there are 4 inputs but 3 targets"),
        ((GOOD[:3], LABELS), "the data: there are 3 inputs but 4 targets"),
        ((GOOD[:0], LABELS[:0]), "the data is empty"),
        ((GOOD, LABELS - 1), r"labels go from -1 to 0, allowed are 0 and above"),
        ((GOOD, LABELS.float()), r"whole numbers of shape \(N,\), got torch.float32 of shape"),
        ((GOOD, LABELS.unsqueeze(1)), r"got torch.int64 of shape \(4, 1\)"),
        ((GOOD / 0, LABELS), "8 of 8 input values are NaN or infinite"),
        ((GOOD, LABELS, LABELS), "cannot read data from tuple"),
        (Squares(0), "the data is empty"),
        (DataLoader(Squares(0)), "the DataLoader yields no batch; is its data smaller"),
        (DataLoader(Squares(3), batch_size=4, drop_last=True), "yields no batch"),
        (DataLoader(Stream(0)), "the DataLoader yields no batch"),
        (Stream(), "an IterableDataset has no order to draw from; wrap it in a DataLoader"),
    ],
)
def test_unusable_data_is_refused_when_it_is_given(spec, message):
    with pytest.raises(BadInput, match=message):
        resolve(spec)


def test_labels_must_be_in_range():
    with pytest.raises(BadInput, match=r"toy \(train\): labels go from 0 to 1, allowed are 0..0"):
        Data("toy", (GOOD, LABELS), None, (2,), classes=1)
    with pytest.raises(BadInput, match=r"toy \(test\): labels go from 0 to 3, allowed are 0..1"):
        Data("toy", (GOOD, LABELS), (GOOD, LABELS * 3), (2,), classes=2)


def test_a_dataset_must_tell_its_classes():
    class Anonymous(Squares):
        classes = None

    with pytest.raises(BadInput, match="cannot find the number of classes of Anonymous"):
        resolve(Anonymous())


def test_lazy_batches_are_checked_as_they_come():
    class Broken(Squares):
        def __getitem__(self, index):
            return torch.tensor([float("nan")]), 0

    class Mislabelled(Squares):
        def __getitem__(self, index):
            return torch.zeros(1), 7

    class Alone(Squares):
        def __getitem__(self, index):
            return torch.zeros(1)

    with pytest.raises(BadInput, match="NaN or infinite"):
        next(Data("x", Broken(), None, (1,), 2).batches(0, 2))
    with pytest.raises(BadInput, match=r"labels go from 7 to 7, allowed are 0..1"):
        list(Data("x", Squares(), Mislabelled(), (1,), 2).test_batches())
    with pytest.raises(BadInput, match="a batch must be a pair"):
        next(Data("x", Alone(), None, (1,), 2).batches(0, 2))


# --- IDX files -----------------------------------------------------------------------------------


def idx(array):
    header = bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.astype(np.uint8).tobytes()


def write_idx(directory, compress=False):
    generator = np.random.default_rng(0)
    arrays = {}
    for prefix, count in (("train", 12), ("t10k", 5)):
        arrays[prefix] = generator.integers(0, 256, (count, 4, 3)), np.arange(count) % 3
        for array, kind in zip(arrays[prefix], ("images-idx3", "labels-idx1"), strict=True):
            content = idx(array)
            name = f"{prefix}-{kind}-ubyte"
            if compress:
                (directory / f"{name}.gz").write_bytes(gzip.compress(content))
            else:
                (directory / name).write_bytes(content)
    return arrays


@pytest.mark.parametrize("compress", [False, True])
def test_idx_files_raw_or_gzipped(tmp_path, compress):
    arrays = write_idx(tmp_path, compress)
    data = resolve(tmp_path)
    test_inputs, test_targets = arrays_of(data.test)
    assert (data.shape, data.classes, len(test_targets)) == ((1, 4, 3), 3, 5)
    pixels = arrays["train"][0].astype(np.float64)
    expected = (arrays["t10k"][0] - pixels.mean()) / pixels.std()
    # float32: each of the handful of operations rounds to 2^-24 of numbers of size 2
    assert np.allclose(test_inputs.squeeze(1).numpy(), expected, atol=2e-6)
    assert (arrays_of(data.train)[1].numpy() == arrays["train"][1]).all()
    assert resolve(str(tmp_path)).name == tmp_path.name


def test_broken_idx_files_are_named(tmp_path):
    def broken(name, content, message):
        write_idx(tmp_path)
        (tmp_path / name).write_bytes(content)
        with pytest.raises(BadInput, match=message):
            resolve(tmp_path)

    images, labels = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
    good = idx(np.zeros((12, 4, 3)))
    broken(images, good[:-1], r"truncated or too long: it holds 143 .* promises 12 x 4 x 3")
    broken(images, good + b"x", "truncated or too long: it holds 145 values")
    broken(images, good[:9], "is truncated: it ends inside its header")
    broken(images, b"", "begins with , an IDX file of it 00000803")
    broken(images, idx(np.zeros(12)), "begins with 00000801, an IDX file of it 00000803")
    broken(images, idx(np.zeros((0, 4, 3))), "holds no train images or labels")
    broken(labels, idx(np.zeros(11)), r"\(train\): there are 12 inputs but 11 targets")
    broken(images, idx(np.zeros((12, 4, 3))), "144 of 144 input values are NaN")


def test_broken_gzip_files_are_named(tmp_path):
    write_idx(tmp_path, compress=True)
    path = tmp_path / "train-images-idx3-ubyte.gz"
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], b"not gzip at all", whole[:-6] + b"\0" * 6):
        path.write_bytes(content)
        with pytest.raises(BadInput, match=r"train-images-idx3-ubyte\.gz cannot be read"):
            resolve(tmp_path)


def test_corrupt_compressed_bytes_are_named(tmp_path):
    write_idx(tmp_path, compress=True)
    path = tmp_path / "train-images-idx3-ubyte.gz"
    content = bytearray(path.read_bytes())
    content[20:30] = b"\xff" * 10
    path.write_bytes(bytes(content))
    with pytest.raises(BadInput, match="cannot be read"):
        resolve(tmp_path)


def test_absent_idx_files_are_named(tmp_path):
    with pytest.raises(BadInput, match=r"neither train-images-idx3-ubyte nor .*\.gz"):
        resolve(tmp_path)


def test_fashion_mnist_says_which_package_is_missing(tmp_path, monkeypatch):
    monkeypatch.setattr(data_module, "FASHION_MNIST", tmp_path / "absent")
    with pytest.raises(BadInput, match="apt install dataset-fashion-mnist"):
        resolve("fashion-mnist")
    monkeypatch.setattr(data_module, "FASHION_MNIST", tmp_path)
    write_idx(tmp_path)
    assert resolve("fashion-mnist").classes == 3


@pytest.mark.skipif(not data_module.FASHION_MNIST.is_dir(), reason="the Debian package is absent")
def test_fashion_mnist_as_debian_ships_it():
    data = resolve("fashion-mnist")
    assert (data.name, data.shape, data.classes) == ("fashion-mnist", (1, 28, 28), 10)
    inputs, _ = arrays_of(data.train)
    assert inputs.shape == (60000, 1, 28, 28)
    assert torch.equal(torch.bincount(arrays_of(data.test)[1]), torch.full((10,), 1000))
    sample = inputs[::50].double()
    # 1200 images of 784 correlated pixels: treat an image as one number; 4 standard errors
    assert sample.square().mean().item() == pytest.approx(1, abs=4 * (2 / 1200) ** 0.5)
