"""Run by torchrun: a sharded head on each rank against a whole one on all samples; test_sharded.py reads the output."""

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed import checkpoint

from fastlt.kernels import NeighborSilencingHead, NeighborTable
from fastlt.kernels.sharded import ShardedNeighborSilencingHead

CLASSES, FEATURES, SAMPLES = 1103, 16, 5  # 1,103 is a prime
folder = Path(sys.argv[1])


def check(name: str, found: torch.Tensor, expected: torch.Tensor) -> None:
    error = ((found - expected).abs().max() / expected.abs().max().clamp_min(1e-30)).item()
    assert error <= 1e-6, f"{name} on rank {rank}: relative error {error:.1e}"


def whole_gradients(options, features, batch):
    """(loss and gradients of features of each rank, gradients of weight and bias) of data parallelism by hand."""
    head = NeighborSilencingHead(FEATURES, table, counts, **options)
    head.weight.data.copy_(weight)
    head.bias.data.copy_(bias)
    losses, gradients = [], []
    for r in range(ranks):
        mine = slice(r * SAMPLES, (r + 1) * SAMPLES)
        x = features[mine].clone().requires_grad_()
        loss = head(x, *(value[mine] for value in batch))
        (loss / ranks).backward()
        losses.append(loss.detach())
        gradients.append(x.grad * ranks)
    return losses, gradients, head.weight.grad, head.bias.grad


def whole_mass(options, features, batch):
    """Labels and silenced mass of this rank's samples by a whole head."""
    head = NeighborSilencingHead(FEATURES, table, counts, **options)
    head.weight.data.copy_(weight)
    head.bias.data.copy_(bias)
    head.measures_silenced = True
    head(features[mine], *(value[mine] for value in batch))
    return head.silenced


def save_or_load(head: ShardedNeighborSilencingHead, held: slice) -> None:
    """The first number of ranks saves its head, the others load it; a part holds its group, so none may outlive it."""
    parts = {name: head.part_of_whole(parameter) for name, parameter in head.named_parameters()}
    if not (folder / ".metadata").exists():
        checkpoint.save(parts, checkpoint_id=folder)
        return
    head.weight.data.zero_()
    checkpoint.load(parts, checkpoint_id=folder)
    assert torch.equal(head.weight, weight[held])
    assert torch.equal(head.bias, bias[held])
    whole = head.gathered()
    assert torch.equal(whole[0], weight)
    assert torch.equal(whole[1], bias)


dist.init_process_group("gloo")
rank, ranks = dist.get_rank(), dist.get_world_size()
torch.set_num_threads(1)
draw = torch.Generator().manual_seed(0)
pairs = torch.stack([torch.randint(*between, (4000,), generator=draw) for between in ((0, 500), (500, CLASSES))], dim=1)
strengths = pairs.sum(dim=1) % 8 / 8  # the same for the same pair
counts = torch.randint(1, 500, (CLASSES,), generator=draw)
weight = torch.randn(CLASSES, FEATURES, generator=draw) * 3
bias = torch.randn(CLASSES, generator=draw)
features = torch.randn(ranks * SAMPLES, FEATURES, generator=draw)
labels = torch.randint(0, CLASSES, (2, ranks * SAMPLES), generator=draw)
labels[0, 3] = -100
mixed = (labels[0], labels[1], torch.rand(ranks * SAMPLES, generator=draw))
mine = slice(rank * SAMPLES, (rank + 1) * SAMPLES)

for interval in (None, 500):
    table = NeighborTable.from_pairs(CLASSES, pairs, interval, strengths if interval else None)
    for options in ({"lambda_s": 0.0}, {"lambda_s": 0.1, "label_smoothing": 0.1}):
        for batch in ((labels[0],), mixed):
            for limit in (None, 0):  # a shard's logits whole, and in slices
                head = ShardedNeighborSilencingHead(FEATURES, table, counts, memory_limit=limit, **options)
                held = slice(head.first_class, head.first_class + len(head.weight))
                head.weight.data.copy_(weight[held])
                head.bias.data.copy_(bias[held])
                x = features[mine].clone().requires_grad_()
                loss = head(x, *(value[mine] for value in batch))
                loss.backward()
                losses, gradients, grad_weight, grad_bias = whole_gradients(options, features, batch)
                check("loss", loss.detach(), losses[rank])
                check("gradient of features", x.grad, gradients[rank])
                check("gradient of weight", head.weight.grad, grad_weight[held])
                check("gradient of bias", head.bias.grad, grad_bias[held])
                head.measures_silenced = True
                assert torch.equal(head(x, *(value[mine] for value in batch)), loss)
                expected = whole_mass(options, features, batch)
                assert torch.equal(head.silenced[0], expected[0])
                torch.testing.assert_close(head.silenced[1], expected[1], rtol=1e-4, atol=2e-6)

save_or_load(head, held)
print(f"rank {rank} of {ranks}: all equal, {len(head.loss.table.indices)} of {len(table.indices)} neighbors held")
dist.destroy_process_group()
