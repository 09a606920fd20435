"""All engines give the classes of plain PyTorch; the guard keeps its promise."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from serving import as_images, pictures

from sartor.core.errors import SartorError, WeightsError
from sartor.runtime.description import Description
from sartor.runtime.engines import OPENERS, EngineUnavailable, at_once, open_engine, run
from sartor.runtime.engines.guard import Guarded, calibrate, margins

EXACT = ("folded", "packed", "onnx")
IMAGES = as_images(pictures(50, seed=3))


def opened(name, folder):
    try:
        return open_engine(name, Description.read(folder), folder)
    except EngineUnavailable as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("name", EXACT)
def test_float32_engines_agree(exported, name):
    expected, got = run(opened("eager", exported), IMAGES), run(opened(name, exported), IMAGES)
    assert got.dtype == np.float32
    assert np.abs(got - expected).max() <= 1e-5 * np.abs(expected).max()
    assert (got.argmax(1) == expected.argmax(1)).all()


def test_bfloat16_is_near_and_exact_behind_a_guard(exported):
    exact, fast = opened("eager", exported), opened("packed-bf16", exported)
    expected, rounded = run(exact, IMAGES), run(fast, IMAGES)
    assert 0 < np.abs(rounded - expected).max() <= 0.03 * np.abs(expected).max()
    guarded = Guarded(fast, opened("packed", exported), calibrate(rounded, expected))
    assert (run(guarded, IMAGES).argmax(1) == expected.argmax(1)).all()


@pytest.mark.parametrize("name", ["eager", *EXACT])
def test_two_views_are_the_average_of_two_calls(exported, mirrored, name):
    one, both = opened(name, exported), opened(name, mirrored)
    average = (one(IMAGES[:6]) + one(np.ascontiguousarray(IMAGES[:6, :, :, ::-1]))) / 2
    assert np.abs(both(IMAGES[:6]) - average).max() <= 1e-5 * np.abs(average).max()


@pytest.mark.parametrize("name", ["eager", "onnx", "packed", "packed-bf16"])
def test_any_batch_in_any_memory_order(exported, name):
    engine = opened(name, exported)
    rows_last = np.asfortranarray(IMAGES)
    rows_last.flags.writeable = False
    single = np.concatenate([engine(IMAGES[i : i + 1]) for i in range(5)])
    tolerance = (2e-2 if name == "packed-bf16" else 1e-5) * np.abs(single).max()
    assert np.abs(engine(IMAGES[:5]) - single).max() <= tolerance
    assert np.abs(engine(rows_last[:5]) - single).max() <= tolerance


@pytest.mark.slow
def test_compiled_agrees(exported):
    engine, expected = opened("compiled", exported), run(opened("eager", exported), IMAGES[:1])
    assert np.abs(engine(IMAGES[:1]) - expected).max() <= 1e-5 * np.abs(expected).max()


def test_unknown_and_unavailable_engines(exported, classifier, tmp_path):
    with pytest.raises(SartorError, match="unknown engine 'onyx': did you mean onnx"):
        OPENERS["onyx"]
    classifier.save(tmp_path / "plain")
    with pytest.raises(EngineUnavailable, match=r"no model\.onnx to run; export the model first"):
        open_engine("onnx", classifier.description, tmp_path / "plain")


def test_a_damaged_graph_is_one_line(exported, tmp_path):
    (tmp_path / "model.onnx").write_bytes((exported / "model.onnx").read_bytes()[:1000])
    with pytest.raises(WeightsError, match=r"model\.onnx: cannot be run") as caught:
        open_engine("onnx", Description.read(exported), tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("said", "given", "used"), [("3", None, 3), ("3", 2, 2), ("2,1", None, 2), ("", None, 0)])
def test_onnxruntime_heeds_the_variable_torch_heeds(exported, monkeypatch, said, given, used):
    monkeypatch.setenv("OMP_NUM_THREADS", said)
    engine = open_engine("onnx", Description.read(exported), exported, given)
    assert engine.session.get_session_options().intra_op_num_threads == used


def test_parts_are_smaller_for_larger_images():
    assert (at_once(32), at_once(224), at_once(2000)) == (64, 8, 1)


class Table:
    """An engine that looks its logits up: an image's only pixel is its row."""

    name = "table"

    def __init__(self, logits):
        self.logits, self.asked = logits, 0

    def __call__(self, images):
        self.asked += len(images)
        return self.logits[images[:, 0, 0, 0]].copy()


LOGITS = st.floats(-4, 4, width=32)


@given(
    exact=arrays(np.float32, (12, 3), elements=LOGITS),
    error=arrays(np.float32, (12, 3), elements=st.floats(-1, 1, width=32)),
)
def test_a_calibrated_guard_never_changes_a_class(exact, error):
    fast = exact + error
    guarded = Guarded(Table(fast), Table(exact), calibrate(fast, exact))
    rows = np.arange(12, dtype=np.uint8).reshape(12, 1, 1, 1)
    got, top = guarded(rows), np.sort(exact, axis=1)
    clear = top[:, -1] > top[:, -2]  # of exactly tied logits either may be called the largest
    assert (got.argmax(1) == exact.argmax(1))[clear].all()


def test_only_close_answers_are_computed_again():
    fast = np.array([[1.0, 0.0], [0.55, 0.5], [np.nan, 0.0]], np.float32)
    exact = Table(np.array([[9.0, 0.0], [0.5, 0.6], [3.0, 0.0]], np.float32))
    rows = np.arange(3, dtype=np.uint8).reshape(3, 1, 1, 1)
    got = Guarded(Table(fast), exact, 0.1)(rows)
    assert exact.asked == 2  # the close one and the broken one
    np.testing.assert_array_equal(got, np.array([[1.0, 0.0], [0.5, 0.6], [3.0, 0.0]], np.float32))
    assert np.isinf(margins(np.ones((2, 1), np.float32))).all()
