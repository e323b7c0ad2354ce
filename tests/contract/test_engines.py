"""What must hold for every engine. A new engine is one more class with two fixtures."""

from __future__ import annotations

import dataclasses
import threading
from pathlib import Path

import numpy as np
import pytest
from engine_folders import SIZE, expected, fake_folder, onnxruntime_folder, openvino_folder

from edgeseg.bundle import Bundle
from edgeseg.errors import EngineError
from edgeseg.runtime.engine import Engine, EngineOptions, open_engine
from edgeseg.runtime.engine_fake import FakeEngine

pytestmark = pytest.mark.contract


def frames(count: int, seed: int = 0) -> list[np.ndarray]:
    random = np.random.default_rng(seed)
    return [random.integers(0, 256, (1, *SIZE, 3)).astype(np.uint8) for _ in range(count)]


class EngineContract:
    """Tests that each engine inherits."""

    @pytest.fixture(scope="class")
    @classmethod
    def bundle(cls, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
        raise NotImplementedError

    @pytest.fixture(scope="class")
    @classmethod
    def engine(cls, bundle: Bundle) -> Engine:
        assert bundle.manifest.target is not None
        return open_engine(bundle.manifest.target.name, bundle, EngineOptions(threads=1))

    def test_labels_are_right(self, engine: Engine):
        (image,) = frames(1)
        assert np.array_equal(engine.infer(image), expected(image))

    def test_labels_are_uint8_of_the_manifests_size(self, engine: Engine, bundle: Bundle):
        labels = engine.infer(frames(1)[0])
        assert labels.dtype == np.uint8
        assert labels.shape == (1, *bundle.manifest.input.size)

    def test_it_says_how_it_computes(self, engine: Engine):
        assert engine.version
        assert engine.device
        assert engine.inference_precision in ("f32", "bf16", "f16", "none")
        assert engine.threads == 1

    def test_same_input_same_output(self, engine: Engine):
        (image,) = frames(1)
        assert np.array_equal(engine.infer(image), engine.infer(image.copy()))

    def test_two_runs_do_not_share_memory(self, engine: Engine):
        one, two = frames(2)
        first = engine.infer(one)
        kept = first.copy()
        second = engine.infer(two)
        assert not np.shares_memory(first, second)
        assert not np.shares_memory(first, one)
        assert np.array_equal(first, kept)
        assert first.flags.writeable

    def test_a_reused_input_does_not_change_what_was_returned(self, engine: Engine):
        one, two = frames(2)
        buffer = one.copy()
        first = engine.infer(buffer)
        kept = first.copy()
        buffer[:] = two
        assert np.array_equal(first, kept)
        assert np.array_equal(engine.infer(buffer), expected(two))

    def test_labels_go_where_the_caller_says(self, engine: Engine):
        one, two, three = frames(3)
        out = engine.infer(one)
        other = np.full_like(out, 99)
        engine.infer_into(two, out)
        assert np.array_equal(out, expected(two))
        engine.infer_into(three, other)
        assert np.array_equal(other, expected(three))
        assert np.array_equal(out, expected(two)), "another array is another array"
        engine.infer_into(three, out)
        assert np.array_equal(out, expected(three)), "the same image, to another array"
        engine.infer_into(one, out)
        assert np.array_equal(out, expected(one))
        assert np.array_equal(other, expected(three))
        later = engine.infer(two)
        assert not np.shares_memory(later, out)
        assert np.array_equal(out, expected(one)), "what was lent before is not written again"

    def test_a_lent_input_is_read_anew(self, engine: Engine):
        one, two = frames(2)
        buffer, out = one.copy(), engine.infer(one)
        for image in (two, one, two):
            buffer[:] = image
            engine.infer_into(buffer, out)
            assert np.array_equal(out, expected(image))

    def test_what_is_lent_need_not_be_contiguous(self, engine: Engine):
        (image,) = frames(1)
        mirrored, wide = image[:, :, ::-1], np.zeros((1, SIZE[0], 2 * SIZE[1]), np.uint8)
        engine.infer_into(mirrored, wide[:, :, ::2])
        assert np.array_equal(wide[:, :, ::2], expected(mirrored))
        assert (wide[:, :, 1::2] == 0).all()

    def test_a_wrong_input_is_refused_there_too(self, engine: Engine):
        with pytest.raises(EngineError, match=r"image.*shape"):
            engine.infer_into(np.zeros((1, 2, 2, 3), np.uint8), np.zeros((1, 2, 2), np.uint8))

    def test_several_threads_lend_their_own_memory(self, engine: Engine):
        images = frames(40)
        wrong: list[int] = []

        def work(start: int) -> None:
            out = np.zeros((1, *SIZE), np.uint8)
            for index in range(start, len(images), 4):
                engine.infer_into(images[index], out)
                if not np.array_equal(out, expected(images[index])):
                    wrong.append(index)

        threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert wrong == []

    def test_several_threads_get_the_labels_of_one(self, engine: Engine):
        images = frames(40)
        answers: dict[int, np.ndarray] = {}

        def work(start: int) -> None:
            for index in range(start, len(images), 4):
                answers[index] = engine.infer(images[index])

        threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert len(answers) == len(images)
        assert all(np.array_equal(answers[i], expected(images[i])) for i in answers)

    def test_an_input_that_is_not_contiguous(self, engine: Engine):
        (image,) = frames(1)
        mirrored = image[:, :, ::-1]
        assert np.array_equal(engine.infer(mirrored), expected(mirrored))

    @pytest.mark.parametrize("shape", [(1, 8, 17, 3), (1, 8, 16, 4), (8, 16, 3), (2, 8, 16, 3)])
    def test_a_wrong_shape_is_an_engine_error(self, engine: Engine, shape: tuple[int, ...]):
        with pytest.raises(EngineError, match=r"image.*shape"):
            engine.infer(np.zeros(shape, np.uint8))

    def test_a_wrong_dtype_is_an_engine_error(self, engine: Engine):
        with pytest.raises(EngineError, match="float32"):
            engine.infer(np.zeros((1, *SIZE, 3), np.float32))


class FileEngineContract(EngineContract):
    """Engines that read a network file."""

    def test_a_broken_file_is_an_engine_error(self, bundle: Bundle, tmp_path: Path):
        folder = tmp_path / "broken"
        folder.mkdir()
        for name in bundle.manifest.files:
            (folder / name).write_bytes(b"not a network")
        assert bundle.manifest.target is not None
        with pytest.raises(EngineError, match=f"can't open {folder}"):
            open_engine(bundle.manifest.target.name, Bundle(folder, bundle.manifest))


class TestFakeEngine(EngineContract):
    @pytest.fixture(scope="class")
    @classmethod
    def bundle(cls, tmp_path_factory):
        return fake_folder(tmp_path_factory.mktemp("engines") / "fake")

    @pytest.fixture(scope="class")
    @classmethod
    def engine(cls, bundle):
        return FakeEngine(bundle, answer=expected)


class TestOnnxRuntimeEngine(FileEngineContract):
    @pytest.fixture(scope="class")
    @classmethod
    def bundle(cls, tmp_path_factory):
        return onnxruntime_folder(tmp_path_factory.mktemp("engines") / "ort")

    def test_other_precisions_are_refused(self, bundle):
        with pytest.raises(EngineError, match="computes in f32, not bf16"):
            open_engine("onnxruntime", bundle, EngineOptions(inference_precision="bf16"))


class TestOpenVinoEngine(FileEngineContract):
    @pytest.fixture(scope="class")
    @classmethod
    def bundle(cls, tmp_path_factory):
        return openvino_folder(tmp_path_factory.mktemp("engines") / "ov")

    def test_f32_unless_asked_otherwise(self, bundle):
        assert open_engine("openvino", bundle).inference_precision == "f32"

    @pytest.mark.parametrize("precision", ["fp16", "int8"])
    @pytest.mark.parametrize(("able", "used"), [(["FP32", "INT8", "BF16"], "bf16"), ([], "f32")])
    def test_what_is_not_fp32_is_computed_in_the_half_that_the_cpu_has(
        self, bundle, precision, able, used, monkeypatch
    ):
        from edgeseg.runtime import engine_openvino

        asked = []
        real = engine_openvino.shared_core()

        class Core:
            def get_property(self, device, name):
                return able if name == "OPTIMIZATION_CAPABILITIES" else "a CPU"

            def compile_model(self, path, device, settings):
                asked.append(settings["INFERENCE_PRECISION_HINT"])
                return real.compile_model(path, device)

        monkeypatch.setattr(engine_openvino, "shared_core", Core)
        manifest = dataclasses.replace(bundle.manifest, precision=precision)
        folder = dataclasses.replace(bundle, manifest=manifest)
        assert open_engine("openvino", folder).inference_precision == used
        assert asked == [used]
