"""Every RegNet X and Y of timm: its state dict loads strictly and the logits are equal."""

import pytest
import torch

from sartor.models.network import build, count, list_models, spec_of

NAMES = list_models("regnet[xy]_[0-9]*")
LARGE = [name for name in NAMES if count(spec_of(name)).value("macs") > 5e9]
ODD = (97, 65)


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n in LARGE else n for n in NAMES if not n.endswith("_cifar")]
)
def test_logits_equal(timm, name):
    torch.manual_seed(0)
    theirs = timm.create_model(name).double().eval()
    for module in theirs.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            for tensor in (module.weight, module.bias, module.running_mean, module.running_var):
                torch.nn.init.uniform_(tensor, 0.5, 1.5)
    ours = build(spec_of(name), device="meta")  # then it shares the weights: the largest hold 10 GB
    ours.load_state_dict(theirs.state_dict(), strict=True, assign=True)
    ours.eval()
    with torch.inference_mode():
        x = torch.randn(2, 3, *ODD, dtype=torch.float64)
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-12, atol=1e-5)
        theirs, ours, x = theirs.float(), ours.float(), torch.randn(1, 3, 224, 224)
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-3, atol=1e-4)


def test_every_variant_of_timm_is_here(timm):
    plain = {n for n in timm.list_models("regnet[xy]_*") if not n.endswith("_sgn")}
    assert plain == {n for n in NAMES if not n.endswith("_cifar")}
