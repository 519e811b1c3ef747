"""Real data, as batches that depend on a seed and a step only. Downloads nothing."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from collections.abc import Iterator, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from sigprop.errors import BadInput, suggestion
from sigprop.inputs.batching import Batch, Source, check, check_length, describe, endless, in_order

#: Where Debian's package dataset-fashion-mnist puts its files.
FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")


@dataclass(frozen=True, eq=False, repr=False)  # tensors neither compare nor print well
class Data:
    """A classification task.

    Attributes:
        name: how tables call it.
        train: (inputs, targets) tensors, a map-style Dataset of such pairs, or a DataLoader.
        test: the same, or None; evaluated whole and in order.
        shape: of one input.
        classes: number of classes; targets are whole numbers 0..classes-1.

    Raises:
        BadInput: a split of tensors is empty, of unequal lengths, holds NaN or infinity, or a
            label out of range. Batches of Datasets and DataLoaders are checked as they come.
    """

    name: str
    train: Source
    test: Source | None
    shape: tuple[int, ...]
    classes: int

    def __post_init__(self) -> None:
        for split, source in (("train", self.train), ("test", self.test)):
            if isinstance(source, tuple):
                check(source, f"{self.name} ({split})", self.classes)
            elif source is not None:
                check_length(source, f"{self.name} ({split})")

    def __repr__(self) -> str:
        splits = (("train", self.train), ("test", self.test))
        kinds = (f"{split}: {describe(source)}" for split, source in splits)
        return f"Data({self.name!r}, {', '.join(kinds)}, {self.shape}, {self.classes} classes)"

    def batches(self, seed: int, batch_size: int, start: int = 0) -> Iterator[Batch]:
        """Yield training batches without end, from step ``start`` on.

        Batch k is a function of (seed, batch_size, k): the order of each epoch is drawn from (seed,
        epoch), so that starting late replays nothing, and torch's global generator is left as it
        was. An epoch has N // batch_size whole batches; the rest waits for another epoch.
        A DataLoader keeps its own batch size and sampler; starting late skips batches of one epoch.

        Args:
            seed: of the order, and of random transforms that use torch's generator.
            batch_size: samples per batch; all N when there are fewer.
            start: index of the first batch to yield.

        Returns:
            An iterator of (inputs (B, *shape), targets (B,)).

        Raises:
            BadInput: batch_size < 1 or start < 0, or a lazily loaded batch is unusable.
        """
        if batch_size < 1 or start < 0:
            raise BadInput(
                f"batch_size must be at least 1 and start at least 0, got {batch_size} and {start}"
            )
        return self._checked(self.train, endless(self.train, seed, batch_size, start))

    def test_batches(self, batch_size: int = 256) -> Iterator[Batch]:
        """Yield the test split once, in order, the last batch shorter; nothing without a split.

        Returns:
            An iterator over batches.
        """
        if self.test is None:
            return iter(())
        return self._checked(self.test, in_order(self.test, batch_size))

    def _checked(self, source: Source, batches: Iterator[Batch]) -> Iterator[Batch]:
        if isinstance(source, tuple):  # checked once and for all
            return batches
        return (check(batch, self.name, self.classes) for batch in batches)


def resolve(spec: object, seed: int = 0) -> Data:
    """Return what ``spec`` stands for as `Data`.

    ======================================  =====================================================
    ``"digits"``                            scikit-learn's bundled 8x8 digits, (1, 8, 8), split
                                            80/20 by class with ``seed``
    ``"fashion-mnist"``                     the files of Debian's package dataset-fashion-mnist
    a directory                             the four IDX files of MNIST's format, raw or gzipped
    ``(inputs, targets)``                   tensors or arrays, all for training
    a Dataset or a DataLoader               of (input, target) pairs, all for training
    ``(train, test)``                       two of such pairs, Datasets or DataLoaders
    a `Data`                                itself
    ======================================  =====================================================

    Images that are read here are standardized with one mean and one standard deviation, those of
    the training split; what a user gives is left as it is.

    Args:
        spec: a name, a pair of splits, one split, or a `Data`.
        seed: of the split into training and test samples.

    Raises:
        BadInput: nothing has that name, files are absent or broken, or values are unusable.

    Example:
        >>> data = resolve("digits")
        >>> data.shape, data.classes, len(data.train[0]), len(data.test[0])
        ((1, 8, 8), 10, 1437, 360)
    """
    if isinstance(spec, Data):
        return spec
    if isinstance(spec, str | Path):
        return _named(spec, seed)
    if isinstance(spec, tuple | list) and len(spec) == 2:
        if isinstance(spec[0], Tensor | np.ndarray):
            return _given(_tensors(spec), None)
        return _given(*(_tensors(part) for part in spec))
    return _given(_tensors(spec), None)


def _named(spec: str | Path, seed: int) -> Data:
    if spec == "digits":
        return _digits(seed)
    if spec == "fashion-mnist":
        if not FASHION_MNIST.is_dir():
            raise BadInput(
                f"there is no {FASHION_MNIST}; install Debian's package dataset-fashion-mnist "
                "(apt install dataset-fashion-mnist), or give a directory with the IDX files"
            )
        return _idx_directory(FASHION_MNIST)
    if Path(spec).is_dir():
        return _idx_directory(Path(spec))
    raise BadInput(
        f"no data set or directory is called {str(spec)!r}; "
        f"{suggestion(str(spec), ['digits', 'fashion-mnist'])}"
    )


def _digits(seed: int) -> Data:
    # imported here: scikit-learn takes a second to load, and only this data set needs it
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    halves = train_test_split(
        digits.images, digits.target, test_size=0.2, stratify=digits.target, random_state=seed
    )
    train, test, labels, test_labels = (torch.from_numpy(half) for half in halves)
    return _images("digits", (train, labels), (test, test_labels))


def _images(name: str, train: Batch, test: Batch) -> Data:
    """Return images (N, H, W) of any dtype as standardized float images (N, 1, H, W)."""
    pixels = train[0].float()
    std, mean = torch.std_mean(pixels, correction=0)

    def standardize(images: Tensor) -> Tensor:
        return images.float().sub(mean).div_(std).unsqueeze(1)

    return Data(
        name,
        (standardize(train[0]), train[1].long()),
        (standardize(test[0]), test[1].long()),
        (1, *train[0].shape[1:]),
        int(train[1].max()) + 1,
    )


def _idx_directory(directory: Path) -> Data:
    splits = []
    for prefix in ("train", "t10k"):
        images = _read_idx(directory, f"{prefix}-images-idx3-ubyte", axes=3)
        labels = _read_idx(directory, f"{prefix}-labels-idx1-ubyte", axes=1)
        if not len(images) or not len(labels):
            raise BadInput(f"{directory} holds no {prefix} images or labels")
        splits.append((images, labels))
    return _images(directory.name, *splits)


def _read_idx(directory: Path, stem: str, axes: int) -> Tensor:
    """Return the bytes of an IDX file as a uint8 tensor.

    Layout: two zero bytes, 8 (unsigned bytes), the number of axes, one big-endian 32-bit size per
    axis, then the values (http://yann.lecun.com/exdb/mnist).

    Raises:
        BadInput: the file is not in the format, or shorter than its header promises.
    """
    path = next((p for p in (directory / stem, directory / f"{stem}.gz") if p.is_file()), None)
    if path is None:
        raise BadInput(f"{directory} holds neither {stem} nor {stem}.gz")
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise BadInput(f"{path} cannot be read: {error}") from None
    header = 4 + 4 * axes
    magic = bytes((0, 0, 8, axes))
    if content[:4] != magic:
        raise BadInput(f"{path} begins with {content[:4].hex()}, an IDX file of it {magic.hex()}")
    if len(content) < header:
        raise BadInput(f"{path} is truncated: it ends inside its header")
    sizes = struct.unpack(f">{axes}I", content[4:header])
    if len(content) - header != math.prod(sizes):
        raise BadInput(
            f"{path} is truncated or too long: it holds {len(content) - header} values, "
            f"its header promises {' x '.join(map(str, sizes))}"
        )
    return torch.from_numpy(np.frombuffer(content, np.uint8, offset=header).reshape(sizes).copy())


def _tensors(source: Any) -> Source:
    """Return a user's split as tensors where possible, else as the Dataset or DataLoader it is.

    Raises:
        BadInput: it is no pair of tensors, Dataset or DataLoader.
    """
    if isinstance(source, TensorDataset) and len(source.tensors) == 2:
        source = source.tensors
    if isinstance(source, tuple | list) and len(source) == 2:
        inputs, targets = (_tensor(part) for part in source)
        return inputs, targets
    if isinstance(source, IterableDataset):
        raise BadInput("an IterableDataset has no order to draw from; wrap it in a DataLoader")
    if isinstance(source, DataLoader | Dataset):
        return source
    raise BadInput(
        f"cannot read data from {type(source).__name__}; give (inputs, targets), a Dataset, "
        "a DataLoader, a pair of them for training and test, a directory, or a name"
    )


def _tensor(part: object) -> Tensor:
    if isinstance(part, np.ndarray):
        tensor = torch.from_numpy(part)
        # NumPy computes in float64 unless told otherwise; models seldom do
        return tensor.to(torch.get_default_dtype()) if tensor.is_floating_point() else tensor
    if isinstance(part, Tensor):
        return part
    raise BadInput(f"inputs and targets must be tensors or arrays, got {type(part).__name__}")


def _given(train: Source, test: Source | None) -> Data:
    check_length(train, "the data")
    classes = _count_classes(train)
    inputs, _ = next(endless(train, seed=0, batch_size=1))
    return Data("custom", train, test, tuple(inputs.shape[1:]), classes)


def _count_classes(source: Source) -> int:
    """Return the number of classes, without reading every sample of a Dataset.

    Raises:
        BadInput: the number of classes cannot be found.
    """
    if isinstance(source, tuple):
        return int(check(source, "the data")[1].max()) + 1
    dataset = source.dataset if isinstance(source, DataLoader) else source
    if isinstance(dataset, TensorDataset):
        return int(dataset.tensors[1].max()) + 1
    classes = getattr(dataset, "classes", None)
    if isinstance(classes, Sized):
        return len(classes)
    targets = getattr(dataset, "targets", None)
    if targets is not None:
        return int(torch.as_tensor(targets).max()) + 1
    raise BadInput(
        f"cannot find the number of classes of {type(dataset).__name__}: it has neither `classes` "
        "nor `targets`; give sigprop.inputs.datasets.Data(name, train, test, shape, classes)"
    )
