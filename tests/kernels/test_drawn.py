"""The CPU path against the float64 reference on sizes, tables, labels and options drawn by hypothesis."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from support.loss_cases import loss_and_gradient, make_case


@given(
    batch=st.integers(0, 6),
    num_classes=st.integers(1, 3000),
    num_pairs=st.integers(0, 4000),
    interval=st.booleans(),
    strengths=st.booleans(),
    scale=st.sampled_from([0.0, 1.0, 30.0, 80.0]),
    lambda_s=st.sampled_from([0.0, 1e-4, 0.1, 0.7, 1.0]),
    tau=st.sampled_from([0.0, 1.0, 1.05]),
    label_smoothing=st.sampled_from([0.0, 0.1]),
    mixed=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=150, deadline=None)
def test_agrees_with_float64(
    batch, num_classes, num_pairs, interval, strengths, scale, lambda_s, tau, label_smoothing, mixed, dtype, seed
):
    case = make_case(batch, num_classes, num_pairs, scale, seed, interval, strengths)
    inputs = case.logits.to(dtype)
    options = {"lambda_s": lambda_s, "tau": tau, "label_smoothing": label_smoothing}
    if mixed:
        options |= {
            "mixed_labels": case.mixed_labels,
            "mixed_weight": torch.rand(batch, generator=torch.Generator().manual_seed(seed)),
        }
    loss, gradient = loss_and_gradient(inputs, case, "cpu", "cpu", **options)
    expected, expected_gradient = loss_and_gradient(inputs.double(), case, "reference", "cpu", **options)
    # Smoothing subtracts means of logits up to 80, so it can only be as exact as these are.
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6 * scale if label_smoothing else 1e-30)
    rounding = 1e-5 if dtype == torch.float32 else torch.finfo(dtype).eps
    # The gradients of two labels, each up to 2 and rounded at its own size, may cancel.
    smallest = 4 * torch.finfo(torch.float32).eps if mixed else 1e-7
    torch.testing.assert_close(gradient, expected_gradient, rtol=rounding, atol=smallest)
