import pytest

from ttoaa.compilation import hlo
from ttoaa.compilation.time_models import kernel_flops

ROWS = "bf16[8,16,4096,128]{3,2,1,0}"
PRODUCT = 8 * 16 * 4096 * 4096 * 128  # half of a square, two FLOPs a multiply-add


def module(*names):
    calls = "".join(
        f"  %{name} = (f32[8,1024,128]{{2,1,0}}, {ROWS}) custom-call(%mask, %q, %q), "
        'custom_call_target="tpu_custom_call"\n'
        for name in names
    )
    return hlo.parse(
        f"ENTRY %main (q: {ROWS}) -> {ROWS} {{\n  %mask = s8[1,4,4]{{2,1,0}} constant({{...}})\n"
        f"  %q = {ROWS} parameter(0)\n{calls}}}\n"
    )


@pytest.mark.parametrize(
    ("names", "products"),
    [
        (["splash_mha_fwd_residuals.2"], 2),
        (["splash_mha_fwd_residuals.2", "splash_mha_dkv_no_residuals.1"], 7),
        # Computed again for the backward pass.
        (["splash_mha_fwd.1", "splash_mha_fwd.2", "splash_mha_dkv_no_residuals.1"], 9),
        # The backward pass in two kernels makes the scores and their gradient twice.
        (["splash_mha_fwd.1", "splash_mha_dq.2", "splash_mha_dkv_no_residuals.1"], 9),
    ],
)
def test_products_of_the_kernels_that_are_there(names, products):
    found = kernel_flops(module(*names))
    assert found.flops == products * PRODUCT
    assert found.unknown == ()


def test_other_kernels_are_named():
    found = kernel_flops(module("splash_mha_fwd.1", "my_kernel.3"))
    assert (found.flops, found.unknown) == (2 * PRODUCT, ("my_kernel.3",))
