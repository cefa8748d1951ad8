"""Sessions share nothing but constant data: any of them may run at any time."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from runtimes import ort
from tests.runtimes.native.layers import Layer, library, random_layer, relative_error

RUNS = 25


def layers() -> list[Layer]:
    return [
        random_layer(0, shape=(24, 16, 5), image=(20, 20)),
        random_layer(1, shape=(40, 32, 4), image=(4, 4), residual=True),
    ]


def worst_error(layer: Layer, session: object) -> float:
    expected = layer.expected()
    outputs = [ort.run(session, layer.feeds)[0] for _ in range(RUNS)]  # type: ignore[arg-type]
    return max(relative_error(y, expected) for y in outputs)


def test_two_sessions_in_two_threads() -> None:
    path = library()

    def create_and_run(layer: Layer) -> float:
        model = layer.model().SerializeToString()
        return worst_error(layer, ort.session(model, threads=2, native=path))

    with ThreadPoolExecutor(2) as pool:
        assert max(pool.map(create_and_run, layers())) <= 1e-5


def test_one_session_from_four_threads_with_images_of_different_sizes() -> None:
    session = ort.session(layers()[0].model().SerializeToString(), threads=2, native=library())
    images = [(20, 20), (4, 4), (20, 20), (9, 33), *((5, n) for n in range(5, 15))]
    fed = [random_layer(0, shape=(24, 16, 5), image=image) for image in images]
    with ThreadPoolExecutor(4) as pool:
        errors = list(pool.map(lambda layer: worst_error(layer, session), fed))
    assert max(errors) <= 1e-5


def test_number_of_threads_does_not_change_the_result() -> None:
    for layer in layers():
        model = layer.model().SerializeToString()
        one, two = (
            ort.run(ort.session(model, threads=n, native=library()), layer.feeds)[0] for n in (1, 2)
        )
        np.testing.assert_array_equal(one, two)
