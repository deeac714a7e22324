"""The multilabel experiment: a tiny run of both pipelines, and what each part of them promises."""

import math
import pickle
import pickletools

import numpy as np
import pandas as pd
import pytest
import torch
from foldcore_digits import closed_form_top_k, gradient_error
from foldcore_paper.errors import PaperError
from foldcore_paper.experiment import Workspace
from foldcore_paper.experiments.multilabel import MultilabelExperiment
from foldcore_paper.experiments.multilabel.agreement import random_problem, relative_difference
from foldcore_paper.experiments.multilabel.cifar import cifar_samples
from foldcore_paper.experiments.multilabel.cone import ConeProgram
from foldcore_paper.experiments.multilabel.methods import differentiable_top_k
from foldcore_paper.experiments.multilabel.networks import BoundedLogits, DenseNet, digits_network
from foldcore_paper.experiments.multilabel.samples import shifted_and_mirrored
from foldcore_paper.experiments.multilabel.tables import spread, to_reference
from foldcore_paper.experiments.multilabel.top_k import DirectTopK, black_box
from foldcore_paper.runner import run_experiment
from foldcore_paper.settings import Size, read_settings

EXPERIMENT = MultilabelExperiment()
TINY = read_settings(EXPERIMENT, Size.TINY)
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
ACCURACIES = [
    f"{split}_top_{rank}_percent" for split in ("train", "test") for rank in ("1", "k")
]  # fmt: skip
FINE, COARSE, PER_CLASS = 10, 2, 8


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Results and folder of a tiny run on digits."""
    folder = tmp_path_factory.mktemp("multilabel")
    return run_experiment(EXPERIMENT, TINY, folder), folder


@pytest.fixture(scope="module")
def agreement(run):
    results, _ = run
    return results[results["part"] == "agreement"]


@pytest.fixture(scope="module")
def training(run):
    results, _ = run
    return results[results["part"] == "training"]


# Fine labels in an order that mixes the coarse classes, as CIFAR's alphabetical one does.
COARSE_OF = np.array([1, 0, 0, 1, 1, 0, 1, 0, 1, 0])


def batch(per_class: int, first: int) -> dict[str, object]:
    """Images whose first pixel counts them and whose second is their fine label."""
    fine = np.tile(np.arange(FINE), per_class)
    generator = np.random.default_rng(first)
    data = generator.integers(0, 256, (len(fine), 3072), dtype=np.uint8)
    data[:, 0], data[:, 1] = first + np.arange(len(fine)), fine
    return {
        "data": data,
        "fine_labels": fine.tolist(),
        "coarse_labels": COARSE_OF[fine].tolist(),
        "filenames": [f"image_{i}.png" for i in range(len(fine))],
        "batch_label": "training batch 1 of 1",
    }


def python_2_pickle(content: object) -> bytes:
    """Pickle by protocol 2 with the opcode that Python 2 writes for its (byte) strings."""
    written = bytearray(pickle.dumps(content, protocol=2))
    for opcode, argument, position in pickletools.genops(bytes(written)):
        if opcode.name == "BINUNICODE" and argument.isascii():
            written[position : position + 1] = pickle.BINSTRING
    return bytes(written)


@pytest.fixture
def archive(tmp_path):
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    names = {
        "fine_label_names": [f"fine {i}" for i in range(FINE)],
        "coarse_label_names": [f"coarse {i}" for i in range(COARSE)],
    }
    for name, content in (
        ("train", batch(PER_CLASS, 0)), ("test", batch(2, 200)), ("meta", names),
    ):  # fmt: skip
        (folder / name).write_bytes(python_2_pickle(content))
    return folder


# Gradients


def test_gradients_agree_with_cvxpylayers(agreement):
    difference = agreement.set_index(["forward", "method", "detail"])["cvxpylayers_difference_max"]
    for forward in ("bisection", "cvxpy"):
        for method in ("f-PGDa", "f-SQP"):
            assert difference[forward, method, "inner qpth"] < 1e-4
            assert difference[forward, method, "inner osqp + newton"] < 1e-5
        assert difference[forward, "cvxpylayers", "lsqr"] == 0


def test_the_exact_derivative_is_that_of_the_fold(agreement):
    difference = agreement.set_index(["forward", "method", "detail"])["exact_difference_max"]
    for forward in ("bisection", "cvxpy"):
        for method in ("f-PGDa", "f-SQP"):
            assert difference[forward, method, "inner osqp + newton"] < 1e-12
            assert difference[forward, method, "inner qpth"] < 1e-7
        assert difference[forward, "cvxpylayers", "lsqr"] < 1e-5


def test_all_methods_share_one_forward_pass_bitwise(agreement):
    assert (agreement["value_difference"] == 0).all()
    tight = agreement[agreement["detail"].isin(["lsqr", "dense"])]
    assert (tight["cone_point_difference"] < 1e-7).all()


def test_the_direct_derivative_agrees_with_central_differences():
    c, _ = random_problem(TINY, 10)
    for k in (2, 5):
        x = closed_form_top_k(c, k, 0.7)
        exponent = c / 0.7 + (x.log() - c / 0.7).amax(-1, keepdim=True)
        away_from_kinks = c[exponent.abs().amin(-1) > 1e-2]
        assert len(away_from_kinks) > len(c) / 2
        solver = black_box("bisection", 10, k, 0.7, TINY.cone)
        direct = differentiable_top_k("direct", solver, 10, k, 0.7, inner="qpth", cone=TINY.cone)
        assert gradient_error(direct, away_from_kinks) < 1e-7


def test_a_wrong_active_set_is_found():
    """Planted fault: entries at 1 are taken for free ones."""
    c, cotangent = random_problem(TINY, 10)
    x = closed_form_top_k(c, 5, 1.0)
    assert bool((x == 1).any())
    found = []
    for free in (x < 1, torch.ones_like(x, dtype=torch.bool)):
        point = c.clone().requires_grad_()
        value = DirectTopK.apply(point, x, free, 1.0)
        found.append(torch.autograd.grad(value, point, cotangent)[0])
    assert relative_difference(found[1], found[0]).max() > 1e-2


def test_the_cone_program_is_the_concave_one():
    c, _ = random_problem(TINY, 10)
    for temperature in (0.5, 1.0):
        with torch.no_grad():
            x = ConeProgram(10, 3, temperature, TINY.cone)(c)
        assert torch.allclose(x, closed_form_top_k(c, 3, temperature), atol=1e-7, rtol=0)


# Training on digits


def test_the_methods_train_alike(training):
    assert set(training["method"]) == {"f-PGDa", "f-SQP", "cvxpylayers", "direct"}
    assert training["epoch"].max() == TINY.digits.epochs
    assert spread(training, ACCURACIES)[ACCURACIES].to_numpy().max() <= 0.5
    assert to_reference(training, ["loss"])["loss"].max() < 1e-5
    assert training["gradient_difference"].max() < 1e-5


def test_the_networks_learn(training):
    for _, rows in training.groupby("method"):
        first, last = rows.iloc[0], rows.iloc[-1]
        assert last["loss"] < first["loss"] - 0.1
        assert last["train_top_1_percent"] > 40
        # A blind guess of five classes is right for half of the samples.
        assert last["test_top_k_percent"] > 80
    assert (training["epoch_seconds"] > 0).all()


def test_a_method_with_wrong_gradients_would_be_told_apart(training):
    """Planted fault: one method trains with 1% too much on one epoch's accuracy."""
    changed = training.copy()
    changed.loc[changed.index[0], "train_top_1_percent"] += 1.0
    assert spread(changed, ACCURACIES)[ACCURACIES].to_numpy().max() == pytest.approx(1.0)


