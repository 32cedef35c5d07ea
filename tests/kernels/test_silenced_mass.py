"""The share of the softmax that silencing takes out, against the plain formula; measuring it changes no loss."""

import pytest
import torch

from fastlt.kernels import NeighborSilencingHead, log_prior
from support.loss_cases import make_case

B, C, D = 33, 1500, 8


def formula(logits, labels, case):
    """Softmax with the prior, nobody silenced, summed over the neighbors [B]."""
    share = (logits.double() + log_prior(case.prior, torch.float64)).softmax(1)
    return (share * case.table.silenced(labels)).sum(1)


@pytest.mark.parametrize("impl", ["cpu", "reference"])
@pytest.mark.parametrize("memory_limit", [None, 0], ids=["whole", "sliced"])
@pytest.mark.parametrize("options", [{"lambda_s": 0.1, "label_smoothing": 0.1}, {"lambda_s": 1.0, "cosine_scale": 9.0}])
def test_agrees_with_the_formula(impl, memory_limit, options):
    case = make_case(B, C, 20_000)
    torch.manual_seed(0)
    head = NeighborSilencingHead(D, case.table, case.prior, impl=impl, memory_limit=memory_limit, **options)
    head.weight.data *= 50
    features = torch.randn(B, D)
    head(features, case.labels)
    assert head.silenced is None
    head.measures_silenced = True
    head(features, case.labels)
    labels, mass = head.silenced
    expected = formula(head(features), case.labels, case)
    assert labels is case.labels
    assert expected.max() > 0.05
    torch.testing.assert_close(mass.double(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("per_sample", [False, True])
def test_of_two_labels_it_is_that_with_more_weight(per_sample):
    case = make_case(B, C, 20_000)
    head = NeighborSilencingHead(D, case.table, case.prior)
    head.measures_silenced = True
    weights = torch.linspace(0, 1, B) if per_sample else torch.full((B,), 0.3)
    features = torch.randn(B, D)
    head(features, case.labels, case.mixed_labels, weights if per_sample else 0.3)
    labels, mass = head.silenced
    assert labels.equal(torch.where(weights < 0.5, case.mixed_labels, case.labels))
    torch.testing.assert_close(mass.double(), formula(head(features), labels, case), rtol=1e-4, atol=1e-5)


def test_losses_and_gradients_stay_to_the_bit():
    """Under autocast too, whose cache keeps what was cast without a gradient."""
    case = make_case(B, C, 20_000)
    found = []
    for measures in (False, True):
        torch.manual_seed(0)
        head = NeighborSilencingHead(D, case.table, case.prior)
        head.measures_silenced = measures
        features = torch.randn(B, D, requires_grad=True)
        with torch.autocast("cpu", torch.bfloat16):
            loss = head(features, case.labels)
        loss.backward()
        found.append((loss, features.grad, head.weight.grad, head.bias.grad))
    assert all(a.equal(b) for a, b in zip(*found, strict=True))


def test_alone_a_class_is_silenced_by_nobody():
    """Without neighbors there is no mass to silence."""
    case = make_case(4, 6, 0)
    head = NeighborSilencingHead(D, case.table, case.prior)
    head.measures_silenced = True
    head(torch.randn(4, D), case.labels)
    assert head.silenced[1].tolist() == [0, 0, 0, 0]
