"""The fused kernels against the float64 reference: Triton's on the GPU or in the interpreter, numba's on the CPU."""

import os
import subprocess
import sys
from itertools import pairwise

import pytest
import torch
from torch.nn import functional as F

from fastlt.kernels import NeighborTable, linear_neighbor_silencing_loss, neighbor_silencing_loss
from support.loss_cases import loss_and_gradient, make_case

pytestmark = pytest.mark.medium

FUSED = [
    pytest.param("triton", marks=pytest.mark.gpu_too),
    "cpu",
]
EVERY = [*FUSED, "reference"]

RAGGED = [(1, 1, 0), (3, 2, 1), (5, 17, 9), (4, 252, 60), (3, 1023, 100), (2, 1024, 300), (2, 2047, 2000)]
OPTIONS = [
    {},
    {"lambda_s": 0.0},
    {"lambda_s": 1.0},
    {"tau": 0.0},
    {"label_smoothing": 0.1},
    {"lambda_s": 0.0, "label_smoothing": 0.2, "tau": 1.05},
]


@pytest.fixture
def device(impl: str, device: torch.device) -> torch.device:
    """Where the implementation of the test runs."""
    return device if impl == "triton" else torch.device("cpu")


@pytest.mark.parametrize("impl", FUSED)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("interval", [False, True], ids=["pairs", "pairs+auxiliary"])
@pytest.mark.parametrize("shape", RAGGED, ids=str)
def test_agrees_with_float64(shape, interval, options, impl, device):
    case = make_case(*shape, seed=sum(shape), interval=interval)
    inputs = case.logits.float()
    loss, gradient = loss_and_gradient(inputs, case, impl, device, **options)
    expected, expected_gradient = loss_and_gradient(inputs.double(), case, "reference", "cpu", **options)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6 if options.get("label_smoothing") else 1e-30)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("impl", FUSED)
@pytest.mark.parametrize("mixed", [False, True], ids=["one label", "two labels"])
@pytest.mark.parametrize("options", [{}, {"lambda_s": 0.0}, {"label_smoothing": 0.1}], ids=str)
def test_strengths_agree_with_float64(options, mixed, impl, device):
    case = make_case(3, 1023, 300, seed=2, interval=True, strengths=True)
    assert case.table.strengths is not None
    other = {"mixed_labels": case.mixed_labels, "mixed_weight": 0.3} if mixed else {}
    inputs = case.logits.float()
    on_device = {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in other.items()}
    loss, gradient = loss_and_gradient(inputs, case, impl, device, **on_device, **options)
    expected, expected_gradient = loss_and_gradient(inputs.double(), case, "reference", "cpu", **other, **options)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6 if options.get("label_smoothing") else 1e-30)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-5, atol=1e-6 if mixed else 1e-7)


@pytest.mark.parametrize("impl", FUSED)
@pytest.mark.parametrize("lambda_s", [0.0, 0.1])
def test_extreme_logits(lambda_s, impl, device):
    case = make_case(8, 300, 200, scale=80.0, seed=3)
    inputs = case.logits.float()
    loss, gradient = loss_and_gradient(inputs, case, impl, device, lambda_s=lambda_s)
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
@pytest.mark.parametrize("impl", EVERY)
def test_neighbors_hold_almost_all_mass(lambda_s, residual, impl, device):
    case, logits = dominated_by_neighbors(residual)
    loss, gradient = loss_and_gradient(logits, case, impl, device, lambda_s=lambda_s)
    expected, expected_gradient = loss_and_gradient(logits.double(), case, "reference", "cpu", lambda_s=lambda_s)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=0.0)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-5, atol=1e-30)


@pytest.mark.parametrize("impl", FUSED)
def test_tiny_losses_keep_their_digits(impl, device):
    """A sure and right sample's loss is near 1e-20: computed as a difference it would be 0 in float32."""
    case = make_case(1, 100, 0)
    case.labels, case.prior = torch.zeros(1, dtype=torch.int64), torch.ones(100)
    logits = torch.zeros(1, 100)
    logits[0, 0] = 50.0
    loss, gradient = loss_and_gradient(logits, case, impl, device)
    expected, expected_gradient = loss_and_gradient(logits.double(), case, "reference", "cpu")
    assert 1e-21 < expected.item() < 1e-19
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=0.0)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-5, atol=0.0)


