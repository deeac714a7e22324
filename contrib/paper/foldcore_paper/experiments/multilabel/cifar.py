"""CIFAR-100 from the pickled batches of its authors: ``train``, ``test`` and ``meta``."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from foldcore_digits import resample_within_groups
from foldcore_digits.data import GROUP_SIZE
from sklearn.model_selection import train_test_split
from torch import Tensor

from ...errors import PaperError
from .samples import Samples
from .settings import CifarSettings

SHAPE = (3, 32, 32)
HELD_OUT, OFFICIAL = "test", "official_test"
"""The paper's test set, a share of ``train``, and the archive's own."""


@dataclass(frozen=True)
class Batch:
    """One pickled batch: images (N, 3, 32, 32) uint8; labels, fine and coarse, (N,) int64."""

    images: Tensor
    fine: Tensor
    coarse: Tensor


def cifar_samples(folder: Path, settings: CifarSettings, seed: int, noise: float) -> Samples:
    """Read the archive, split ``train`` and resample training labels within their coarse class.

    Invariant: classes are renumbered so that 5j .. 5j + 4 are the fine labels of coarse class j.

    Args:
        folder: Folder ``cifar-100-python``.
        settings: Share of test samples and number of training samples.
        seed: Decides split and noise.
        noise: Probability that a training label is drawn again.

    Raises:
        PaperError: If a file is missing, is not what it should be, or the samples do not suffice.
    """
    meta = _load(folder / "meta")
    sizes = (
        len(_entry(meta, "fine_label_names", folder / "meta")),
        len(_entry(meta, "coarse_label_names", folder / "meta")),
    )
    train, official = (_read_batch(folder / name, sizes) for name in ("train", "test"))
    number = _grouped_numbers(torch.cat([train.fine, official.fine]),
                              torch.cat([train.coarse, official.coarse]), sizes, folder)  # fmt: skip
    labels = number[train.fine]
    kept, held_out = _split(labels, settings, seed, folder)
    generator = torch.Generator().manual_seed(seed)
    return Samples(
        images=train.images[kept],
        labels=resample_within_groups(labels[kept], noise, generator),
        tests={
            HELD_OUT: (train.images[held_out], labels[held_out]),
            OFFICIAL: (official.images, number[official.fine]),
        },
        classes=sizes[0],
    )


class _ArrayUnpickler(pickle.Unpickler):
    """Loads numpy arrays and plain containers; refuses whatever else a pickle may call."""

    allowed = frozenset(
        {("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode")}
        | {
            (f"numpy.{core}.{module}", name)
            for core in ("core", "_core")
            for module, name in (("multiarray", "_reconstruct"), ("numeric", "_frombuffer"))
        }
    )

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.allowed:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no CIFAR batch needs")
        return super().find_class(module, name)


def _unpickle(file: BinaryIO) -> Any:
    # latin1: the archive was written by Python 2.
    return _ArrayUnpickler(file, encoding="latin1").load()


def _load(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise PaperError(
            f"{path}: no such file. --data names the folder cifar-100-python, with the files train, "
            f"test and meta of https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz."
        )
    try:
        with path.open("rb") as file:
            content = _unpickle(file)
    except (pickle.UnpicklingError, EOFError) as error:
        raise PaperError(f"{path} is no pickled batch of CIFAR-100: {error}.") from error
    if not isinstance(content, dict):
        raise PaperError(f"{path} holds a {type(content).__name__}; expected a dictionary.")
    return content


def _entry(content: dict[str, Any], name: str, path: Path) -> Any:
    if name not in content:
        raise PaperError(f"{path} has no entry {name!r}; it has {', '.join(map(str, content))}.")
    return content[name]


def _read_batch(path: Path, sizes: tuple[int, int]) -> Batch:
    content = _load(path)
    images = np.asarray(_entry(content, "data", path))
    pixels = int(np.prod(SHAPE))
    if images.dtype != np.uint8 or images.ndim != 2 or images.shape[1] != pixels:
        raise PaperError(
            f"{path}: data is {images.dtype} of shape {images.shape}; expected uint8 (N, {pixels})."
        )
    fine, coarse = (
        _labels(_entry(content, name, path), len(images), size, f"{path}: {name}")
        for name, size in zip(("fine_labels", "coarse_labels"), sizes, strict=True)
    )
    return Batch(torch.from_numpy(images.copy()).reshape(-1, *SHAPE), fine, coarse)


def _labels(values: Any, samples: int, size: int, subject: str) -> Tensor:
    labels = torch.as_tensor(np.asarray(values), dtype=torch.int64)
    if labels.shape != (samples,) or (
        samples and not 0 <= int(labels.min()) <= int(labels.max()) < size
    ):
        raise PaperError(f"{subject} are not {samples} numbers from 0 to {size - 1}.")
    return labels


def _grouped_numbers(fine: Tensor, coarse: Tensor, sizes: tuple[int, int], folder: Path) -> Tensor:
    """Return a number for each fine label that keeps those of one coarse class together."""
    pairs = torch.unique(torch.stack([coarse, fine], dim=-1), dim=0)
    members = torch.bincount(pairs[:, 0], minlength=sizes[1])
    if len(pairs) != sizes[0] or bool((members != GROUP_SIZE).any()):
        raise PaperError(
            f"{folder}: its samples show coarse classes of {members.tolist()} fine labels; expected "
            f"{GROUP_SIZE} each, and each fine label in one coarse class."
        )
    number = torch.empty(sizes[0], dtype=torch.int64)
    number[pairs[:, 1]] = torch.arange(sizes[0])
    return number


def _split(
    labels: Tensor, settings: CifarSettings, seed: int, folder: Path
) -> tuple[Tensor, Tensor]:
    """Split, every class in proportion. Returns indices of training and of test samples."""
    test_size = round(settings.test_share * len(labels))
    train_size = settings.train_size or len(labels) - test_size
    if train_size + test_size > len(labels):
        raise PaperError(
            f"{folder}/train holds {len(labels)} samples; train_size {train_size} and "
            f"{test_size} to test with are more. Lower cifar.train_size."
        )
    train, test = train_test_split(
        range(len(labels)), train_size=train_size, test_size=test_size, stratify=labels.numpy(),
        random_state=seed,
    )  # fmt: skip
    return torch.as_tensor(train), torch.as_tensor(test)