def test_figures_and_tables(run):
    results, folder = run
    for path in EXPERIMENT.draw(pd.read_csv(folder / "results.csv"), folder):
        content = path.read_bytes()
        assert content.startswith(PNG_SIGNATURE)
        assert 10_000 < len(content) < 150_000
    tables = EXPERIMENT.summarise(results)
    assert any("digits (no --data folder" in caption for caption in tables)
    assert all(len(table) for table in tables.values())


def test_a_resumed_training_is_the_uninterrupted_one(tmp_path, training):
    cell = next(c for c in EXPERIMENT.cells(TINY) if c.labels.get("method") == "f-SQP")
    workspace = Workspace(tmp_path / "checkpoint")
    part = TINY.model_copy(update={"digits": TINY.digits.model_copy(update={"epochs": 1})})
    assert len(EXPERIMENT.run(part, cell, workspace)) == 1
    resumed = pd.DataFrame(EXPERIMENT.run(TINY, cell, workspace))
    whole = training[training["method"] == "f-SQP"].reset_index(drop=True)
    columns = ["epoch", "loss", *ACCURACIES, "gradient_difference"]
    pd.testing.assert_frame_equal(
        resumed[columns], whole[columns], check_exact=True, check_dtype=False
    )


# CIFAR-100


def cifar_cells(folder, method):
    return [
        cell for cell in EXPERIMENT.cells_for(TINY, folder) if cell.labels.get("method") == method
    ]


