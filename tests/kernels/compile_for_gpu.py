"""Run without TRITON_INTERPRET: compiles both Triton kernels for a GPU that need not be there, in every variant."""

import sys

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from fastlt.kernels import triton_rows

POINTERS = {
    **dict.fromkeys(("stacked_labels", "indptr", "neighbors"), "*i64"),
    **dict.fromkeys(("weights", "logit_bias", "state", "loss", "saved", "grad_loss"), "*fp32"),
    **dict.fromkeys(("log_lambda", "smoothing"), "fp32"),
}
VARIANTS = [  # labels, silenced sets, smoothing, prior
    {"L": 1, "SILENCE": False, "SMOOTH": False, "HAS_BIAS": True},
    {"L": 1, "SILENCE": True, "SMOOTH": False, "HAS_BIAS": True},
    {"L": 1, "SILENCE": True, "SMOOTH": True, "HAS_BIAS": False},
    {"L": 2, "SILENCE": True, "SMOOTH": True, "HAS_BIAS": True},
]


def compile_kernel(kernel, capability: int, dtype: str, **constants) -> None:
    constants = {name: value for name, value in constants.items() if name in kernel.arg_names}
    types = {"logits": f"*{dtype}", "grad_logits": f"*{dtype}", **POINTERS, **dict.fromkeys(constants, "constexpr")}
    source = ASTSource(
        fn=kernel, signature={name: types.get(name, "i32") for name in kernel.arg_names}, constexprs=constants
    )
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options={"num_warps": 8})
    assert "ex2.approx.ftz.f32" in compiled.asm["ptx"]
    print(kernel.__name__, dtype, capability, constants, "compiled")


for capability, dtype in ((80, "bf16"), (90, "bf16"), (90, "fp16"), (90, "fp32")):
    for variant in VARIANTS if capability == 90 and dtype == "bf16" else VARIANTS[-1:]:
        for ends in ({"FIRST": True, "LAST": True}, {"FIRST": False, "LAST": False}):
            compile_kernel(triton_rows._accumulate, capability, dtype, **variant, **ends, UNIT=8, R=2, LANES=2048)
        compile_kernel(triton_rows._gradient, capability, dtype, **variant, UNIT=8, BLOCK=2048)
sys.exit(0)
