import pytest
from compilation import snippets

from ttoaa.compilation import hlo


def test_operations_have_their_shapes_memory_and_operands():
    module = hlo.parse(snippets.STEP)
    entry = module.computations[module.entry]
    product, near, custom = (entry[name] for name in ("y.1", "near", "custom"))
    assert (product.opcode, product.operands) == ("fusion", ("p1", "all-gather"))
    assert product.arrays[0].dims == (8, 256, 1024)
    assert product.arrays[0].bytes == product.arrays[0].hbm_bytes == 2 * 8 * 256 * 1024
    assert near.arrays[0].bytes == 2 * 8 * 256 * 1024
    assert near.arrays[0].hbm_bytes == 0  # S(1) is not the main memory
    assert [array.dtype for array in custom.arrays] == ["bf16", "u32"]
    assert '"body":"abc="' in custom.attributes  # behind a line break
    assert entry["result"].root


def test_a_fusion_is_one_launch_and_its_parts_are_inside():
    module = hlo.parse(snippets.STEP)
    assert [launch.operation.opcode for launch in module.launches].count("fusion") == 3
    assert all(launch.operation.opcode != "convolution" for launch in module.launches)
    cut = module.computations[module.entry]["cut"]
    assert "all-reduce" in [part.opcode for part, _ in module.inside(cut)]


def test_bodies_of_loops_run_as_often_as_the_condition_says():
    module = hlo.parse(snippets.LOOPS)
    assert module.loops == {"known": 12, "unknown": None}
    products = [launch.times for launch in module.launches if launch.operation.opcode == "dot"]
    assert products == [12, 1]


def test_a_noted_trip_count_is_believed():
    note = 'body=%body, backend_config={"known_trip_count":{"n":"7"}}'
    module = hlo.parse(snippets.LOOPS.replace("condition=%forever, body=%body", f"{note}"))
    assert module.loops["unknown"] == 7


@pytest.mark.parametrize(
    ("text", "size"),
    [("pred[3]", 3), ("s4[6]", 3), ("bf16[2,3]", 12), ("f32[]", 4), ("f8e4m3[5]", 5)],
)
def test_bytes_by_type(text, size):
    module = hlo.parse(f"ENTRY %main () -> {text} {{\n  ROOT %x = {text} iota(), a=1\n}}\n")
    assert module.launches[0].operation.arrays[0].bytes == size


def test_text_without_a_module_is_refused():
    with pytest.raises(ValueError, match="no ENTRY"):
        hlo.parse("nothing")
