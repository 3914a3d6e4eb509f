import pytest

from core.errors import UserError
from serving import schemes


def test_every_scheme_is_a_preset_of_the_compressor_with_the_groups_that_it_has_there():
    from compressed_tensors.quantization import preset_name_to_scheme

    for scheme in schemes.SCHEMES.values():
        weights = preset_name_to_scheme(scheme.preset, ["Linear"]).weights
        assert (weights.group_size in scheme.groups) or (weights.group_size is None and not scheme.groups)
        assert weights.block_structure == (None if scheme.block is None else [scheme.block, scheme.block])


def test_a_name_is_a_scheme_by_its_usual_method_or_by_the_one_that_is_named():
    assert schemes.parse(["int4_w4a16", "int4_w4a16-awq"]) == [
        schemes.Variant("int4_w4a16", "gptq"),
        schemes.Variant("int4_w4a16", "awq"),
    ]
    assert [variant.name for variant in schemes.every()][:3] == [
        "int8_w8a8-gptq",
        "int8_w8a8-smoothquant",
        "int8_w8a8-rtn",
    ]
    with pytest.raises(ValueError, match="int3 is no scheme; there are int8_w8a8"):
        schemes.parse(["int3"])
    with pytest.raises(ValueError, match="fp8_block is not reached by gptq; its methods are rtn"):
        schemes.variant("fp8_block", "gptq")


@pytest.mark.parametrize(
    ("scheme", "inputs", "size"),
    [
        ("int4_w4a16", (256, 688 * 8), 128),
        ("int4_w4a16", (256, 704), 64),
        ("int4_w4a8", (96, 256), 32),
        ("nvfp4", (256, 688), 16),
        ("int8_w8a8", (7,), None),
        ("fp8_dynamic", (7,), None),
    ],
)
def test_groups_are_the_largest_that_divide_every_layer(scheme, inputs, size):
    assert schemes.group_size(scheme, {str(width): (64, width) for width in inputs}) == (size, [])


def test_a_layer_that_no_group_divides_stays_as_it_is():
    """The model of the quickstart: 688 = 16 x 43."""
    widths = {"q_proj": (256, 256), "up_proj": (688, 256), "down_proj": (256, 688)}
    assert schemes.group_size("int4_w4a16", widths) == (128, ["down_proj"])
    assert schemes.group_size("nvfp4", widths) == (16, [])
    assert schemes.group_size("int4_w4a16", {"a": (64, 96), "b": (64, 128), "c": (8, 40)}) == (32, ["c"])


@pytest.mark.parametrize(
    ("scheme", "shape", "reason"),
    [
        ("int4_w4a16", (64, 344), "scheme int4_w4a16: odd has 344 inputs, .* 128 or 64 or 32 .*; use int8_w8a8 or"),
        ("nvfp4a16", (64, 344), "scheme nvfp4a16: odd has 344 inputs, .* groups of 16"),
        ("fp8_block", (64, 128), "scheme fp8_block: odd is 64 x 128, .* use fp8_dynamic"),
        ("fp8_block", (128, 64), "scheme fp8_block: odd is 128 x 64"),
        ("fp8_block", (256, 128), "scheme fp8_block: odd is 256 x 128, .* two of inputs at least"),
    ],
)
def test_widths_that_no_group_divides_are_refused_with_the_layer_and_a_way_out(scheme, shape, reason):
    with pytest.raises(UserError, match=reason) as raised:
        schemes.group_size(scheme, {"odd": shape} | ({"good": (128, 256)} if scheme == "fp8_block" else {}))
    assert "\n" not in str(raised.value)
