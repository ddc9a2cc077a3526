import pytest
from compilation import snippets

from ttoaa.accelerators import Chip
from ttoaa.compilation import hlo
from ttoaa.compilation.time_models import estimate_times, kernel_flops

PRODUCT = 2 * 8 * 256 * 512 * 1024
A, Y, W = 2 * 8 * 256 * 512, 2 * 8 * 256 * 1024, 2 * 512 * 1024  # bytes


def chip(flops, bandwidth):
    return Chip(flops / 0.84, 16.0, bandwidth / 0.85, 1e9, 1e6, 4)


def test_flops_of_products_counted_by_hand():
    assert estimate_times(hlo.parse(snippets.STEP), chip(1, 1)).flops == 2 * PRODUCT
    assert estimate_times(hlo.parse(snippets.LOOPS), chip(1, 1)).flops == 13 * 2 * 128**3


def test_roofline_takes_the_longer_of_arithmetic_and_memory():
    slow_memory = estimate_times(hlo.parse(snippets.STEP), chip(1e30, 1e6))
    # product: a, w, y; negation: y alone, as its result stays near; gradient: a and dw.
    assert slow_memory.roofline == pytest.approx((A + W + Y + Y + A + W) / 1e6)
    assert slow_memory.products == 0
    slow_units = estimate_times(hlo.parse(snippets.STEP), chip(1e6, 1e6))
    assert slow_units.roofline == pytest.approx(2 * PRODUCT / 1e6 + Y / 1e6)
    assert slow_units.products == pytest.approx(2 * PRODUCT / 1e6)


def test_cycles_are_the_compilers_and_mixed_caps_what_is_no_product():
    counted = estimate_times(hlo.parse(snippets.STEP), chip(1e6, Y / 0.0001))
    assert counted.cycles == pytest.approx((1000 + 900 + 1500) / 1e6)
    assert counted.mixed == pytest.approx((1000 + 1500) / 1e6 + 0.0001)
    assert estimate_times(hlo.parse(snippets.LOOPS), chip(1, 1)).cycles == pytest.approx(130 / 1e6)


@pytest.mark.parametrize(
    ("shapes", "window"),
    [
        # A sum over a leading axis of 8, as XLA:TPU writes the gradient of a weight.
        (("[8,32,64]", "[8,32,16]", "[64,16,1]"), "{size=8}, dim_labels=0fb_0io->bf0"),
        # Eight outputs that meet one of eight kernels each, and padding or gaps else.
        (
            ("[1,64,32]", "[8,32,16]", "[8,64,16]"),
            "{size=8 pad=7_7 rhs_reversal=1}, dim_labels=0bf_0io->0bf",
        ),
        (
            ("[8,64,32]", "[8,32,16]", "[8,64,16]"),
            "{size=8 stride=7 lhs_dilate=8}, dim_labels=0bf_0io->0bf",
        ),
    ],
)
def test_convolutions_meet_neither_padding_nor_gaps(shapes, window):
    given, kernel, result = (f"f32{shape}" for shape in shapes)
    text = f"""ENTRY %main () -> {result} {{
  %a = {given} parameter(0)
  %k = {kernel} parameter(1)
  ROOT %y = {result} convolution(%a, %k), window={window}
}}
"""
    assert estimate_times(hlo.parse(text), chip(1, 1)).flops == 2 * 64 * 32 * 16 * 8


ROWS = "bf16[8,16,4096,128]{3,2,1,0}"
ATTENTION_PRODUCT = 8 * 16 * 4096 * 4096 * 128  # half of a square, two FLOPs a multiply-add


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
    assert found.flops == products * ATTENTION_PRODUCT
    assert found.unknown == ()


def test_other_kernels_are_named():
    found = kernel_flops(module("splash_mha_fwd.1", "my_kernel.3"))
    assert (found.flops, found.unknown) == (2 * ATTENTION_PRODUCT, ("my_kernel.3",))
