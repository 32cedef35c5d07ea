"""The Triton kernel against the float64 reference, on the GPU or in the interpreter."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from cases import make_case
from fastlt.kernels import NeighborTable, neighbor_silencing_loss

pytest.importorskip("triton", reason="Triton is not installed")
pytestmark = pytest.mark.gpu_too

RAGGED = [(1, 1, 0), (3, 2, 1), (5, 17, 9), (4, 252, 60), (3, 1023, 100), (2, 1024, 300), (2, 2047, 2000)]
OPTIONS = [
    {},
    {"lambda_s": 0.0},
    {"lambda_s": 1.0},
    {"tau": 0.0},
    {"label_smoothing": 0.1},
    {"lambda_s": 0.0, "label_smoothing": 0.2, "tau": 1.05},
]


def loss_and_gradient(logits, case, impl, device, **options):
    z = logits.clone().to(device).requires_grad_()
    loss = neighbor_silencing_loss(
        z, case.labels.to(device), case.table.to(device), case.prior.to(device), reduction="none", impl=impl, **options
    )
    (loss * torch.linspace(0.5, 2.0, len(loss), device=device, dtype=loss.dtype)).sum().backward()
    return loss.detach().cpu().double(), z.grad.cpu().double()


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("interval", [False, True], ids=["pairs", "pairs+auxiliary"])
@pytest.mark.parametrize("shape", RAGGED, ids=str)
def test_agrees_with_float64(shape, interval, options, device):
    case = make_case(*shape, seed=sum(shape), interval=interval)
    inputs = case.logits.float()
    loss, gradient = loss_and_gradient(inputs, case, "triton", device, **options)
    expected, expected_gradient = loss_and_gradient(inputs.double(), case, "reference", "cpu", **options)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6 if options.get("label_smoothing") else 1e-30)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("lambda_s", [0.0, 0.1])
def test_extreme_logits(lambda_s, device):
    case = make_case(8, 300, 200, scale=80.0, seed=3)
    inputs = case.logits.float()
    loss, gradient = loss_and_gradient(inputs, case, "triton", device, lambda_s=lambda_s)
    expected, expected_gradient = loss_and_gradient(inputs.double(), case, "reference", "cpu", lambda_s=lambda_s)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-30)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-5, atol=1e-7)
    assert gradient.isfinite().all()


def dominated_by_neighbors(residual: float):
    """One sample of class 0 whose neighbors 1..63 hold all but `residual` of the softmax mass of 2,000 classes."""
    case = make_case(1, 2000, 0, seed=1)
    case.table = NeighborTable.from_pairs(2000, [(0, j) for j in range(1, 64)])
    case.labels = torch.zeros(1, dtype=torch.int64)
    case.prior = torch.ones(2000)
    logits = torch.zeros(1, 2000, dtype=torch.float64)
    logits[0, 1:64] += torch.log(torch.tensor((1 / residual) * 1937 / 63))
    return case, logits.float()


@pytest.mark.parametrize("lambda_s", [0.0, 1e-3, 0.1])
@pytest.mark.parametrize("residual", [1e-3, 1e-7, 2e-9])
@pytest.mark.parametrize("impl", ["triton", "reference"])
def test_neighbors_hold_almost_all_mass(lambda_s, residual, impl, device):
    case, logits = dominated_by_neighbors(residual)
    loss, gradient = loss_and_gradient(logits, case, impl, device, lambda_s=lambda_s)
    expected, expected_gradient = loss_and_gradient(logits.double(), case, "reference", "cpu", lambda_s=lambda_s)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=0.0)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-5, atol=1e-30)


def test_tiny_losses_keep_their_digits(device):
    """A sure and right sample's loss is near 1e-20: computed as a difference it would be 0 in float32."""
    case = make_case(1, 100, 0)
    case.labels, case.prior = torch.zeros(1, dtype=torch.int64), torch.ones(100)
    logits = torch.zeros(1, 100)
    logits[0, 0] = 50.0
    loss, gradient = loss_and_gradient(logits, case, "triton", device)
    expected, expected_gradient = loss_and_gradient(logits.double(), case, "reference", "cpu")
    assert 1e-21 < expected.item() < 1e-19
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=0.0)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-5, atol=0.0)