def test_data_replaces_digits(archive):
    assert {cell.labels.get("data") for cell in EXPERIMENT.cells(TINY)} == {None, "digits"}
    assert {cell.labels.get("data") for cell in EXPERIMENT.cells_for(TINY, archive)} == {
        None, "cifar-100",
    }  # fmt: skip


def test_cifar_trains_alike_and_resumes_exactly(archive, tmp_path):
    rows = {}
    for method in TINY.methods:
        (cell,) = cifar_cells(archive, method)
        workspace = Workspace(tmp_path / method, archive)
        rows[method] = pd.DataFrame(EXPERIMENT.run(TINY, cell, workspace)).assign(**cell.labels)
    training = pd.concat(rows.values())
    columns = [*ACCURACIES, "official_test_top_1_percent", "official_test_top_k_percent"]
    assert spread(training, columns)[columns].to_numpy().max() == 0
    assert to_reference(training, ["loss"])["loss"].max() < 1e-5
    assert training["gradient_difference"].max() < 1e-5

    (cell,) = cifar_cells(archive, "direct")
    workspace = Workspace(tmp_path / "interrupted", archive)
    part = TINY.model_copy(update={"cifar": TINY.cifar.model_copy(update={"epochs": 1})})
    EXPERIMENT.run(part, cell, workspace)
    resumed = pd.DataFrame(EXPERIMENT.run(TINY, cell, workspace))
    compared = ["epoch", "loss", *columns]
    pd.testing.assert_frame_equal(resumed[compared], rows["direct"][compared], check_exact=True)


def test_the_archive_is_split_and_its_classes_are_grouped(archive):
    samples = cifar_samples(archive, TINY.cifar, seed=0, noise=0.0)
    assert samples.classes == FINE
    held_out, official = samples.tests["test"], samples.tests["official_test"]
    assert [len(part) for part in (samples.images, *held_out)] == [64, 16, 16]
    together = torch.cat([samples.images, held_out[0]])
    assert together.shape[1:] == (3, 32, 32)
    assert together[:, 0, 0, 0].sort().values.tolist() == list(range(FINE * PER_CLASS))
    assert sorted(official[0][:, 0, 0, 0].tolist()) == list(range(200, 220))
    number = {}
    for images, labels in ((samples.images, samples.labels), held_out, official):
        for fine, label in zip(images[:, 0, 0, 1].tolist(), labels.tolist(), strict=True):
            assert label // 5 == COARSE_OF[fine]
            assert number.setdefault(fine, label) == label
    assert sorted(number.values()) == list(range(FINE))


