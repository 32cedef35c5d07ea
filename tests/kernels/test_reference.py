"""The reference against the formulas of the paper, written out with dense matrices in float64."""

import pytest
import torch
from torch.nn import functional as F

from fastlt.kernels import NeighborSilencingHead, NeighborTable, neighbor_silencing_loss
from support.loss_cases import Case, make_case


def dense_weights(case: Case, labels: torch.Tensor, lambda_s: float) -> torch.Tensor:
    """w, [B, C], from a dense C x C matrix as in the authors' code."""
    w = torch.ones(case.table.num_classes, case.table.num_classes, dtype=torch.float64)
    for y in range(case.table.num_classes):
        row = case.table.indices[case.table.indptr[y] : case.table.indptr[y + 1]]
        w[y, row] = lambda_s
        if y >= case.table.auxiliary_start:
            w[y, case.table.auxiliary_start :] = lambda_s
        w[y, y] = 1.0
    return w[labels]


def by_the_book(case: Case, labels, tau=1.0, lambda_s=0.1, label_smoothing=0.0) -> torch.Tensor:
    s = case.logits + tau * torch.log(case.prior.double() / case.prior.sum())
    w = dense_weights(case, labels, lambda_s)
    log_p = s - torch.log((w * s.exp()).sum(dim=1, keepdim=True))
    free = dense_weights(case, labels, 1.0 if lambda_s == 1 else 0.0)
    q = label_smoothing * free / free.sum(dim=1, keepdim=True)
    q[torch.arange(len(labels)), labels] += 1 - label_smoothing
    return -(q * log_p).sum(dim=1)


@pytest.fixture(params=[False, True], ids=["pairs", "pairs+auxiliary"])
def case(request) -> Case:
    return make_case(7, 40, 90, interval=request.param)


