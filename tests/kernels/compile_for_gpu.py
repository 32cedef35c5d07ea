"""Run without TRITON_INTERPRET: compiles the Triton kernels for GPUs that need not be there, in every variant."""

import re
import sys

from bench.suites.sass import MOST, VARIANTS, compile_rows
from fastlt.kernels import triton_kernels


def compile_kernel(kernel, capability: int, dtype: str, shape: dict, **constants) -> None:
    code = compile_rows(kernel, capability, dtype, shape, **constants).asm["ptx"]
    assert "ex2.approx.ftz.f32" in code
    if dtype == "bf16":  # logits and gradients move 16 bytes at a time
        assert re.search(r"ld\.global\S*\.v4\.b32", code), "logits are loaded in narrow pieces"
        assert not re.search(r"st\.global\S*\.b16", code), "gradients are stored class by class"
        if "out" in kernel.arg_names and constants.get("GRADIENT", True):
            assert re.search(r"st\.global\S*\.v4\.b32", code), "gradients are stored in narrow pieces"
    print(kernel.__name__, dtype, capability, constants, "compiled")


for word in sys.argv[1:]:  # such as 90:bf16
    capability, dtype = int(word.partition(":")[0]), word.partition(":")[2]
    shape = {"ROWS": 2, "T": 128, "V": 4 if dtype == "fp32" else 8, "num_warps": 4}
    shape["R"] = 8 // shape["V"]
    variants = [*VARIANTS.values(), VARIANTS[MOST] | {"strengths": True}]
    for variant in variants if capability == 90 and dtype == "bf16" else variants[-2:]:
        compile_kernel(triton_kernels.accumulate_rows, capability, dtype, shape, **variant)
        compile_kernel(triton_kernels.gradient_of_rows, capability, dtype, shape, **variant, WHOLE=True)
        for gradient in (False, True):
            compile_kernel(triton_kernels.loss_of_rows, capability, dtype, shape, **variant, GRADIENT=gradient)
