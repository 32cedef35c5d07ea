"""The loss as torch operators: registered as torch wants it, under torch.compile, without waiting for the device."""

import pytest
import torch

from fastlt.kernels import NeighborSilencingHead, NeighborSilencingLoss, operators
from fastlt.kernels.loss import Objective, row_arguments
from support.loss_cases import make_case

pytestmark = pytest.mark.medium


def arguments_of(case, mixed=False):
    objective = Objective.build(case.table, case.prior, label_smoothing=0.1)
    targets, weights = case.labels[None], None
    if mixed:
        targets, weights = torch.stack([case.labels, case.mixed_labels]), torch.full((2, len(case.labels)), 0.5)
    return row_arguments(targets, weights, objective, "cpu")


@pytest.mark.parametrize(("mixed", "strengths"), [(False, False), (True, False), (True, True)])
def test_opcheck(mixed, strengths):
    case = make_case(5, 70, 60, strengths=strengths)
    rows = arguments_of(case, mixed)
    logits = case.logits.float().requires_grad_()
    torch.library.opcheck(operators.silenced_loss, (logits, *rows))
    saved = operators.silenced_loss(logits, *rows)[1].detach()
    upstream = torch.ones(5)
    torch.library.opcheck(operators.silenced_loss_gradient, (logits.detach(), saved, upstream, *rows))
    torch.library.opcheck(operators.silenced_loss_gradient_, (logits.detach().clone(), saved, upstream, *rows))
    features, weight = torch.randn(5, 8).requires_grad_(), torch.randn(70, 8).requires_grad_()
    for bias in (None, torch.randn(70).requires_grad_()):
        torch.library.opcheck(operators.linear_silenced_loss, (features, weight, bias, 32, *rows))
        tensors = [features.detach(), weight.detach(), None if bias is None else bias.detach()]
        torch.library.opcheck(operators.linear_silenced_loss_gradient, (*tensors, 32, saved, upstream, *rows))


@pytest.mark.parametrize("limit", [None, 0], ids=["materialized", "sliced"])
def test_compiled_head_is_one_graph_and_gives_the_same(limit):
    case = make_case(6, 2100, 1000)
    head = NeighborSilencingHead(16, case.table, case.prior, label_smoothing=0.1, memory_limit=limit)
    features = torch.randn(6, 16)
    arguments = (features, case.labels, case.mixed_labels, torch.linspace(0, 1, 6))
    loss = head(*arguments)
    loss.backward()
    expected = head.weight.grad.clone()
    head.zero_grad()
    compiled = torch.compile(head, fullgraph=True)(*arguments)
    compiled.backward()
    torch.testing.assert_close(compiled, loss, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(head.weight.grad, expected, rtol=1e-5, atol=1e-7)


def test_loss_module_keeps_its_prior_exact_and_moves_with_the_model():
    case = make_case(5, 40, 30)
    module = NeighborSilencingLoss(case.table, case.prior)
    exact = module(case.logits.float(), case.labels)
    torch.testing.assert_close(module.bfloat16()(case.logits.float(), case.labels), exact, rtol=0, atol=0)
    assert module.state_dict() == {}
    with pytest.raises(ValueError, match=r"logits must be \[B, 40\]"):
        module(torch.zeros(5, 39), case.labels)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("limit", [None, 0], ids=["materialized", "sliced"])
def test_no_step_waits_for_the_gpu(limit):
    case = make_case(64, 5000, 3000)
    head = NeighborSilencingHead(32, case.table, case.prior, label_smoothing=0.1, memory_limit=limit).cuda()
    features, labels = torch.randn(64, 32, device="cuda", requires_grad=True), case.labels.cuda()
    head(features, labels).backward()  # compiles
    torch.cuda.set_sync_debug_mode("error")
    try:
        head(features, labels).backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("limit", [None, 0], ids=["materialized", "sliced"])
def test_a_captured_graph_learns_other_batches(limit):
    """Forward and backward of the head as CUDA graphs, replayed with batches that were not captured."""
    case = make_case(64, 5000, 3000)
    head = NeighborSilencingHead(32, case.table, case.prior, label_smoothing=0.1, memory_limit=limit).cuda()
    eager = NeighborSilencingHead(32, case.table, case.prior, label_smoothing=0.1, memory_limit=limit).cuda()
    eager.load_state_dict(head.state_dict())
    labels = case.labels.cuda()
    sample = torch.randn(64, 32, device="cuda", requires_grad=True), labels.clone()
    graphed = torch.cuda.make_graphed_callables(head, sample)
    for shift in (0, 1, 7):
        features = torch.randn(64, 32, device="cuda", requires_grad=True)
        losses, gradients = [], []
        for module in (graphed, eager):
            loss = 3 * module(features, labels.roll(shift))
            gradients.append([g.clone() for g in torch.autograd.grad(loss, [features, *module.parameters()])])
            losses.append(loss.detach().clone())
        torch.testing.assert_close(*losses)
        torch.testing.assert_close(*gradients)