@pytest.mark.parametrize("impl", FUSED)
def test_label_far_above_all_others(impl, device):
    """Losses below float32's range come out as 0, with a gradient of 0, and not as NaN."""
    case = make_case(2, 50, 0)
    logits = torch.full((2, 50), -80.0)
    logits[torch.arange(2), case.labels] = 80.0
    loss, gradient = loss_and_gradient(logits, case, impl, device)
    assert (loss == 0).all()
    assert (gradient == 0).all()


@pytest.mark.parametrize("impl", FUSED)
def test_whole_blocks_silenced(impl, device):
    """With lambda_s = 0, the first 1,024-class block holds nothing but silenced classes and the label."""
    case = make_case(1, 2100, 0)
    case.table = NeighborTable.from_pairs(2100, [(3, j) for j in range(2050) if j != 3])
    case.labels = torch.tensor([3])
    logits = case.logits.float()
    loss, gradient = loss_and_gradient(logits, case, impl, device, lambda_s=0.0)
    expected, _ = loss_and_gradient(logits.double(), case, "reference", "cpu", lambda_s=0.0)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=0.0)
    assert (gradient[0, 4:2050] == 0).all()


@pytest.mark.parametrize("impl", FUSED)
@pytest.mark.parametrize("num_classes", [40, 20_003])
def test_everything_else_silenced_costs_nothing(num_classes, impl, device):
    case = make_case(1, num_classes, 0)
    listed = [(0, j) for j in range(1, 40)]
    case.table = NeighborTable.from_pairs(num_classes, listed, auxiliary_start=None if num_classes == 40 else 0)
    case.labels = torch.zeros(1, dtype=torch.int64)
    loss, gradient = loss_and_gradient(case.logits.float(), case, impl, device, lambda_s=0.0)
    assert loss.item() == 0.0
    assert (gradient == 0).all()


@pytest.mark.parametrize("impl", EVERY)
def test_nan_stays_visible(impl, device):
    case = make_case(4, 70, 30)
    logits = case.logits.float()
    logits[1, 5] = float("nan")
    logits[2, case.labels[2]] = float("nan")
    loss, _ = loss_and_gradient(logits, case, impl, device, lambda_s=0.1)
    assert loss.isnan().tolist() == [False, True, True, False]


LOW_PRECISION = [
    pytest.param("triton", torch.float16, marks=pytest.mark.gpu_too),
    pytest.param("triton", torch.bfloat16, marks=pytest.mark.gpu_too),
    ("cpu", torch.bfloat16),
]


@pytest.mark.parametrize(("impl", "dtype"), LOW_PRECISION)
def test_low_precision_inputs(impl, dtype, device):
    """Judged on the same rounded inputs: the loss is as good as in float32, the gradient is rounded once."""
    case = make_case(4, 500, 300, seed=5)
    inputs = case.logits.to(dtype)
    loss, gradient = loss_and_gradient(inputs, case, impl, device)
    expected, expected_gradient = loss_and_gradient(inputs.double(), case, "reference", "cpu")
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=0.0)
    slack = torch.finfo(dtype)
    torch.testing.assert_close(gradient, expected_gradient, rtol=slack.eps, atol=slack.smallest_normal)


@pytest.mark.parametrize(("impl", "dtype"), LOW_PRECISION)
def test_no_farther_from_float64_than_twice_torchs_own(impl, dtype, device):
    """Plain cross-entropy, which torch has too, on the same rounded logits."""
    if impl == "triton" and dtype == torch.bfloat16 and device.type == "cpu":
        pytest.skip("Triton's interpreter truncates to bfloat16 where a GPU rounds")
    case = make_case(8, 1000, 0, scale=5.0, seed=6)
    inputs = case.logits.to(dtype)

    def cross_entropy(logits, loss):
        z = logits.detach().clone().requires_grad_()
        value = loss(z)
        value.sum().backward()
        return value.detach().cpu().double(), z.grad.cpu().double()

    where = device if impl == "triton" else "cpu"
    labels = case.labels.to(where)
    table = NeighborTable.from_pairs(1000, []).to(where)
    exact = cross_entropy(inputs.double(), lambda z: F.cross_entropy(z, case.labels, reduction="none"))
    torchs = cross_entropy(inputs.to(where), lambda z: F.cross_entropy(z, labels, reduction="none"))
    ours = cross_entropy(
        inputs.to(where), lambda z: neighbor_silencing_loss(z, labels, table, reduction="none", impl=impl)
    )
    for mine, torch_value, true in zip(ours, torchs, exact, strict=True):
        assert (mine - true).abs().max() <= 2 * (torch_value - true).abs().max()


