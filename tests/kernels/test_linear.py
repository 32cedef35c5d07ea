"""Features and weight to loss, whole or slice by slice, against the float64 reference on materialized logits."""

import subprocess
import sys

import pytest
import torch
from torch.nn import functional as F

from fastlt.kernels import (
    NeighborSilencingHead,
    NeighborTable,
    linear_neighbor_silencing_loss,
    neighbor_silencing_loss,
)
from support.loss_cases import make_case

pytestmark = pytest.mark.medium

FUSED = [pytest.param("triton", marks=pytest.mark.gpu_too), "cpu"]
LIMITS = [pytest.param(None, id="materialized"), pytest.param(0, id="sliced")]


@pytest.fixture
def device(impl: str, device: torch.device) -> torch.device:
    return device if impl == "triton" else torch.device("cpu")


def inputs(batch=6, features=24, num_classes=2100, seed=0):
    """(case, features [B, D], weight [C, D], bias [C]) in float64; 2,100 classes are three slices."""
    case = make_case(batch, num_classes, 3000, seed=seed)
    g = torch.Generator().manual_seed(seed)
    shapes = (batch, features), (num_classes, features), (num_classes,)
    return case, *(torch.randn(shape, generator=g, dtype=torch.float64) for shape in shapes)


def run(case, tensors, device, loss, **options):
    """(loss, gradients of features, weight and bias) as float64 on the CPU."""
    leaves = [t.detach().clone().to(device).requires_grad_() for t in tensors]
    value = loss(*leaves, case.labels.to(device), case.table.to(device), case.prior.to(device), **options)
    value.sum().backward()
    return [value.detach().cpu().double(), *(leaf.grad.cpu().double() for leaf in leaves)]


def linear(features, weight, bias, *arguments, **options):
    return linear_neighbor_silencing_loss(features, weight, *arguments, bias=bias, **options)


def by_reference(features, weight, bias, *arguments, **options):
    return neighbor_silencing_loss(F.linear(features, weight, bias), *arguments, impl="reference", **options)


@pytest.mark.parametrize("impl", FUSED)
@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("options", [{}, {"lambda_s": 0.0, "label_smoothing": 0.1}, {"reduction": "none"}], ids=str)
def test_agrees_with_float64(impl, limit, options, device):
    case, *tensors = inputs()
    case.labels[2] = -100
    found = run(case, [t.float() for t in tensors], device, linear, impl=impl, memory_limit=limit, **options)
    expected = run(case, tensors, "cpu", by_reference, **options)
    for mine, true in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, true, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("impl", FUSED)
@pytest.mark.parametrize("limit", LIMITS)
def test_mixed_labels_without_bias(impl, limit, device):
    case, features, weight, _ = inputs(seed=3)
    mixed = {"mixed_labels": case.mixed_labels, "mixed_weight": torch.linspace(0, 1, 6)}

    def without_bias(loss):
        return lambda x, w, *arguments, **options: loss(x, w, None, *arguments, **options)

    on_device = {name: value.to(device) for name, value in mixed.items()}
    tensors = [features.float(), weight.float()]
    found = run(case, tensors, device, without_bias(linear), impl=impl, memory_limit=limit, **on_device)
    expected = run(case, [features, weight], "cpu", without_bias(by_reference), **mixed)
    for mine, true in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, true, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("impl", FUSED)
@pytest.mark.parametrize("limit", LIMITS)
def test_bfloat16_is_no_farther_from_float64_than_twice_torchs_own(impl, limit, device):
    case, *tensors = inputs(batch=16, features=64)
    rounded = [t.bfloat16() for t in tensors]
    options = {"lambda_s": 1.0, "tau": 0.0}
    found = run(case, rounded, device, linear, impl=impl, memory_limit=limit, **options)
    true = run(case, [t.double() for t in rounded], "cpu", by_reference, **options)
    torchs = run(case, rounded, device, lambda x, w, b, y, *_: F.cross_entropy(F.linear(x, w, b), y))
    for mine, torch_value, exact in zip(found, torchs, true, strict=True):
        assert (mine - exact).norm() <= 2 * (torch_value - exact).norm()


