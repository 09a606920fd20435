"""Networks. Importing the package imports none: it says where each kind of spec is defined."""

from sartor.core.spec import lazy_kinds

KINDS = {
    "sartor.models.anynet": ("anynet", "stem", "stage"),
    "sartor.models.vision.resnet": ("basic", "bottleneck"),
    "sartor.models.vision.resnext": ("aggregated",),
    "sartor.models.vision.res2net": ("multi_scale",),
    "sartor.models.vision.simplenet": ("simplenet", "plain_unit"),
    "sartor.models.vision.dla": ("dla",),
    "sartor.models.vision.preact_resnet": (
        "preact_unit",
        "identity_shortcut",
        "scaled_shortcut",
        "gated_shortcut",
        "projected_shortcut",
        "dropped_shortcut",
    ),
    "sartor.models.vision.deit": ("vit",),
    "sartor.models.vision.swin": ("swin",),
    "sartor.models.vision.fcn": ("fcn",),
    "sartor.models.vision.levit": ("levit",),
    "sartor.models.vision.vit_resnas": ("vit-resnas",),
    "sartor.models.vision.regnet": ("regnet_x", "regnet_conv"),
    "sartor.models.vision.hardnet": ("harmonic",),
    "sartor.models.vision.hardnet_segmentation": ("dense-unet",),
    "sartor.models.vision.residual_mlp": ("residual-mlp",),
}
lazy_kinds({kind: module for module, kinds in KINDS.items() for kind in kinds})