def test_label_far_above_all_others(device):
    """Losses below float32's range come out as 0, with a gradient of 0, and not as NaN."""
    case = make_case(2, 50, 0)
    logits = torch.full((2, 50), -80.0)
    logits[torch.arange(2), case.labels] = 80.0
    loss, gradient = loss_and_gradient(logits, case, "triton", device)
    assert (loss == 0).all()
    assert (gradient == 0).all()


def test_whole_blocks_silenced(device):
    """With lambda_s = 0, the first 1,024-class block holds nothing but silenced classes and the label."""
    case = make_case(1, 2100, 0)
    case.table = NeighborTable.from_pairs(2100, [(3, j) for j in range(2050) if j != 3])
    case.labels = torch.tensor([3])
    logits = case.logits.float()
    loss, gradient = loss_and_gradient(logits, case, "triton", device, lambda_s=0.0)
    expected, _ = loss_and_gradient(logits.double(), case, "reference", "cpu", lambda_s=0.0)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=0.0)
    assert (gradient[0, 4:2050] == 0).all()


def test_everything_else_silenced_costs_nothing(device):
    case = make_case(1, 40, 0)
    case.table = NeighborTable.from_pairs(40, [(0, j) for j in range(1, 40)])
    case.labels = torch.zeros(1, dtype=torch.int64)
    for impl in ("triton", "reference"):
        loss, gradient = loss_and_gradient(case.logits.float(), case, impl, device, lambda_s=0.0)
        assert loss.item() == 0.0
        assert (gradient == 0).all()


@pytest.mark.parametrize("impl", ["triton", "reference"])
def test_nan_stays_visible(impl, device):
    case = make_case(4, 70, 30)
    logits = case.logits.float()
    logits[1, 5] = float("nan")
    logits[2, case.labels[2]] = float("nan")
    loss, _ = loss_and_gradient(logits, case, impl, device, lambda_s=0.1)
    assert loss.isnan().tolist() == [False, True, True, False]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision_inputs(dtype, device):
    """Judged on the same rounded inputs: the loss is as good as in float32, the gradient is rounded once."""
    case = make_case(4, 500, 300, seed=5)
    inputs = case.logits.to(dtype)
    loss, gradient = loss_and_gradient(inputs, case, "triton", device)
    expected, expected_gradient = loss_and_gradient(inputs.double(), case, "reference", "cpu")
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=0.0)
    slack = torch.finfo(dtype)
    torch.testing.assert_close(gradient, expected_gradient, rtol=slack.eps, atol=slack.smallest_normal)


def test_mixed_labels_ignored_rows_and_strides(device):
    case = make_case(6, 90, 80, seed=9)
    case.labels[2] = -100
    wide = torch.zeros(6, 200).double()
    wide[:, :90] = case.logits
    wide[2, 7] = float("nan")
    weight = torch.linspace(0, 1, 6)
    results = []
    for dtype, impl, where in ((torch.float32, "triton", device), (torch.float64, "reference", "cpu")):
        z = wide.clone().to(where, dtype).requires_grad_()
        loss = neighbor_silencing_loss(
            z[:, :90], case.labels.to(where), case.table.to(where), case.prior.to(where),
            mixed_labels=case.mixed_labels.to(where), mixed_weight=weight.to(where), impl=impl,
        )  # fmt: skip
        loss.backward()
        results.append((loss.detach().cpu().double(), z.grad.cpu().double()))
    torch.testing.assert_close(results[0], results[1], rtol=1e-5, atol=1e-7)
    assert (results[0][1][2] == 0).all()
    assert (results[0][1][:, 90:] == 0).all()
