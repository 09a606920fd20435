"""The expected figures of every named network, and those that the papers' tables publish."""

import json
from importlib.resources import files

import pytest
import torch

from sartor.models.network import build, count, list_models, spec_of
from sartor.testing.backbones import observed_cost

FIGURES = json.loads(files("sartor.models").joinpath("vision/figures.json").read_text())


def figures(spec):
    tally = spec.tally()
    return {"params": tally.params, "macs": tally.macs, "activations": tally.activations}


def test_figures_name_every_network():
    missing = [f'"{name}": {json.dumps(figures(spec_of(name)))}' for name in list_models() if name not in FIGURES]
    assert not missing, "figures.json lacks\n" + ",\n".join(missing)
    assert set(FIGURES) == set(list_models())


@pytest.mark.parametrize("name", FIGURES)
def test_counts_are_the_expected(name):
    assert figures(spec_of(name)) == FIGURES[name]


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if "1001" in n else n for n in FIGURES])
def test_hooks_see_the_expected(name):
    spec = spec_of(name)
    network = build(spec, device="meta").eval().deploy()
    assert observed_cost(network, torch.empty(1, spec.channels, *spec.size, device="meta")) == count(spec)


# name: parameters, multiply-adds (None where the paper's specification gives none)
PUBLISHED = {
    "resnet18": (11_689_512, None),
    "resnet50": (25_557_032, 4_089_184_256),
    "resnet101": (44_549_160, None),
    "resnet152": (60_192_808, None),
    "resnext50_2x40d": (25_425_000, 4_124_508_160),
    "resnext50_4x24d": (25_292_968, 4_159_832_064),
    "resnext50_8x14d": (25_603_016, 4_267_409_408),
    "resnext50_32x4d": (25_028_904, 4_230_479_872),
    "resnext101_32x4d": (44_177_704, 7_969_996_800),
    "resnext101_64x4d": (83_455_272, 15_460_270_080),
    "resnext101_1x100d": (85_611_336, 15_272_862_720),
    "resnext101_2x64d": (84_198_184, 15_123_087_360),
    "resnext29_8x64d_cifar": (34_426_698, 5_387_266_048),
    "resnext29_16x64d_cifar": (68_155_210, 10_688_866_304),
    "wrn40_1_cifar": (563_930, 83_280_512),
    "wrn40_2_cifar": (2_243_546, 327_599_360),
    "wrn40_4_cifar": (8_949_210, 1_298_582_016),
    "wrn40_8_cifar": (35_748_314, None),
    "wrn40_10_cifar": (55_841_754, None),
    "wrn52_1_cifar": (758_362, None),
    "wrn28_10_cifar": (36_479_194, 5_243_328_768),
    "wrn28_12_cifar": (52_517_850, None),
    "wrn22_8_cifar": (17_158_106, None),
    "wrn22_10_cifar": (26_797_914, None),
    "wrn16_8_cifar": (10_961_370, 1_548_145_664),
    "wrn16_10_cifar": (17_116_634, None),
    "wrn16_4_cifar": (2_748_890, 392_612_352),
    "wrn40_2_b131_cifar": (1_429_082, None),
    "wrn40_2_b31_cifar": (1_211_354, None),
    "wrn40_2_b13_cifar": (1_297_370, None),
    "wrn40_2_b311_cifar": (1_343_066, None),
    "wrn28_2_b33_cifar": (1_467_610, None),
    "wrn22_2_b313_cifar": (1_145_498, None),
    "wrn40_2_l1_cifar": (2_243_546, None),
    "wrn40_2_l2_cifar": (2_243_546, None),
    "wrn40_2_l3_cifar": (2_243_546, None),
    "wrn40_2_l4_cifar": (2_243_546, None),
    "wide_resnet50_2": (68_883_240, 11_398_021_120),
    "preact_resnet164_cifar": (1_703_258, 244_500_992),
    "preact_resnet1001_cifar": (10_327_706, 1_487_849_984),
    "preact_resnet110_cifar": (1_727_962, None),
    "preact_resnet50": (25_549_352, 4_089_184_256),
    "preact_resnet101": (44_541_480, 7_801_405_440),
    "preact_resnet152": (60_185_128, 11_513_626_624),
    "preact_resnet200": (64_666_152, 15_007_481_856),
    "hardnet39ds": (3_488_228, 428_447_474 + 1_024_000),  # the published ones are of convolutions
    "hardnet68ds": (4_180_602, 774_257_526 + 1_024_000),
    "hardnet68": (17_565_348, 4_245_090_304 + 1_024_000),
    "hardnet85": (36_670_212, 9_072_801_584 + 1_280_000),
    "fc_hardnet70": (4_119_257, 16 * 2_201_089_152),  # published at 256x512, 16 times smaller
    "resnetrs50": (35_691_912, 2_278_629_376),
    "resnetrs101": (63_618_696, 6_012_157_952),
    "resnetrs152": (86_621_576, 15_527_886_848),
    "resnetrs200": (93_209_992, 20_093_386_752),
    "resnetrs270": (129_861_448, 26_950_189_056),
    "resnetrs350": (163_956_168, 34_376_597_504),
    "resnetrs420": (191_891_656, 63_942_344_704),
    "res2net50_64w_1s": (25_557_032, 4_089_184_256),
    "res2net50_48w_2s": (25_287_304, 4_159_832_064),
    "res2net50_26w_4s": (25_699_120, 4_255_166_464),
    "res2net50_14w_8s": (25_059_816, 4_178_898_944),
    "res2net50_26w_6s": (37_051_448, 6_295_523_328),
    "res2net50_26w_8s": (48_403_776, 8_335_880_192),
    "res2net50_18w_4s": (18_095_104, 2_898_407_424),
    "res2net101_26w_4s": (45_206_688, 8_066_974_464),
    "res2next50": (24_671_464, 4_172_677_120),
    "res2net50d": (25_718_352, 4_494_807_040),
    "res2net101d": (45_225_920, 8_306_615_040),
    "seres2net50_26w_4s": (28_230_112, None),
    "dla60_res2net": (20_848_072, 4_122_681_344),
    "dla60_res2next": (17_032_984, 3_458_752_512),
    "simplenet_cifar_310k": (312_362, 55_788_160),
    "simplenet_cifar_460k": (385_790, 73_189_864),
    "simplenet_cifar_5m": (5_498_378, 652_151_296),
    "simplenet_cifar_5m_extra_pool": (5_498_378, 631_507_456),
    "simplenetv1_small_m1_05": (1_506_792, 340_923_392),
    "simplenetv1_small_m2_05": (1_506_792, 427_627_520),
    "simplenetv1_small_m1_075": (3_287_272, 758_853_120),
    "simplenetv1_small_m2_075": (3_287_272, 953_937_408),
    "simplenetv1_5m_m1": (5_752_808, 1_341_761_536),
    "simplenetv1_5m_m2": (5_752_808, 1_688_578_048),
    "simplenetv1_9m_m1": (9_508_968, 2_774_249_984),
    "simplenetv1_9m_m2": (9_508_968, 3_554_587_136),
    "simplenet_caffe_5m": (5_493_258, None),
    "simplenet_caffe_310k": (311_594, None),
    "simplenet_caffe_460k": (455_862, None),
    "simplenet_caffe_mnist": (5_490_570, None),
    "simpnet_cifar_5m": (5_478_223, None),
    "simpnet_cifar_9m": (8_902_729, None),
    "simpnet_mnist": (1_393_600, None),
    "vit_res_tiny": (42_012_736, 1_794_378_240),
    "vit_resnas_tiny": (40_793_552, 1_782_630_272),
    "vit_resnas_small": (63_724_108, 2_845_501_856),
    "vit_resnas_medium": (96_442_672, 4_513_135_936),
    "vit_resnas_tiny_super": (84_814_464, 3_497_553_920),
    "vit_resnas_small_super": (155_318_528, 6_260_342_784),
}
MILLIONS = {  # published rounded to 0.1 M
    "wide_resnet18_1_5": 25.9,
    "wide_resnet18_2": 45.6,
    "wide_resnet18_3": 101.8,
    "wide_resnet34_1_5": 48.6,
    "wide_resnet34_2": 86.0,
}
OTHER_CLASSES = {
    ("resnext29_8x64d_cifar", 100): 34_426_698 + 92_250,
    ("resnext29_16x64d_cifar", 100): 68_155_210 + 92_250,
    ("resnext50_32x4d", 5000): 33_224_904,
    ("wrn40_1_cifar", 100): 569_780,
    ("wrn40_2_cifar", 100): 2_255_156,
    ("wrn40_4_cifar", 100): 8_972_340,
    ("wrn40_8_cifar", 100): 35_794_484,
    ("wrn28_10_cifar", 100): 36_536_884,
    ("wrn28_12_cifar", 100): 52_587_060,
    ("wrn16_4_cifar", 100): 2_772_020,
    ("preact_resnet164_cifar", 100): 1_726_388,
    ("preact_resnet1001_cifar", 100): 10_350_836,
    ("simplenet_cifar_310k", 100): 318_212,
    ("simplenet_cifar_460k", 100): 394_880,
    ("simplenet_cifar_5m", 100): 5_521_508,
    ("simplenet_cifar_5m_extra_pool", 100): 5_521_508,
    ("res2next29_6c_24w_4s_cifar", 100): 23_705_732,
    ("res2next29_8c_25w_4s_cifar", 100): 32_957_436,
    ("res2next29_6c_24w_6s_cifar", 100): 36_146_180,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_figures(name):
    params, macs = PUBLISHED[name]
    tally = spec_of(name).tally()
    assert tally.params == params
    assert macs is None or tally.macs == macs


@pytest.mark.parametrize("name", MILLIONS)
def test_published_millions(name):
    assert round(spec_of(name).tally().params / 1e6, 1) == MILLIONS[name]


@pytest.mark.parametrize(("name", "classes"), OTHER_CLASSES)
def test_published_figures_of_other_heads(name, classes):
    assert spec_of(name, classes=classes).tally().params == OTHER_CLASSES[name, classes]


def test_multiply_adds_at_other_sizes():
    assert spec_of("resnet50").tally((160, 160)).macs == 2_087_321_600


@pytest.mark.parametrize(
    ("name", "macs", "activations"),
    [("resnet50", 4_089_185_256, 11_315_688), ("resnext50_32x4d", 4_230_480_872, 14_602_216)],
)
def test_the_pycls_convention(name, macs, activations):
    tally = spec_of(name).tally(convention="pycls")
    assert (tally.macs, tally.activations) == (macs, activations)