def test_noise_stays_within_the_coarse_class_and_off_the_test_sets(archive):
    clean, noisy = (cifar_samples(archive, TINY.cifar, 0, noise) for noise in (0.0, 1.0))
    assert torch.equal(clean.images, noisy.images)
    assert torch.equal(clean.labels // 5, noisy.labels // 5)
    changed = (clean.labels != noisy.labels).double().mean().item()
    assert changed == pytest.approx(0.8, abs=0.2)
    for name in clean.tests:
        assert torch.equal(clean.tests[name][1], noisy.tests[name][1])


def test_a_pickle_that_calls_something_is_refused(archive):
    class Planted:
        def __reduce__(self):
            return print, ("called",)

    (archive / "train").write_bytes(pickle.dumps({"data": Planted()}, protocol=2))
    with pytest.raises(PaperError, match=r"train is no pickled batch.*print"):
        cifar_samples(archive, TINY.cifar, 0, 0.2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fine_labels": None}, "no entry 'fine_labels'"),
        ({"data": np.zeros((80, 3072))}, "float64"),
        ({"data": np.zeros((80, 3071), dtype=np.uint8)}, "expected uint8"),
        ({"fine_labels": [FINE] * 80}, "numbers from 0 to 9"),
        ({"coarse_labels": [0] * 80}, "expected 5 each"),
    ],
)
def test_an_archive_that_is_not_cifar_is_refused(archive, change, message):
    content = {k: v for k, v in {**batch(PER_CLASS, 0), **change}.items() if v is not None}
    (archive / "train").write_bytes(python_2_pickle(content))
    with pytest.raises(PaperError, match=message):
        cifar_samples(archive, TINY.cifar, 0, 0.2)


def test_missing_data_is_an_error_that_says_what_to_do(archive):
    (cell,) = cifar_cells(archive, "direct")
    with pytest.raises(PaperError, match="--data"):
        EXPERIMENT.run(TINY, cell, Workspace(archive / "checkpoint"))
    (archive / "meta").unlink()
    with pytest.raises(PaperError, match=r"meta: no such file.*cifar-100-python"):
        cifar_samples(archive, TINY.cifar, 0, 0.2)
    with pytest.raises(PaperError, match="no such file"):
        cifar_samples(archive / "nowhere", TINY.cifar, 0, 0.2)


def test_too_many_training_samples_are_refused(archive):
    settings = TINY.cifar.model_copy(update={"train_size": 65})
    with pytest.raises(PaperError, match=r"cifar\.train_size"):
        cifar_samples(archive, settings, 0, 0.2)


def test_augmentation_shifts_and_mirrors_whole_images():
    images = torch.arange(1, 65, dtype=torch.uint8).reshape(1, 1, 8, 8).expand(400, 2, 8, 8)
    found = shifted_and_mirrored(images, torch.Generator().manual_seed(0), padding=1)
    padded = torch.nn.functional.pad(images[0, 0], (1, 1, 1, 1))
    allowed = [
        crop
        for row in range(3)
        for column in range(3)
        for plain in [padded[row : row + 8, column : column + 8]]
        for crop in (plain, plain.flip(-1))
    ]
    seen = [
        next(i for i, one in enumerate(allowed) if torch.equal(image[0], one)) for image in found
    ]
    assert torch.equal(found[:, 0], found[:, 1])
    assert set(seen) == set(range(18))
    # 400 of 18 equally likely outcomes: 22 each, standard deviation 4.6.
    assert max(np.bincount(seen)) < 22 + 5 * 4.6


# Networks


def test_densenet_has_the_published_size():
    """Huang et al. (2017), table 2: 0.8M for DenseNet-BC (L=100, k=12), 1.0M for DenseNet (40, 12)."""
    for depth, bottleneck, published in ((100, True, 769_162), (40, False, 1_019_722)):
        network = DenseNet(depth, 12, 10, bottleneck=bottleneck)
        assert sum(parameter.numel() for parameter in network.parameters()) == published
    with pytest.raises(ValueError, match="expected 6m \\+ 4"):
        DenseNet(12, 12, 10, bottleneck=True)


def test_logits_are_bounded_and_double_precision():
    logits = BoundedLogits(torch.nn.Identity(), 2.0)(torch.tensor([[1e4, 0.1, -1e4]]))
    assert logits.dtype == torch.float64
    expected = [2.0, 2 * math.tanh(0.05), -2.0]
    assert logits[0].tolist() == pytest.approx(expected, rel=1e-6)


def test_weights_follow_the_seed_and_leave_the_global_generator_alone():
    state = torch.random.get_rng_state()
    first, second, other = (digits_network(TINY.digits, 10, 2.0, seed) for seed in (1, 1, 2))
    assert torch.equal(state, torch.random.get_rng_state())
    for same, different, weight in zip(
        second.parameters(), other.parameters(), first.parameters(), strict=True
    ):
        assert torch.equal(weight, same)
        assert not torch.equal(weight, different)
