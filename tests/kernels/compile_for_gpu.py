"""Run without TRITON_INTERPRET: compiles both Triton kernels for a GPU that need not be there, in every variant."""

import re
import sys

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from fastlt.kernels import triton_kernels

POINTERS = {
    **dict.fromkeys(("stacked_labels", "indptr", "neighbors"), "*i64"),
    **dict.fromkeys(("weights", "logit_bias", "state", "loss", "total", "saved", "grad_loss", "scale"), "*fp32"),
    "arrived": "*i32",
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
    types = {"logits": f"*{dtype}", "out": f"*{dtype}", **POINTERS, **dict.fromkeys(constants, "constexpr")}
    signature = {name: types.get(name, "i32") for name in kernel.arg_names}
    pointers = [i for i, kind in enumerate(signature.values()) if kind.startswith("*")]
    source = ASTSource(
        fn=kernel, signature=signature, constexprs=constants, attrs={(i,): [["tt.divisibility", 16]] for i in pointers}
    )
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options={"num_warps": 4})
    code = compiled.asm["ptx"]
    assert "ex2.approx.ftz.f32" in code
    if dtype == "bf16":  # logits and gradients move 16 bytes at a time
        assert re.search(r"ld\.global\S*\.v4\.b32", code), "logits are loaded in narrow pieces"
        assert not re.search(r"st\.global\S*\.b16", code), "gradients are stored class by class"
        if "out" in kernel.arg_names and constants.get("GRADIENT", True):
            assert re.search(r"st\.global\S*\.v4\.b32", code), "gradients are stored in narrow pieces"
    print(kernel.__name__, dtype, capability, constants, "compiled")


for capability, dtype in ((80, "bf16"), (90, "bf16"), (90, "fp16"), (90, "fp32")):
    shape = {"ROWS": 2, "T": 128, "V": 4 if dtype == "fp32" else 8}
    shape["R"] = 8 // shape["V"]
    for variant in VARIANTS if capability == 90 and dtype == "bf16" else VARIANTS[-1:]:
        compile_kernel(triton_kernels.accumulate_rows, capability, dtype, **variant, **shape)
        compile_kernel(triton_kernels.gradient_of_rows, capability, dtype, **variant, **shape, WHOLE=True)
        for gradient in (False, True):
            compile_kernel(triton_kernels.loss_of_rows, capability, dtype, **variant, **shape, GRADIENT=gradient)
sys.exit(0)
