"""Map the names of ``flow.pt`` in a release to ours; ``{}`` stands for a number in both."""

from __future__ import annotations


def _pair(foreign: str, ours: str) -> dict[str, str]:
    """Map the weight and the bias of one layer."""
    return {f"{foreign}.{kind}": f"{ours}.{kind}" for kind in ("weight", "bias")}


def _encoder_block(foreign: str, ours: str) -> dict[str, str]:
    attention, linear = f"{foreign}.self_attn", f"{foreign}.feed_forward"
    table = {
        f"{attention}.pos_bias_u": f"{ours}.attention.content_bias",
        f"{attention}.pos_bias_v": f"{ours}.attention.position_bias",
        f"{attention}.linear_pos.weight": f"{ours}.attention.position.weight",
    }
    for short, name in (("q", "query"), ("k", "key"), ("v", "value"), ("out", "out")):
        table |= _pair(f"{attention}.linear_{short}", f"{ours}.attention.{name}")
    table |= _pair(f"{linear}.w_1", f"{ours}.rise") | _pair(f"{linear}.w_2", f"{ours}.fall")
    table |= _pair(f"{foreign}.norm_mha", f"{ours}.attention_norm")
    return table | _pair(f"{foreign}.norm_ff", f"{ours}.linear_norm")


def _encoder() -> dict[str, str]:
    table = {}
    for foreign, ours in (("embed", "entry"), ("up_embed", "fine_entry")):
        table |= _pair(f"encoder.{foreign}.out.0", f"encoder.{ours}.linear")
        table |= _pair(f"encoder.{foreign}.out.1", f"encoder.{ours}.norm")
    table |= _pair("encoder.pre_lookahead_layer.conv1", "encoder.look_ahead.ahead")
    table |= _pair("encoder.pre_lookahead_layer.conv2", "encoder.look_ahead.behind")
    table |= _encoder_block("encoder.encoders.{}", "encoder.blocks.{}")
    table |= _pair("encoder.up_layer.conv", "encoder.rise")
    table |= _encoder_block("encoder.up_encoders.{}", "encoder.fine_blocks.{}")
    return table | _pair("encoder.after_norm", "encoder.norm")


def _unit(foreign: str, ours: str) -> dict[str, str]:
    residual, block = f"{foreign}.0", f"{foreign}.1.{{}}"
    table = _pair(f"{residual}.mlp.1", f"{ours}.residual.time")
    table |= _pair(f"{residual}.res_conv", f"{ours}.residual.direct")
    for short, name in (("block1", "first"), ("block2", "second")):
        table |= _filter(f"{residual}.{short}", f"{ours}.residual.{name}")
    ours = f"{ours}.blocks.{{}}"
    for short, name in (("q", "query"), ("k", "key"), ("v", "value")):
        table[f"{block}.attn1.to_{short}.weight"] = f"{ours}.{name}.weight"
    table |= _pair(f"{block}.attn1.to_out.0", f"{ours}.out")
    table |= _pair(f"{block}.norm1", f"{ours}.attention_norm")
    table |= _pair(f"{block}.norm3", f"{ours}.linear_norm")
    table |= _pair(f"{block}.ff.net.0.proj", f"{ours}.rise")
    return table | _pair(f"{block}.ff.net.2", f"{ours}.fall")


def _filter(foreign: str, ours: str) -> dict[str, str]:
    convolution = _pair(f"{foreign}.block.0", f"{ours}.behind.convolution")
    return convolution | _pair(f"{foreign}.block.2", f"{ours}.norm")


def _estimator() -> dict[str, str]:
    top, ours = "decoder.estimator", "estimator"
    table = _pair(f"{top}.time_mlp.linear_1", f"{ours}.time_rise")
    table |= _pair(f"{top}.time_mlp.linear_2", f"{ours}.time_fall")
    table |= _unit(f"{top}.down_blocks.0", f"{ours}.first")
    table |= _pair(f"{top}.down_blocks.0.2", f"{ours}.first_filter.convolution")
    table |= _unit(f"{top}.mid_blocks.{{}}", f"{ours}.middle.{{}}")
    table |= _unit(f"{top}.up_blocks.0", f"{ours}.last")
    table |= _pair(f"{top}.up_blocks.0.2", f"{ours}.last_filter.convolution")
    table |= _filter(f"{top}.final_block", f"{ours}.final")
    return table | _pair(f"{top}.final_proj", f"{ours}.out")


FLOW_NAMES: dict[str, str] = {
    "input_embedding.weight": "codes.weight",
    **_pair("spk_embed_affine_layer", "speaker"),
    **_encoder(),
    **_pair("encoder_proj", "wanted"),
    **_estimator(),
}
"""Name in ``flow.pt`` -> ours."""