@pytest.mark.parametrize("lambda_s", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("tau", [0.0, 1.0, 1.05])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_is_the_formula(case, lambda_s, tau, label_smoothing):
    options = {"tau": tau, "lambda_s": lambda_s, "label_smoothing": label_smoothing}
    loss = neighbor_silencing_loss(case.logits, case.labels, case.table, case.prior, reduction="none", **options)
    torch.testing.assert_close(loss, by_the_book(case, case.labels, **options), rtol=1e-12, atol=1e-12)


def test_lambda_one_is_balanced_softmax_and_tau_zero_cross_entropy(case):
    prior = torch.log(case.prior.double() / case.prior.sum())
    loss = neighbor_silencing_loss(case.logits, case.labels, case.table, case.prior, lambda_s=1.0)
    balanced = F.cross_entropy(case.logits + prior, case.labels)
    torch.testing.assert_close(loss, balanced, rtol=1e-12, atol=1e-12)
    loss = neighbor_silencing_loss(
        case.logits, case.labels, case.table, case.prior, tau=0.0, lambda_s=1.0, label_smoothing=0.1
    )
    smoothed = F.cross_entropy(case.logits, case.labels, label_smoothing=0.1)
    torch.testing.assert_close(loss, smoothed, rtol=1e-12, atol=1e-12)


def test_lambda_zero_is_the_hard_mask(case):
    s = case.logits + torch.log(case.prior.double() / case.prior.sum())
    masked = s.masked_fill(case.table.silenced(case.labels), -torch.inf)
    loss = neighbor_silencing_loss(case.logits, case.labels, case.table, case.prior, lambda_s=0.0)
    torch.testing.assert_close(loss, F.cross_entropy(masked, case.labels), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("lambda_s", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
@pytest.mark.parametrize("interval", [False, True], ids=["pairs", "pairs+auxiliary"])
def test_gradcheck(interval, lambda_s, label_smoothing):
    case = make_case(3, 12, 20, interval=interval)
    weight = torch.rand(3, dtype=torch.float64)

    def loss(z):
        return neighbor_silencing_loss(
            z, case.labels, case.table, case.prior, lambda_s=lambda_s, label_smoothing=label_smoothing,
            mixed_labels=case.mixed_labels, mixed_weight=weight, reduction="none",
        )  # fmt: skip

    assert torch.autograd.gradcheck(loss, case.logits.clone().requires_grad_())


def test_each_mixed_label_has_its_own_denominator(case):
    options = {"lambda_s": 0.0}
    loss = neighbor_silencing_loss(
        case.logits, case.labels, case.table, case.prior,
        mixed_labels=case.mixed_labels, mixed_weight=0.3, reduction="none", **options,
    )  # fmt: skip
    expected = 0.3 * by_the_book(case, case.labels, **options) + 0.7 * by_the_book(case, case.mixed_labels, **options)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)
    assert (loss >= 0).all()


def test_ignored_rows_count_nothing(case):
    labels = case.labels.clone()
    labels[[1, 4]] = -100
    logits = case.logits.clone()
    logits[1] = float("nan")
    logits.requires_grad_()
    keep = labels != -100
    loss = neighbor_silencing_loss(logits, labels, case.table, case.prior)
    kept = neighbor_silencing_loss(case.logits[keep], labels[keep], case.table, case.prior)
    torch.testing.assert_close(loss, kept)
    loss.backward()
    assert (logits.grad[~keep] == 0).all()
    assert logits.grad.isfinite().all()


def test_nothing_to_learn_gives_zero(case):
    nobody = torch.full((7,), -100)
    assert neighbor_silencing_loss(case.logits, nobody, case.table) == 0
    assert neighbor_silencing_loss(case.logits[:0], nobody[:0], case.table) == 0


def test_float32_stays_within_1e5_of_float64():
    case = make_case(64, 500, 400, scale=80.0, seed=4)
    inputs = case.logits.float()
    for lambda_s in (0.0, 0.1):
        loss, expected = (
            neighbor_silencing_loss(z, case.labels, case.table, case.prior, lambda_s=lambda_s, reduction="none")
            for z in (inputs, inputs.double())
        )
        torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-30)


def test_head_learns_and_predicts_with_the_same_weight():
    table = NeighborTable.from_pairs(5, [(0, 3), (1, 4)])
    counts = torch.tensor([9, 5, 2, 4, 4])
    head = NeighborSilencingHead(8, table, counts, label_smoothing=0.1, feature_norm=True)
    features, labels = torch.randn(6, 8), torch.tensor([0, 1, 2, 3, 4, 0])
    loss = head(features, labels)
    logits = head(features)
    torch.testing.assert_close(loss, neighbor_silencing_loss(logits, labels, table, counts, label_smoothing=0.1))
    loss.backward()
    assert head.weight.grad.abs().sum() > 0
    assert set(head.state_dict()) == {
        "weight",
        "bias",
        "norm.running_mean",
        "norm.running_var",
        "norm.num_batches_tracked",
    }
    assert head.bfloat16().loss.objective.logit_bias.dtype == torch.float32


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"logits": torch.zeros(7, 39)}, "built for 40 classes, the logits have 39"),
        ({"labels": torch.full((7,), 40)}, "holds 40, outside the label space 0..39"),
        ({"labels": torch.full((7,), -1)}, "holds -1, outside the label space"),
        ({"labels": torch.zeros(7)}, "labels must be int64"),
        ({"mixed_labels": torch.zeros(7, dtype=torch.int64)}, "go together"),
        ({"prior": torch.ones(39)}, r"prior must have shape \[40\]"),
        ({"prior": torch.zeros(40)}, "prior must be positive"),
        ({"lambda_s": 1.5}, r"lambda_s must lie in \[0, 1\], got 1.5"),
        ({"tau": -1.0}, "tau must be at least 0"),
        ({"label_smoothing": 1.0}, "label_smoothing must lie"),
        ({"reduction": "average"}, "reduction must be"),
        ({"impl": "cuda"}, "impl must be"),
    ],
)
def test_bad_input_is_told_in_one_sentence(change, sentence):
    case = make_case(7, 40, 90)
    arguments = {"logits": case.logits, "labels": case.labels, "table": case.table} | change
    with pytest.raises(ValueError, match=sentence):
        neighbor_silencing_loss(**arguments)


def test_soft_labels_are_told_which_arguments_to_use():
    """timm's Mixup gives the loss one row of class weights a sample."""
    head = NeighborSilencingHead(4, NeighborTable.from_pairs(5, [(0, 3)]))
    soft = torch.full((2, 5), 0.2)
    with pytest.raises(ValueError, match=r"labels are soft, torch.float32 \[2, 5\].*mixed_labels, mixed_weight"):
        head(torch.randn(2, 4), soft)