@pytest.mark.parametrize("impl", FUSED)
@pytest.mark.parametrize("limit", LIMITS)
def test_autocast_multiplies_in_its_type_and_keeps_gradients_in_the_weights(impl, limit, device):
    case, *tensors = inputs(batch=16)
    tensors = [t.float() for t in tensors]
    with torch.autocast(device.type, torch.bfloat16):
        found = run(case, tensors, device, linear, impl=impl, memory_limit=limit)
        other = run(case, tensors, device, linear, impl=impl, memory_limit=None)
    true = run(case, [t.double() for t in tensors], "cpu", by_reference)
    for mine, materialized, exact in zip(found, other, true, strict=True):
        assert (mine - exact).norm() <= 0.02 * exact.norm()
        assert (mine - materialized).norm() <= 0.01 * exact.norm()


@pytest.mark.parametrize("impl", ["cpu"])
@pytest.mark.parametrize("limit", LIMITS)
def test_a_head_used_twice_in_one_step(impl, limit, device):
    case, features, _, _ = inputs()
    head = NeighborSilencingHead(24, case.table, case.prior, memory_limit=limit)
    first, second = features[:3].float(), features[3:].float()
    (head(first, case.labels[:3]) + head(second, case.labels[3:])).backward()
    twice = head.weight.grad.clone()
    head.zero_grad()
    (head(features.float(), case.labels) * 2).backward()
    torch.testing.assert_close(twice, head.weight.grad, rtol=1e-5, atol=1e-7)


@pytest.mark.slow
def test_memory_of_slices_does_not_grow_with_the_classes():
    """512 rows of 200,000 classes would be 0.4 GB of logits; the sliced loss takes a quarter of that."""
    script = """
import resource, torch
from fastlt.kernels import NeighborTable, linear_neighbor_silencing_loss
table = NeighborTable.from_pairs(200_000, [])
features = torch.randn(512, 8).requires_grad_()
weight = torch.randn(200_000, 8).requires_grad_()
labels = torch.arange(512)
linear_neighbor_silencing_loss(features[:2], weight, labels[:2], table, memory_limit=0).backward()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
linear_neighbor_silencing_loss(features, weight, labels, table, memory_limit=2**25).backward()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert int(done.stdout) * 1024 < 100e6


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"weight": torch.zeros(2100, 23)}, r"features must be \[B, D\] and weight \[C, D\]"),
        ({"weight": torch.zeros(2100, 24).double()}, "features are torch.float32, weight is torch.float64"),
        ({"bias": torch.zeros(5)}, r"bias must have shape \[2100\]"),
        ({"table": NeighborTable.from_pairs(7, [])}, "built for 7 classes, the weight has 2100"),
        ({"labels": torch.full((6,), 2100)}, "holds 2100, outside the label space 0..2099"),
        ({"impl": "triton-cpu"}, "impl must be"),
    ],
)
def test_bad_input_is_told_in_one_sentence(change, sentence):
    case, features, weight, _ = inputs()
    arguments = {"features": features.float(), "weight": weight.float(), "labels": case.labels, "table": case.table}
    with pytest.raises(ValueError, match=sentence):
        linear_neighbor_silencing_loss(**(arguments | change))


@pytest.mark.parametrize("impl", FUSED)
@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("label_logit", [-float("inf"), float("nan")])
def test_a_row_without_any_mass_is_nan(label_logit, limit, impl, device):
    """Where every other class is silenced to nothing, and the label's logit is none either."""
    table = NeighborTable.from_pairs(2, [(0, 1)]).to(device)
    tensors = torch.ones(1, 3), torch.ones(2, 3), torch.zeros(1, dtype=torch.int64)
    bias = torch.tensor([label_logit, 0.0], device=device)
    given = {"lambda_s": 0.0, "impl": impl, "memory_limit": limit, "bias": bias}
    assert linear_neighbor_silencing_loss(*(t.to(device) for t in tensors), table, **given).isnan()
