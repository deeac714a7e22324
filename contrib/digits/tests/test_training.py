import pytest
import torch
from foldcore_digits import (
    BoundedNetwork,
    SoftmaxLoss,
    TopKLoss,
    TrainingConfig,
    closed_form_top_k,
    load_digits,
    train,
)
from foldcore_digits.training import evaluate


def test_logits_are_bounded_and_double_precision():
    logits = BoundedNetwork(0)(1e4 * torch.rand(8, 64))
    assert logits.dtype == torch.float64
    assert logits.abs().max() <= 2.0
    assert logits.abs().max() > 1.99


def test_weights_follow_the_seed_and_leave_the_global_generator_alone():
    state = torch.random.get_rng_state()
    first, second, other = BoundedNetwork(1), BoundedNetwork(1), BoundedNetwork(2)
    assert torch.equal(state, torch.random.get_rng_state())
    assert torch.equal(first.hidden.weight, second.hidden.weight)
    assert not torch.equal(first.hidden.weight, other.hidden.weight)
    assert bool((first.output.weight != 0).all())


def test_top_k_loss_costs_nothing_for_a_label_that_is_surely_chosen():
    logits = torch.tensor([[2.0, 0.0, -2.0, -2.0]], dtype=torch.float64)
    loss = TopKLoss(lambda c: closed_form_top_k(c, 2, 1.0))
    assert loss(logits, torch.tensor([0])).item() == 0.0
    # One unit is left for the others: x₁ = 1/(1 + 2exp(-2)).
    expected = torch.log1p(2 * torch.exp(torch.tensor(-2.0, dtype=torch.float64)))
    assert loss(logits, torch.tensor([1])).item() == pytest.approx(expected.item(), rel=1e-14)


def test_accuracies_count_the_true_labels():
    class Fixed(torch.nn.Module):
        def forward(self, images):
            return torch.tensor([[0.1, 0.9, 0.5], [0.8, 0.7, 0.1], [0.2, 0.3, 0.4], [3, 2, 1.0]])

    digits = load_digits(0)
    fields = {**vars(digits), "test_labels": torch.tensor([1, 1, 0, 2])}
    assert evaluate(Fixed(), type(digits)(**fields), 2) == (0.25, 0.5)


def test_progress_is_told_of_every_step():
    digits = load_digits(0, train_size=100)
    config = TrainingConfig(epochs=3, batch_size=32)
    steps = []
    records = train(BoundedNetwork(0), SoftmaxLoss(), digits, config, lambda: steps.append(1))
    assert len(steps) == config.steps(100) == 12
    assert len(records) == 3
    assert records[-1].loss < records[0].loss
