import pytest
import torch
from foldcore_digits import load_digits, resample_within_groups


def test_every_digit_is_used_once_and_classes_are_in_proportion():
    digits = load_digits(0)
    assert len(digits.train_labels) == 1437
    assert len(digits.test_labels) == 360
    everything = torch.cat([digits.train_images, digits.test_images])
    reference = load_digits(1)
    again = torch.cat([reference.train_images, reference.test_images])
    assert torch.equal(everything.sum(-1).sort().values, again.sum(-1).sort().values)
    counts = torch.bincount(digits.test_labels, minlength=10)
    assert counts.min() >= 34
    assert counts.max() <= 38


def test_images_are_scaled():
    digits = load_digits(0)
    assert digits.train_images.dtype == torch.float32
    assert digits.train_images.min() == 0
    assert digits.train_images.max() == 1


def test_the_split_and_the_noise_follow_the_seed():
    first, second, other = load_digits(3), load_digits(3), load_digits(4)
    assert torch.equal(first.train_images, second.train_images)
    assert torch.equal(first.train_labels, second.train_labels)
    assert not torch.equal(first.train_labels, other.train_labels)


def test_noise_stays_within_its_group_and_has_its_rate():
    labels = torch.arange(10).repeat(10_000)
    noisy = resample_within_groups(labels, 0.3, torch.Generator().manual_seed(0))
    assert torch.equal(noisy // 5, labels // 5)
    # 0.3·4/5 of the labels change; the standard deviation of the share is 0.0014.
    assert (noisy != labels).double().mean().item() == pytest.approx(0.24, abs=0.006)
    changed_to = torch.bincount(noisy[(noisy != labels) & (labels == 7)], minlength=10)
    assert changed_to[7] == 0
    assert changed_to[[5, 6, 8, 9]].min() > 500


def test_test_labels_and_clean_labels_carry_no_noise():
    noisy, clean = load_digits(0), load_digits(0, noise=0.0)
    assert torch.equal(noisy.test_labels, clean.test_labels)
    assert torch.equal(noisy.train_clean_labels, clean.train_labels)
    assert not torch.equal(noisy.train_labels, clean.train_labels)
