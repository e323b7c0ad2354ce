"""Keys of published weight files -> our names: one table for each family. Plain data; no torch."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

Rules = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Family:
    """How one family's keys are read.

    `rules` are (pattern, replacement), tried in order; the first whose pattern matches the whole
    key is taken. `<name>` in a replacement stands for `layers[name]`. `unused` are patterns of keys
    that the authors' own network holds and never computes with.
    """

    rules: Rules = ()
    layers: dict[str, str] = field(default_factory=dict)
    unused: tuple[str, ...] = ()

    def rename(self, key: str) -> str | None:
        """Our name for a published key, or None."""
        for pattern, replacement in self.rules:
            if match := re.fullmatch(pattern, key):
                name = match.expand(replacement)
                return re.sub(r"<(\w+)>", lambda m: self.layers[m.group(1)], name)
        return None

    def leaves_out(self, key: str) -> bool:
        """Whether the key is named as unused."""
        return any(re.fullmatch(pattern, key) for pattern in self.unused)


_BLOCK = r"(c1|d1|d2|d4|d8|d16)\.conv\.weight"
ESPNET = Family(
    rules=(
        (r"(?:encoder\.)?level1\.conv\.(.*)", r"encoder.stem.0.\1"),
        (r"(?:encoder\.)?level1\.bn\.(.*)", r"encoder.stem.1.\1"),
        (r"(?:encoder\.)?level1\.act\.(.*)", r"encoder.stem.2.\1"),
        (r"(?:encoder\.)?b([123])\.bn\.(.*)", r"encoder.join\1.0.\2"),
        (r"(?:encoder\.)?b([123])\.act\.(.*)", r"encoder.join\1.1.\2"),
        (rf"(?:encoder\.)?level([23])_0\.{_BLOCK}", r"encoder.down\1.<\2>.weight"),
        (r"(?:encoder\.)?level([23])_0\.bn\.(.*)", r"encoder.down\1.post.0.\2"),
        (r"(?:encoder\.)?level([23])_0\.act\.(.*)", r"encoder.down\1.post.1.\2"),
        (rf"(?:encoder\.)?level([23])\.(\d+)\.{_BLOCK}", r"encoder.stage\1.\2.<\3>.weight"),
        (r"(?:encoder\.)?level([23])\.(\d+)\.bn\.bn\.(.*)", r"encoder.stage\1.\2.post.0.\3"),
        (r"(?:encoder\.)?level([23])\.(\d+)\.bn\.act\.(.*)", r"encoder.stage\1.\2.post.1.\3"),
        (r"encoder\.classifier\.conv\.(.*)", r"project3.\1"),
        (r"classifier\.conv\.(.*)", r"classifier.\1"),
        (r"level3_C\.conv\.(.*)", r"project2.\1"),
        (r"br\.(.*)", r"norm3.\1"),
        (r"conv\.conv\.(.*)", r"last.0.\1"),
        (r"conv\.bn\.(.*)", r"last.1.\1"),
        (r"conv\.act\.(.*)", r"last.2.\1"),
        (r"up_l3\.0\.(.*)", r"up3.\1"),
        (r"combine_l2_l3\.0\.bn\.(.*)", r"join.0.\1"),
        (r"combine_l2_l3\.0\.act\.(.*)", r"join.1.\1"),
        (rf"combine_l2_l3\.1\.{_BLOCK}", r"fuse.<\1>.weight"),
        (r"combine_l2_l3\.1\.bn\.bn\.(.*)", r"fuse.post.0.\1"),
        (r"combine_l2_l3\.1\.bn\.act\.(.*)", r"fuse.post.1.\1"),
        (r"up_l2\.0\.(.*)", r"up2.0.\1"),
        (r"up_l2\.1\.bn\.(.*)", r"up2.1.\1"),
        (r"up_l2\.1\.act\.(.*)", r"up2.2.\1"),
        (r"classifier\.weight", r"upsample.weight"),
    ),
    layers={"c1": "reduce"} | {f"d{2**i}": f"branches.{i}" for i in range(5)},
)

# fmt: off
_ESPNETV2_LAYERS = {
    "conv": "0", "bn": "1", "act": "2",
    "proj_1x1_conv": "reduce.0", "proj_1x1_bn": "reduce.1", "proj_1x1_act": "reduce.2",
    "br_after_cat_bn": "post.0", "br_after_cat_act": "post.1",
    "conv_1x1_exp_conv": "expand.0", "conv_1x1_exp_bn": "expand.1",
    "level2_0": "downs.0", "level3_0": "downs.1", "level4_0": "downs.2",
    "level3": "stages.0", "level4": "stages.1",
    "bu_dec_l1": "pyramids.0", "bu_dec_l2": "pyramids.1", "bu_dec_l3": "pyramids.2",
    "bu_dec_l4": "last",
    "merge_enc_dec_l2": "skips.0", "merge_enc_dec_l3": "skips.1", "merge_enc_dec_l4": "skips.2",
    "bu_br_l2": "joins.0", "bu_br_l3": "joins.1", "bu_br_l4": "joins.2",
}
# fmt: on
_PART = r"(proj_1x1|conv_1x1_exp|br_after_cat)\.(conv|bn|act)\.(.*)"
_IMAGE = r"base_net\.(level[234]_0)\.inp_reinf"
ESPNETV2 = Family(
    rules=(
        (r"base_net\.level1\.(conv|bn|act)\.(.*)", r"encoder.stem.<\1>.\2"),
        (rf"base_net\.(level[234]_0)\.eesp\.{_PART}", r"encoder.<\1>.eesp.<\2_\3>.\4"),
        (
            r"base_net\.(level[234]_0)\.eesp\.spp_dw\.(\d)\.conv\.(.*)",
            r"encoder.<\1>.eesp.branches.\2.\3",
        ),
        (rf"{_IMAGE}\.([01])\.(conv|bn|act)\.(.*)", r"encoder.<\1>.image.\2.<\3>.\4"),
        (r"base_net\.(level[234]_0)\.act\.(.*)", r"encoder.<\1>.act.\2"),
        (rf"base_net\.(level[34])\.(\d)\.{_PART}", r"encoder.<\1>.\2.eesp.<\3_\4>.\5"),
        (
            r"base_net\.(level[34])\.(\d)\.spp_dw\.(\d)\.conv\.(.*)",
            r"encoder.<\1>.\2.eesp.branches.\3.\4",
        ),
        (r"base_net\.(level[34])\.(\d)\.module_act\.(.*)", r"encoder.<\1>.\2.act.\3"),
        (r"(bu_dec_l[1234])\.projection_layer\.cbr\.(.*)", r"<\1>.project.\2"),
        (r"(bu_dec_l[1234])\.stages\.(.*)", r"<\1>.stages.\2"),
        (r"(bu_dec_l[1234])\.merge_layer\.0\.br\.(.*)", r"<\1>.post.\2"),
        (r"(bu_dec_l[1234])\.merge_layer\.2\.cbr\.(.*)", r"<\1>.merge.\2"),
        (r"(bu_dec_l[1234])\.merge_layer\.3\.(.*)", r"<\1>.expand.\2"),
        (r"(bu_dec_l[123])\.br\.br\.(.*)", r"<\1>.norm.\2"),
        (r"(merge_enc_dec_l[234])\.wt_layer\.1\.(.*)", r"<\1>.gate.\2"),
        (r"(merge_enc_dec_l[234])\.expansion_layer\.cbr\.(.*)", r"<\1>.conv.\2"),
        (r"(bu_br_l[234])\.(.*)", r"<\1>.\2"),
    ),
    layers=_ESPNETV2_LAYERS,
    unused=(r"base_net\.level[234]_0\.eesp\.module_act\.weight",),
)

FAMILIES = {"espnet": ESPNET, "espnetv2": ESPNETV2}
"""By the module that builds the network."""
