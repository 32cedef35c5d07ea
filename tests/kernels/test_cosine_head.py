"""The cosine head: logits and gradients against the plain formula."""

import pytest
import torch
from torch.nn import functional as F

from fastlt.kernels import NeighborSilencingHead, NeighborTable, neighbor_silencing_loss

TABLE = NeighborTable.from_pairs(6, [(0, 4), (1, 4), (2, 5)])
COUNTS = torch.tensor([50.0, 9, 3, 20, 8, 8])


@pytest.mark.parametrize("memory_limit", [None, 0], ids=["whole", "sliced"])
def test_agrees_with_the_formula(memory_limit):
    torch.manual_seed(1)
    head = NeighborSilencingHead(16, TABLE, COUNTS, cosine_scale=30.0, memory_limit=memory_limit)
    assert head.bias is None
    features = torch.randn(7, 16, requires_grad=True)
    labels = torch.tensor([0, 1, 2, 3, 4, 5, 0])
    weight = head.weight.detach().clone().requires_grad_()
    logits = 30 * F.cosine_similarity(features[:, None], weight[None], dim=2)  # [7, 6]
    torch.testing.assert_close(head(features), logits)
    expected = neighbor_silencing_loss(logits, labels, TABLE, COUNTS, impl="reference")
    wanted = torch.autograd.grad(expected, [features, weight])
    loss = head(features, labels)
    torch.testing.assert_close(loss, expected)
    for got, want in zip(torch.autograd.grad(loss, [features, head.weight]), wanted, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=2e-5)
