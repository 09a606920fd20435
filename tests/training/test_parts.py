"""Orders, feeds, schedules, losses and optimisers by themselves."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_training import Images

from sartor.core.errors import SpecError
from sartor.training.clipping import clip_gradients
from sartor.training.feed import Feed
from sartor.training.losses.classification import BinaryCrossEntropy, CrossEntropy, soft_targets
from sartor.training.optimisers import SGD, Adadelta, AdamW, Lamb, RMSpropTF
from sartor.training.orders import Repeated, Sequential, Shuffled
from sartor.training.plan import ObservingSchedule, Stream
from sartor.training.schedules import Constant, Cosine, Held, OneCycle, Scaled, StableDecay, Staircase, Steps, Warmup


class TestOrders:
    @given(length=st.integers(1, 500), seed=st.integers(0, 9), epoch=st.integers(0, 9))
    def test_shuffled_visits_each_once(self, length, seed, epoch):
        keys = Shuffled().keys(length, seed, epoch, 1)
        assert sorted(keys) == list(range(length))
        assert (keys == Shuffled().keys(length, seed, epoch, 1)).all()

    def test_epochs_and_seeds_are_shuffled_anew(self):
        orders = [Shuffled().keys(50, seed, epoch, 1).tolist() for seed in (0, 1) for epoch in (0, 1)]
        assert len({tuple(order) for order in orders}) == 4

    def test_repeated_facts(self):
        """The figures of Wightman et al.'s sampler: ten examples on two ranks, and ImageNet on eight."""
        keys = Repeated(3, shuffle=False).keys(10, 0, 0, 2)
        assert (keys[0::2] % 10).tolist() == [0, 0, 1, 2, 2]
        assert (keys[1::2] % 10).tolist() == [0, 1, 1, 2, 3]
        assert len(Repeated(3, shuffle=False).keys(1_281_167, 0, 0, 8)) == 8 * 160_128

    @given(length=st.integers(1, 600), world=st.integers(1, 5), times=st.integers(2, 4))
    def test_copies_have_keys_of_their_own(self, length, world, times):
        keys = Repeated(times).keys(length, 0, 0, world)
        assert len(keys) % world == 0
        assert (keys // length < times).all()
        distinct = len(set(keys % length))
        assert distinct <= -(-len(keys) // times) + 1


class TestFeed:
    def feed(self, batch=8, place=(0, 1), parts=1, workers=0, examples=None):
        stream = Stream(examples or Images(40), Shuffled(), batch, workers)
        return Feed(stream, lambda data, step, epoch: {**data, "at": torch.tensor([step, epoch])}, 3, place, parts)

    @given(world=st.sampled_from([1, 2, 4]), parts=st.sampled_from([1, 2]))
    @settings(deadline=None)
    def test_ranks_and_parts_share_the_batch(self, world, parts):
        whole = self.feed()
        for step in (0, 4, 5, 11):
            shared = [
                batch["key"].tolist()
                for r in range(world)
                for batch in self.feed(place=(r, world), parts=parts).batches(step)
            ]
            assert sorted(key for keys in shared for key in keys) == sorted(whole.batches(step)[0]["key"].tolist())
            assert len({len(keys) for keys in shared}) == 1

    def test_batches_are_functions_of_the_step(self):
        feed, threads = self.feed(), self.feed(workers=2)
        for step in (3, 4, 5, 12):
            (mine,), (theirs,) = feed.batches(step), threads.batches(step, 14)
            assert all(torch.equal(mine[name], theirs[name]) for name in mine)
            assert mine["at"].tolist() == [step, step // 5]
        threads.close()

    def test_coming_batches_are_announced(self):
        told = []
        examples = Images(40)
        examples.prefetch = lambda indices: told.append(indices.tolist())
        feed = self.feed(examples=examples)
        for step in range(3):
            feed.batches(step, 3)
        assert told == [(feed.keys(step) % 40).tolist() for step in (1, 2)]


class TestSchedules:
    def test_values(self):
        assert [Cosine(0.1).value(s, 10) for s in (0, 5, 10)] == pytest.approx([1.0, 0.55, 0.1])
        assert [Steps((0.5, 0.75), 0.1).value(s, 100) for s in (0, 49, 50, 75)] == pytest.approx([1, 1, 0.1, 0.01])
        assert [StableDecay(0.5).value(s, 10) for s in (0, 5, 6, 9)] == pytest.approx([1, 1, 0.8, 0.2])
        assert StableDecay(0.5, 0.2).value(10, 10) == pytest.approx(0.2)
        assert Scaled(Constant(), 0.3).value(5, 10) == 0.3

    def test_warmup_and_holding(self):
        warm = Warmup(Cosine(), 4, 0.2)
        assert [warm.value(s, 100) for s in (0, 2, 4)] == pytest.approx([0.2, 0.6, Cosine().value(4, 100)])
        assert Warmup(Constant(), 4, 0.2, constant=True).value(3, 100) == 0.2
        held = Held(Cosine(), 10)
        assert held.value(19, 100) == held.value(10, 100) == Cosine().value(10, 100)

    @given(st.integers(1, 500), st.integers(1, 500))
    def test_without_decay_the_end_does_not_matter(self, total, later):
        schedule = Warmup(StableDecay(0.0), 20)
        for step in range(0, min(total, later), 7):
            assert schedule.value(step, total) == schedule.value(step, later)

    def test_staircase(self):
        stairs = Staircase(0.25, 0.5)
        assert [stairs.value(s, 8) for s in range(9)] == [1, 1, 0.5, 0.5, 0.25, 0.25, 0.125, 0.125, 0.0625]
        with pytest.raises(SpecError, match="every is a share"):
            Staircase(0.0)

    @pytest.mark.parametrize(("rise", "start", "end"), [(0.1, 20.0, 1e4), (0.3, 25.0, 100.0)])
    def test_one_cycle_is_pytorchs(self, rise, start, end):
        optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1, momentum=0.9)
        theirs = torch.optim.lr_scheduler.OneCycleLR(
            optimiser, 0.3, total_steps=50, pct_start=rise, div_factor=start, final_div_factor=end, cycle_momentum=False
        )
        for step in range(50):
            assert 0.3 * OneCycle(rise, start, end).value(step, 50) == pytest.approx(theirs.get_last_lr()[0]), step
            optimiser.step()
            if step < 49:
                theirs.step()
        with pytest.raises(SpecError, match="rise is a share"):
            OneCycle(1.0)

    def test_plain_schedules_observe_nothing(self):
        assert not isinstance(Cosine(), ObservingSchedule)


class TestLosses:
    logits = torch.sin(torch.arange(12.0)).reshape(3, 4)
    labels = torch.tensor([0, 3, 1])

    def test_published_values(self):
        """Mean, smoothed and summed binary cross-entropy of sin(0..11)."""
        batch = {"label": self.labels}
        assert BinaryCrossEntropy()(self.logits, batch).item() == pytest.approx(0.6818020, abs=1e-6)
        assert BinaryCrossEntropy(0.1)(self.logits, batch).item() == pytest.approx(0.6898546, abs=1e-6)
        assert BinaryCrossEntropy(sum_classes=True)(self.logits, batch).item() == pytest.approx(2.7272079, abs=1e-6)

    @pytest.mark.parametrize("share", [0.0, 0.1, 0.2, 0.21, 0.5, 0.79, 0.8, 0.9, 1.0])
    def test_thresholded_targets_are_multi_hot(self, share):
        batch = {"label": self.labels, "other": self.labels.flip(0), "share": torch.full((3,), share)}
        target = (soft_targets(batch, 4, 0.0) > 0.2).float()
        own, other = float(share > 0.2), float(round(1 - share, 6) > 0.2)
        assert target[0].tolist() == pytest.approx([own, other, 0.0, 0.0])
        assert target[1].tolist() == pytest.approx([0.0, 0.0, 0.0, 1.0])
        hard = BinaryCrossEntropy(threshold=0.2)(self.logits, batch)
        expected = torch.nn.functional.binary_cross_entropy_with_logits(self.logits, target)
        torch.testing.assert_close(hard, expected)

    @pytest.mark.parametrize("smoothing", [0.0, 0.1])
    def test_unmixed_soft_targets_equal_labels(self, smoothing):
        plain = {"label": self.labels}
        soft = {**plain, "other": self.labels.flip(0), "share": torch.ones(3)}
        for loss in (CrossEntropy(smoothing), BinaryCrossEntropy(smoothing)):
            torch.testing.assert_close(loss(self.logits, plain), loss(self.logits, soft))
        assert soft_targets(soft, 4, smoothing).sum(1).tolist() == pytest.approx([1.0] * 3)

    def test_half_precision_logits_are_summed_in_full(self):
        batch = {"label": self.labels}
        assert CrossEntropy()(self.logits.bfloat16(), batch).dtype == torch.float32


class TestOptimisers:
    def parameter(self, value=(3.0, 4.0)):
        return torch.nn.Parameter(torch.tensor(value))

    def test_first_lamb_step(self):
        """Gradient (0.6, 0.8) of norm 1: moments cancel to its signs, the trust ratio is |w| / |sign + decay w|."""
        parameter, free = self.parameter(), self.parameter()
        optimiser = Lamb(eps=0.0)(
            [{"params": [parameter], "weight_decay": 0.1}, {"params": [free], "weight_decay": 0.0}]
        )
        parameter.grad, free.grad = torch.tensor([0.6, 0.8]), torch.tensor([0.6, 0.8])
        for group in optimiser.param_groups:
            group["lr"] = 0.5
        optimiser.step()
        update = torch.tensor([1.3, 1.4])
        torch.testing.assert_close(parameter.detach(), torch.tensor([3.0, 4.0]) - 0.5 * 5.0 / update.norm() * update)
        torch.testing.assert_close(free.detach(), torch.tensor([2.5, 3.5]))

    def test_lamb_clips_the_global_norm_and_leaves_gradients_alone(self):
        moments = []
        for scale in (10.0, 1000.0):
            parameter = self.parameter()
            optimiser = Lamb()([{"params": [parameter], "weight_decay": 0.1}])
            parameter.grad = torch.tensor([0.6, 0.8]) * scale
            optimiser.step()
            torch.testing.assert_close(parameter.grad, torch.tensor([0.6, 0.8]) * scale)
            moments.append(optimiser.state[parameter]["exp_avg"])
        torch.testing.assert_close(*moments)
        torch.testing.assert_close(moments[0], torch.tensor([0.06, 0.08]))

    @pytest.mark.parametrize("spec", [SGD(), AdamW(), Lamb(), RMSpropTF()])
    def test_they_minimise(self, spec):
        parameter = self.parameter()
        optimiser = spec([{"params": [parameter], "weight_decay": 0.0}])
        for step in range(300):
            optimiser.param_groups[0]["lr"] = 0.1 * (1 - step / 300)
            (parameter**2).sum().backward()
            optimiser.step()
            parameter.grad = None
        assert parameter.detach().norm() < 0.1

    @pytest.mark.parametrize(
        ("spec", "theirs"),
        [
            (SGD(), lambda groups: torch.optim.SGD(groups, lr=0.1, momentum=0.9, nesterov=True, fused=True)),
            (SGD(0.0, False), lambda groups: torch.optim.SGD(groups, lr=0.1, fused=True)),
            (AdamW(), lambda groups: torch.optim.AdamW(groups, lr=0.1, fused=True)),
            (Adadelta(0.8), lambda groups: torch.optim.Adadelta(groups, lr=0.1, rho=0.8, eps=1e-3, foreach=True)),
        ],
    )
    def test_they_equal_pytorchs_classes(self, spec, theirs):
        made = []
        for optimiser_of in (spec, theirs):
            parameters = [self.parameter(), self.parameter((1.0, -1.0))]
            optimiser = optimiser_of([{"params": parameters, "weight_decay": 0.1}])
            for step in range(4):
                optimiser.param_groups[0]["lr"] = 0.1 / (step + 1)
                for parameter in parameters:
                    parameter.grad = torch.tensor([1.0, -0.3]) * step
                optimiser.step()
            made.append(torch.stack([p.detach() for p in parameters]))
        assert torch.equal(*made)

    def test_units_are_clipped_and_classifiers_spared(self):
        row, spared = (torch.nn.Parameter(torch.tensor([[3.0, 4.0], [0.0, 0.0]])) for _ in range(2))
        row.grad, spared.grad = (torch.tensor([[6.0, 8.0], [1e-6, 0.0]]) for _ in range(2))
        clip_gradients([{"params": [row]}, {"params": [spared], "clipped": False}], 0.1, "unit")
        torch.testing.assert_close(row.grad, torch.tensor([[0.3, 0.4], [1e-6, 0.0]]))
        assert spared.grad[0].tolist() == [6.0, 8.0]
        clip_gradients([{"params": [row]}], 0.05)
        assert row.grad.norm().item() == pytest.approx(0.05, rel=1e-4)

    def test_sequential_order(self):
        assert np.array_equal(Sequential().keys(4, 1, 2, 1), [0, 1, 2, 3])
