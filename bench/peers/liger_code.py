"""Liger's kernel of cross-entropy as machine code, compiled as its `cross_entropy_forward` launches it on Hopper."""

from __future__ import annotations

import triton

from bench.harness.gpu_model import Gpu, Prediction, Work, predict
from bench.harness.machine_code import Program, compile_kernel

PUBLISHED_ROWS = 8192
PUBLISHED = {32768: 0.80, 128256: 2.21}  # ms of forward + backward on an H100 in bfloat16, by classes
_ABSENT = ("weight_ptr", "z_loss_ptr", "token_accuracy_ptr", "predicted_tokens_ptr", "softcap")
_FLAGS = ("RETURN_Z_LOSS", "RETURN_TOKEN_ACCURACY", "RETURN_PREDICTED_TOKENS", "HAS_WEIGHT", "HAS_SOFTCAPPING")
_TYPES = {"X_ptr": "*bf16", "Y_ptr": "*i64", "loss_ptr": "*bf16", "weight_sum": "fp32"}
_MOST = 32768  # classes of a block


def predict_liger(C: int, gpu: Gpu) -> Prediction:
    """The time of the kernel alone for PUBLISHED_ROWS rows of so many classes, a multiple of 16.

    Raises:
        ImportError: Liger is not installed.
    """
    from liger_kernel.ops.cross_entropy import liger_cross_entropy_kernel

    constants = dict.fromkeys(_ABSENT) | dict.fromkeys(_FLAGS, False) | {"HAS_GRADIENTS": True, "reduction": "mean"}
    block = min(_MOST, triton.next_power_of_2(C))
    constants |= {"Y_stride": 1, "loss_stride": 1, "lse_square_scale": 0.0, "label_smoothing": 0.0, "BLOCK_SIZE": block}
    divisible = ("X_stride", "n_cols", "n_non_ignore", "sum_non_ignore_weight")
    program = Program(
        compile_kernel(liger_cross_entropy_kernel, gpu.capability, _TYPES, constants, divisible, num_warps=32)
    )
    logits = 2.0 * PUBLISHED_ROWS * C
    work = Work(
        PUBLISHED_ROWS, -(-C // block), 0, 0, moved=2 * logits, again=logits, cached=3 * logits, row_bytes=2.0 * C
    )
    return predict(program, work, gpu)
