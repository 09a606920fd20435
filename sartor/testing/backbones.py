"""The laws of a backbone, each a function that raises AssertionError with what is broken.

A third party's tests need a spec that builds its network and one line::

    check_backbone(MySpec(...))

or, one test per law and spec, with pytest::

    @pytest.mark.parametrize("check", [pytest.param(check, id=name) for name, check in cases({"mine": MySpec(...)})])
    def test_backbone(check):
        check()
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor, nn

from sartor.core.cost import Cost, counted
from sartor.core.errors import SartorError
from sartor.core.protocols import Backbone
from sartor.core.spec import from_json, to_json
from sartor.cost.counters import FLOAT_BYTES
from sartor.models.network import build, count
from sartor.models.tokens import Attend

ROLES = ("input", "hidden", "readout", "bias", "norm", "embedding")
BATCH = 2


@dataclass(frozen=True)
class Subject:
    """A backbone in eval mode, with norms that have seen data, and a batch of random inputs for it."""

    spec: Any
    backbone: Any
    x: Any


def check_backbone(spec: Any, laws: Iterable[str] | None = None) -> None:
    """Hold the network of a spec against ``laws`` (default: all of ``LAWS``); raises AssertionError."""
    for law in LAWS if laws is None else laws:
        LAWS[law](_subject(spec))


def cases(specs: Mapping[str, Any], laws: Iterable[str] | None = None) -> Iterator[tuple[str, Callable[[], None]]]:
    """One check without arguments for each named spec and law, under the name ``spec-law``."""
    for name, spec in specs.items():
        for law in LAWS if laws is None else laws:
            yield f"{name}-{law}", partial(check_backbone, spec, (law,))


def draw_inputs(spec: Any, batch: int = BATCH, seed: int = 0) -> Any:
    """Standard normal inputs of the shapes the spec states: a tensor, or one by name where there are several."""
    generator = torch.Generator().manual_seed(seed)
    fields = spec.inputs.fields
    drawn = {name: torch.randn(batch, *field.shape, generator=generator) for name, field in fields.items()}
    return drawn if len(drawn) > 1 else next(iter(drawn.values()))


def randomise_norms(network: nn.Module, x: Any, seed: int = 0) -> None:
    """Draw scales and shifts of all norms and give batch norms statistics near those of ``x``.

    Statistics are seen in one pass in training mode and then disturbed, so that every buffer matters and
    activations keep their size at any depth. Leaves the network in eval mode.
    """
    generator = torch.Generator().manual_seed(seed)

    def uniform(like: Tensor, low: float, high: float) -> Tensor:
        return (low + (high - low) * torch.rand(like.shape, generator=generator)).to(like)

    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)]
    layer_norms = [module for module in network.modules() if isinstance(module, nn.LayerNorm)]
    momenta = [norm.momentum for norm in norms]
    with torch.no_grad():
        for norm in [*norms, *layer_norms]:
            norm.weight.copy_(uniform(norm.weight, 0.5, 1.5))
            norm.bias.copy_(uniform(norm.bias, -0.3, 0.3))
        for norm in norms:
            norm.momentum = 1.0
        network.train()(x)
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
            if norm.running_mean is not None and norm.running_var is not None:
                norm.running_mean.add_(uniform(norm.running_mean, -0.3, 0.3) * (norm.running_var + norm.eps).sqrt())
                norm.running_var.mul_(uniform(norm.running_var, 0.7, 1.4))
    network.eval()


def observed_cost(network: nn.Module, x: Tensor) -> Cost:
    """What hooks see of one forward pass: params, macs, activations, traffic and cio for one example.

    The same is counted as by ``count``: weights, inputs and outputs of convolutions, linear layers and attention.
    """
    macs = activations = traffic = cio = 0

    def see(module: Any, args: tuple[Tensor], out: Tensor) -> None:
        nonlocal macs, activations, traffic, cio
        given, made = args[0][0].numel(), out[0].numel()
        turned = isinstance(module, nn.ConvTranspose2d)  # its weights, of one input channel, meet what is read
        macs += (given if turned else made) * module.weight[0].numel()
        activations += made
        traffic += FLOAT_BYTES * (given + made + module.weight.numel())
        cio += 0 if isinstance(module, nn.Linear) else given + made

    def see_attention(module: Any, args: tuple[Tensor, ...], out: Tensor) -> None:
        nonlocal macs, activations, traffic
        q, k, v = args[:3]
        scores = q[0, ..., 0].numel() * k.shape[-2]
        macs += scores * (q.shape[-1] + v.shape[-1])
        activations += scores + out[0].numel()
        traffic += FLOAT_BYTES * sum(tensor[0].numel() for tensor in (q, k, v, out))

    kinds = nn.Conv2d | nn.ConvTranspose2d | nn.Linear
    layers = [module for module in network.modules() if isinstance(module, kinds)]
    handles = [layer.register_forward_hook(see) for layer in layers]
    attention = [module for module in network.modules() if isinstance(module, Attend)]
    handles += [module.register_forward_hook(see_attention) for module in attention]
    try:
        with torch.no_grad():
            network(x)
    finally:
        for handle in handles:
            handle.remove()
    params = sum(parameter.numel() for parameter in network.parameters())
    return counted(params=params, macs=macs, activations=activations, traffic=traffic, cio=cio)


def spec_law(subject: Subject) -> None:
    """A spec is equal to what is read back from its JSON text."""
    text = json.dumps(to_json(subject.spec), allow_nan=False)
    read = from_json(json.loads(text))
    _require(read == subject.spec, f"from_json(to_json(spec)) is another spec: {read}")


def answer_law(subject: Subject) -> None:
    """Answers have the stated shape, repeat, and leave the input as it was."""
    _require(isinstance(subject.backbone, Backbone), "the network lacks members of the Backbone protocol")
    before = _clone(subject.x)
    answers = _forward(subject)
    if isinstance(answers, Tensor):
        (field,) = subject.spec.outputs.fields.values()
        wanted = (BATCH, *field.shape)
        _require(tuple(answers.shape) == wanted, f"answers are {tuple(answers.shape)}, the spec says {wanted}")
        _require(bool(answers.isfinite().all()), "answers are not finite")
    _require(_equal(answers, _forward(subject)), "two passes give different answers")
    _require(_equal(before, subject.x), "a pass changes its input")


def seam_law(subject: Subject) -> None:
    """``run(run(x, stop=s), start=s)`` is ``forward(x)`` bit for bit, and the ports tell the tensors' shapes.

    What crosses each seam is computed from the seam before it, and for some from the input too.
    """
    backbone, x, answers = subject.backbone, subject.x, _forward(subject)
    names = [seam.name for seam in backbone.seams]
    _require(len(set(names)) == len(names), f"two seams have one name: {names}")
    whole, before, state = set(_some(names)), None, x
    with torch.no_grad():
        for seam in backbone.seams:
            state, before = backbone.run(state, start=before, stop=seam.name), seam.name
            if seam.name in whole:
                _require(
                    _equal(backbone.run(x, stop=seam.name), state), f"seam {seam.name}: its state depends on the way"
                )
            kept = _clone(state)
            _require(_equal(backbone.run(state, start=seam.name), answers), f"seam {seam.name}: answers differ")
            _require(_equal(kept, state), f"seam {seam.name}: running on changes the state it is given")
            for port in seam.ports:
                tensor = state if isinstance(state, Tensor) else state[port.name]
                _check_port(f"seam {seam.name}, port {port.name}", port, tensor, x)


def feature_law(subject: Subject) -> None:
    """Features are what ``run`` gives, all in one pass; taps can be read and not started from.

    All are asked for together and compared with reading some of them alone.
    """
    backbone, answers = subject.backbone, _forward(subject)
    names = [seam.name for seam in backbone.seams]
    asked = [*reversed(names), *backbone.taps]
    with torch.no_grad():
        features = backbone.features(subject.x, asked)
        _require(list(features) == asked, "features are not what was asked for, in that order")
        for name in _some(names):
            _require(_equal(features[name], backbone.run(subject.x, stop=name)), f"feature {name} is not run's")
        for tap in _some(backbone.taps):
            alone = backbone.features(subject.x, [tap])
            _require(_equal(alone[tap], features[tap]), f"tap {tap} depends on what else is asked for")
        _require(not backbone.features(subject.x, []), "no features asked for, some given")
    _require(_equal(_forward(subject), answers), "reading features changes answers")
    if backbone.taps:
        _refused(lambda: backbone.run(subject.x, start=backbone.taps[0]), "run starts from a tap")


def name_law(subject: Subject) -> None:
    """An unknown seam is answered with near ones, and running backwards is refused."""
    backbone = subject.backbone
    names = [seam.name for seam in backbone.seams]
    for call in (
        lambda wrong: backbone.run(subject.x, stop=wrong),
        lambda wrong: backbone.run(subject.x, start=wrong),
        lambda wrong: backbone.features(subject.x, [wrong]),
    ):
        message = _refused(partial(call, f"{names[-1]}x"), "an unknown seam is taken")
        _require(any(name in message for name in names), f"an unknown seam is not answered with near ones: {message}")
    if len(names) > 1:
        state = backbone.run(subject.x, stop=names[-1])
        _refused(lambda: backbone.run(state, start=names[-1], stop=names[0]), "run goes backwards")


def role_law(subject: Subject) -> None:
    """Every parameter has a role that fits it, and the ends are there."""
    roles = subject.backbone.roles()
    parameters = dict(subject.backbone.named_parameters())
    _require(set(roles) == set(parameters), f"without a role, or no parameter: {set(roles) ^ set(parameters)}")
    for name, role in roles.items():
        _require(role.kind in ROLES, f"{name}: {role.kind!r} is not a role")
        _require(-1 <= role.block < max(role.branches, 1), f"{name}: block {role.block} of {role.branches} branches")
        if role.kind in ("input", "hidden", "readout"):
            fan_in = parameters[name][0].numel()
            _require(role.fan_in == fan_in, f"{name}: fan_in is {fan_in}, not {role.fan_in}")
    kinds = {role.kind for role in roles.values()}
    _require("readout" in kinds and bool({"input", "embedding"} & kinds), f"no input or no readout among {kinds}")
    _require(len({role.branches for role in roles.values()}) == 1, "parameters disagree about the number of branches")


def count_law(subject: Subject) -> None:
    """Counting without building gives what hooks see on the deployed network, in every field."""
    expected = count(subject.spec)
    seen = observed_cost(subject.backbone.deploy(), subject.x)
    for field in expected:
        _require(
            expected.value(field) == seen.value(field),
            f"{field}: counted {expected.value(field):.0f}, observed {seen.value(field):.0f}",
        )


def restore_law(subject: Subject) -> None:
    """The JSON form of the spec and the weights restore the network; a deployed one answers the same.

    Deployed answers are compared in double precision, so that rounding is no excuse.
    """
    answers = _forward(subject)
    restored = build(from_json(to_json(subject.spec)), init=False)
    restored.load_state_dict(subject.backbone.state_dict(), strict=True)
    exact = copy.deepcopy(subject.backbone).double()
    x = (
        {key: _exact(value) for key, value in subject.x.items()}
        if isinstance(subject.x, Mapping)
        else _exact(subject.x)
    )
    with torch.no_grad():
        _require(_equal(restored.eval()(subject.x), answers), "built again with the same weights, it answers otherwise")
        wanted, deployed = exact(x), exact.deploy().double().eval()(x)
    close = isinstance(deployed, Mapping) or torch.allclose(deployed, wanted, rtol=1e-6, atol=1e-6)
    _require(close, "the deployed network answers otherwise")


LAWS: Mapping[str, Callable[[Subject], None]] = {
    "spec": spec_law,
    "answers": answer_law,
    "seams": seam_law,
    "features": feature_law,
    "names": name_law,
    "roles": role_law,
    "count": count_law,
    "restore": restore_law,
}


@lru_cache(maxsize=1)
def _subject(spec: Any) -> Subject:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        backbone, x = build(spec), draw_inputs(spec)
        randomise_norms(backbone, x)
    return Subject(spec, backbone, x)


def _check_port(where: str, port: Any, tensor: Tensor, x: Any) -> None:
    _require(tensor.ndim == len(port.layout), f"{where}: {port.layout} of {tensor.ndim} dimensions")
    width = tensor.shape[port.layout.index("C" if "C" in port.layout else "D")]
    _require(width == port.width, f"{where}: width {width}, stated {port.width}")
    if port.layout == "NCHW":
        stated = tuple(-(-side // port.stride) for side in x.shape[-2:])
        _require(tuple(tensor.shape[-2:]) == stated, f"{where}: map {tuple(tensor.shape[-2:])}, by its stride {stated}")
    elif port.layout == "NLC" and isinstance(x, Tensor) and x.ndim == 4:
        stated = (port.prefix + math.prod(-(-side // port.stride) for side in x.shape[-2:]),)
        _require(tuple(tensor.shape[1:2]) == stated, f"{where}: {tensor.shape[1]} tokens, by its stride {stated[0]}")


def _some(names: Sequence[str]) -> Sequence[str]:
    """At most eight, spread evenly, the first among them."""
    return names[:: max(1, -(-len(names) // 8))]


def _exact(x: Tensor) -> Tensor:
    return x.double() if x.is_floating_point() else x


def _forward(subject: Subject) -> Any:
    with torch.no_grad():
        return subject.backbone(subject.x)


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, Mapping):
        return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)
    return torch.equal(a, b)


def _clone(state: Any) -> Any:
    return {key: value.clone() for key, value in state.items()} if isinstance(state, Mapping) else state.clone()


def _refused(call: Callable[[], Any], otherwise: str) -> str:
    """The message of the error a call must raise."""
    try:
        call()
    except SartorError as error:
        return str(error)
    raise AssertionError(otherwise)


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise AssertionError(message)