@pytest.mark.parametrize("impl", FUSED)
def test_mixed_labels_ignored_rows_and_strides(impl, device):
    case = make_case(6, 90, 80, seed=9)
    case.labels[2] = -100
    wide = torch.zeros(6, 200).double()
    wide[:, :90] = case.logits
    wide[2, 7] = float("nan")
    weight = torch.linspace(0, 1, 6)
    results = []
    for dtype, way, where in ((torch.float32, impl, device), (torch.float64, "reference", "cpu")):
        z = wide.clone().to(where, dtype).requires_grad_()
        loss = neighbor_silencing_loss(
            z[:, :90], case.labels.to(where), case.table.to(where), case.prior.to(where),
            mixed_labels=case.mixed_labels.to(where), mixed_weight=weight.to(where), impl=way,
        )  # fmt: skip
        loss.backward()
        results.append((loss.detach().cpu().double(), z.grad.cpu().double()))
    torch.testing.assert_close(results[0], results[1], rtol=1e-5, atol=1e-7)
    assert (results[0][1][2] == 0).all()
    assert (results[0][1][:, 90:] == 0).all()


@pytest.mark.parametrize("impl", FUSED)
@pytest.mark.parametrize("options", [{}, {"lambda_s": 0.0, "label_smoothing": 0.1}], ids=str)
def test_slices_in_any_order_are_the_whole(impl, options, device):
    """The state after slices of odd widths, taken backward, gives the loss and gradient of all classes at once."""
    from fastlt.kernels import implementations
    from fastlt.kernels.loss import Objective, row_arguments
    from fastlt.kernels.rows import Rows, finish

    case = make_case(5, 203, 4000, seed=2, interval=True)  # some neighbors stand at the edges of slices
    case.labels[3] = -100
    objective = Objective.build(case.table.to(device), case.prior.to(device), **options)
    mu = torch.linspace(0.1, 0.9, 5)
    labels, weights = torch.stack([case.labels, case.mixed_labels]), torch.stack([mu, 1 - mu])
    rows = Rows(*row_arguments(labels.to(device), weights.to(device), objective, impl)[:-1])
    compute = implementations.passes(impl, device)
    logits = case.logits.float().to(device)
    bounds = [0, 1, 37, 38, 150, 203]
    slices = [(a, logits[:, a:b].contiguous()) for a, b in pairwise(bounds)]

    loss, saved = compute.loss_of(logits, rows)
    upstream = torch.linspace(0.5, 2.0, 5, device=device)
    whole = torch.empty_like(logits)
    compute.gradient(logits, 0, rows, saved, upstream, whole)

    state = rows.new_state()
    for first, part in reversed(slices):
        compute.accumulate(part, first, rows, state)
    sliced_loss, sliced_saved = (part.float() for part in finish(state, rows))
    torch.testing.assert_close(sliced_loss, loss, rtol=1e-5, atol=1e-6)
    for first, part in slices:
        compute.gradient(part, first, rows, sliced_saved, upstream, part)
    torch.testing.assert_close(torch.cat([part for _, part in slices], dim=1), whole, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("impl", FUSED)
def test_gradient_in_place_of_the_logits(impl, device):
    case = make_case(4, 60, 40, seed=8)
    table, labels = case.table.to(device), case.labels.to(device)
    weight = torch.randn(60, 16, device=device)
    features = torch.randn(4, 16, device=device).requires_grad_()
    expected = torch.autograd.grad(neighbor_silencing_loss(F.linear(features, weight), labels, table), features)
    logits = F.linear(features, weight)
    loss = neighbor_silencing_loss(logits, labels, table, impl=impl, inplace=True)
    (gradient,) = torch.autograd.grad(loss, features, retain_graph=True)
    torch.testing.assert_close(gradient, expected[0], rtol=1e-5, atol=1e-6)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.grad(loss, features)


@pytest.mark.parametrize("impl", FUSED)
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("inplace", [False, True], ids=["apart", "in place"])
@pytest.mark.parametrize("mixed", [False, True], ids=["one label", "mixed"])
@pytest.mark.parametrize("shape", [(5, 17, 9), (7, 2050, 600)], ids=str)
def test_mean_and_sum(shape, mixed, inplace, reduction, impl, device):
    """A scalar loss, whose gradient is computed in forward."""
    case = make_case(*shape, seed=4, interval=mixed)
    case.labels[1] = -100
    options = {"reduction": reduction, "label_smoothing": 0.1 if mixed else 0.0}
    mu = torch.linspace(0, 1, shape[0])
    results = []
    for z, way, where in ((case.logits.float(), impl, device), (case.logits.float().double(), "reference", "cpu")):
        if mixed:
            options |= {"mixed_labels": case.mixed_labels.to(where), "mixed_weight": mu.to(where)}
        leaf = z.to(where).requires_grad_()
        logits = leaf * 1  # as a layer's output, which may be overwritten
        loss = neighbor_silencing_loss(
            logits, case.labels.to(where), case.table.to(where), case.prior.to(where), impl=way,
            inplace=inplace and way == impl, **options,
        )  # fmt: skip
        (3 * loss).backward()
        results.append((loss.detach().cpu().double(), leaf.grad.cpu().double()))
    torch.testing.assert_close(results[0][0], results[1][0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(results[0][1], results[1][1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_threads_take_every_row_once(reduction, dtype):
    """Torch's threads take some rows at a time; what comes out does not depend on how many there are."""
    case = make_case(61, 5003, 4000, seed=6)
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            logits = case.logits.to(dtype).requires_grad_()
            loss = neighbor_silencing_loss(logits, case.labels, case.table, case.prior, reduction=reduction, impl="cpu")
            loss.sum().backward()
            results.append((loss.detach(), logits.grad))
    finally:
        torch.set_num_threads(threads)
    for result in results[1:]:
        torch.testing.assert_close(result, results[0], rtol=0, atol=0)


@pytest.mark.parametrize("impl", FUSED)
def test_a_second_backward_is_as_the_first(impl, device):
    case = make_case(6, 300, 100, seed=5)
    logits = case.logits.float().to(device).requires_grad_()
    loss = neighbor_silencing_loss(logits, case.labels.to(device), case.table.to(device), impl=impl)
    (first,) = torch.autograd.grad(loss, logits, retain_graph=True)
    first = first.clone()
    (second,) = torch.autograd.grad(loss * 2, logits)
    torch.testing.assert_close(second, 2 * first, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("impl", FUSED)
@pytest.mark.parametrize("rows_each", [2, 3], ids=["few", "many"])
def test_rows_too_long_for_both_passes_in_one_kernel(rows_each, impl, device):
    """Unless there are no more than two for each multiprocessor; the interpreter has one."""
    multiprocessors = torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1
    case = make_case(rows_each * multiprocessors, 66_004, 400, seed=7)
    case.labels[1] = -100
    inputs = case.logits.float()
    results = []
    for z, way, where in ((inputs, impl, device), (inputs.double(), "reference", "cpu")):
        logits = z.to(where).requires_grad_()
        loss = neighbor_silencing_loss(logits, case.labels.to(where), case.table.to(where), impl=way)
        loss.backward()
        results.append((loss.detach().cpu().double(), logits.grad.cpu().double()))
    torch.testing.assert_close(results[0], results[1], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("impl", FUSED)
@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("mixed", [False, True], ids=["one label", "mixed, smoothed"])
@pytest.mark.parametrize("shape", [(3, 20_003, 40_000), (5, 8_200, 0)], ids=str)
def test_few_rows_of_many_classes(shape, mixed, reduction, impl, device):
    """An ignored row and one with a NaN among them; on a GPU, many warps take a row."""
    B, C, _ = shape
    case = make_case(*shape, seed=B, interval=True)
    case.labels[:3] = torch.tensor([0, -100, C - 1])
    case.logits[1, 5] = case.logits[2, C // 3] = float("nan")
    options = {"lambda_s": 0.0, "reduction": reduction}
    results = []
    for z, way, where in ((case.logits.float(), impl, device), (case.logits.float().double(), "reference", "cpu")):
        if mixed:
            mu = torch.linspace(0, 1, B, device=where)
            options |= {"mixed_labels": case.mixed_labels.to(where), "mixed_weight": mu, "label_smoothing": 0.1}
        logits = z.to(where).requires_grad_()
        loss = neighbor_silencing_loss(
            logits, case.labels.to(where), case.table.to(where), case.prior.to(where), impl=way, **options
        )
        loss.sum().backward()
        results.append((loss.detach().cpu().double(), logits.grad.cpu().double()))
    torch.testing.assert_close(results[0], results[1], rtol=1e-5, atol=1e-6, equal_nan=True)
    assert (results[0][1][1] == 0).all()
    if reduction == "none":
        assert results[0][0].isnan().nonzero().tolist() == [[2]]


@pytest.mark.parametrize(
    ("impl", "offset"),
    [("reference", 1e4), ("cpu", 100.0), ("cpu", 1e4), pytest.param("triton", 100.0, marks=pytest.mark.gpu_too)],
)
def test_logits_far_from_zero(offset, impl, device):
    """Differences of like numbers are exact on the CPU, and stay so where sums may be reordered."""
    case = make_case(4, 3000, 500, seed=5)
    inputs = case.logits.float() + offset
    loss, gradient = loss_and_gradient(inputs, case, impl, device)
    expected, expected_gradient = loss_and_gradient(inputs.double(), case, "reference", "cpu")
    torch.testing.assert_close(loss, expected, rtol=3e-7, atol=0.0)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-5, atol=1e-9)


def second_gradient(loss, weight):
    (gradient,) = torch.autograd.grad(loss, weight, create_graph=True)
    return torch.autograd.grad(gradient.square().sum(), weight)


@pytest.mark.parametrize("impl", FUSED)
def test_a_second_gradient_raises_rather_than_being_wrong(impl, device):
    case = make_case(3, 40, 20, seed=6)
    table, labels = case.table.to(device), case.labels.to(device)
    features, weight = torch.randn(3, 8, device=device), torch.randn(40, 8, device=device, requires_grad=True)
    for loss in (
        lambda: neighbor_silencing_loss(features @ weight.t(), labels, table, impl=impl, inplace=True),
        lambda: neighbor_silencing_loss(features @ weight.t(), labels, table, impl=impl),
        lambda: linear_neighbor_silencing_loss(features, weight, labels, table, impl=impl),
        lambda: linear_neighbor_silencing_loss(features, weight, labels, table, impl=impl, memory_limit=0),
    ):
        with pytest.raises(RuntimeError, match=r"no second gradient|no autograd formula"):
            second_gradient(loss(), weight)


@pytest.mark.parametrize("impl", FUSED)
def test_expanded_logits_have_a_gradient_for_each_row(impl, device):
    case = make_case(5, 40, 20, seed=7)
    row = case.logits.float()[:1].to(device)
    gradients = []
    for inplace in (False, True):
        one = row.clone().requires_grad_()
        logits = one.expand(5, 40)
        table, labels, prior = case.table.to(device), case.labels.to(device), case.prior.to(device)
        neighbor_silencing_loss(logits, labels, table, prior, impl=impl, inplace=inplace).backward()
        gradients.append(one.grad)
    torch.testing.assert_close(*gradients)


def test_mixed_weights_of_float64_logits_are_float64():
    case = make_case(6, 30, 10, seed=8)
    logits, mu = case.logits.double(), torch.rand(6, dtype=torch.float64)
    mixed = neighbor_silencing_loss(
        logits, case.labels, case.table, mixed_labels=case.labels.flip(0), mixed_weight=mu, reduction="none"
    )
    one, other = (
        neighbor_silencing_loss(logits, labels, case.table, reduction="none")
        for labels in (case.labels, case.labels.flip(0))
    )
    torch.testing.assert_close(mixed, mu * one + (1 - mu) * other, rtol=1e-14, atol=0.0)


@pytest.mark.parametrize("impl", FUSED)
@pytest.mark.parametrize("limit", [None, 0])
def test_a_forward_mode_derivative_raises_rather_than_being_zero(limit, impl, device):
    case = make_case(3, 40, 20, seed=6)
    table, labels, weight = case.table.to(device), case.labels.to(device), torch.randn(40, 8, device=device)

    def loss(features, way):
        return linear_neighbor_silencing_loss(features, weight, labels, table, impl=way, memory_limit=limit)

    features = torch.randn(3, 8, device=device)
    with pytest.raises(RuntimeError, match="no forward-mode derivative"):
        torch.func.jvp(lambda x: loss(x, impl), (features,), (torch.ones_like(features),))
    _, slope = torch.func.jvp(lambda x: loss(x, "reference"), (features,), (torch.ones_like(features),))
    assert slope != 0


@pytest.mark.parametrize("impl", FUSED)
@pytest.mark.parametrize("lowest", [-float("inf"), torch.finfo(torch.float32).min])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_a_row_without_any_mass_is_nan_in_loss_and_gradient(reduction, lowest, impl, device):
    """As when a mask leaves nothing of a row."""
    case = make_case(3, 40, 10)
    logits = case.logits.float()
    logits[1] = lowest
    logits = logits.to(device).requires_grad_()
    table = case.table.to(device)
    loss = neighbor_silencing_loss(logits, case.labels.to(device), table, reduction=reduction, impl=impl)
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    assert loss.isnan().sum() == 1
    assert gradient.isnan().all(1).tolist() == [False, True, False]
    assert gradient[[0, 2]].isfinite().all()


@pytest.mark.parametrize("impl", FUSED)
def test_rows_that_overlap_have_a_gradient_each(impl, device):
    case = make_case(3, 5, 2)
    line = torch.arange(7.0).mul(0.3).sin()
    gradients = []
    for which, dtype, place in ((impl, torch.float32, device), ("reference", torch.float64, torch.device("cpu"))):
        leaf = line.to(place, dtype).detach().requires_grad_()
        windows = leaf.unfold(0, 5, 1)  # [3, 5], both strides 1
        neighbor_silencing_loss(windows, case.labels.to(place), case.table.to(place), impl=which).backward()
        gradients.append(leaf.grad.cpu().double())
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-7)


def test_rows_are_taken_by_other_threads_where_torch_has_none_to_lend(monkeypatch):
    """As on systems whose OpenMP has no GOMP_parallel."""
    from fastlt.kernels import numba_rows

    found = numba_rows._from_c
    monkeypatch.setattr(numba_rows, "_from_c", lambda name: None if name == "GOMP_parallel" else found(name))
    case = make_case(64, 3000, 1000)
    inputs = case.logits.float()
    loss, gradient = loss_and_gradient(inputs, case, "cpu", torch.device("cpu"))
    expected, expected_gradient = loss_and_gradient(inputs.double(), case, "reference", "cpu")
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-30)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-5, atol=1e-7)


def test_no_memory_raises(tmp_path):
    """Where threads find none, no loss of rows that nobody took is returned."""
    code = """
import resource
import torch
from fastlt.kernels import NeighborTable, neighbor_silencing_loss
table, labels = NeighborTable.from_pairs(2**18, [(0, 1)]), torch.zeros(8, dtype=torch.int64)
logits = torch.zeros(8, 2**18, requires_grad=True)
neighbor_silencing_loss(logits * 1, labels, table, inplace=True, impl="cpu").backward()
scratch = logits * 1
torch.set_num_threads(1)  # or one that finds memory takes the rows of others
used = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmSize"))
resource.setrlimit(resource.RLIMIT_AS, (1024 * used, -1))
try:
    print(neighbor_silencing_loss(scratch, labels, table, inplace=True, impl="cpu"))
except MemoryError as error:
    print("MemoryError:", error)
"""
    mapped = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}  # or memory freed before would do
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, env=mapped)
    assert "MemoryError: the loss of 8 rows" in done.stdout, done.stdout + done.stderr
