"""Films: what is written is what was shown, and anything else is an error."""

import logging

import numpy as np
import pytest

from shoal.errors import EmulationError, ParameterError
from shoal.ocean_c.film import Film, as_picture

imageio = pytest.importorskip("imageio.v3")


def pictures(count, height, width):
    """Pictures of one grey each, in one buffer, as environments have it."""
    buffer = np.zeros((height, width, 3), np.uint8)
    for i in range(count):
        buffer[:] = 20 * i + 10
        yield buffer


@pytest.mark.parametrize("suffix", [".gif", ".mp4"])
@pytest.mark.parametrize("height, width", [(32, 48), (33, 47), (210, 160)])
def test_a_film_shows_each_picture(tmp_path, caplog, suffix, height, width):
    path = tmp_path / "folder" / f"film{suffix}"
    with caplog.at_level(logging.WARNING), Film(path, 10) as film:
        for each in pictures(6, height, width):
            film.add(each)
    assert caplog.text == ""  # imageio's, about multiples of 16
    found = imageio.imread(path)
    assert found.shape == (6, height + height % 2, width + width % 2, 3)
    means = found.reshape(6, -1).mean(axis=1)
    np.testing.assert_allclose(means, 20 * np.arange(6) + 10, atol=4)


@pytest.mark.parametrize(
    "wrong", [None, "text", np.zeros(3), np.zeros((4, 4, 2)), np.zeros((0, 4))]
)
def test_what_is_no_picture_is_an_error(tmp_path, wrong):
    with pytest.raises(EmulationError, match="render: expected a picture of shape"):
        as_picture(wrong)


def test_another_size_is_an_error(tmp_path):
    with Film(tmp_path / "film.gif", 10) as film:
        film.add(np.zeros((8, 8, 3), np.uint8))
        with pytest.raises(EmulationError, match=r"first was \(8, 8, 3\), now got \(8, 6, 3\)"):
            film.add(np.zeros((8, 6, 3), np.uint8))


def test_another_ending_is_an_error(tmp_path):
    with pytest.raises(ParameterError, match=r"must end in \.gif or \.mp4, got film\.avi"):
        Film("film.avi", 10)


@pytest.mark.parametrize("channels", [None, 1, 3, 4])
def test_pictures_are_copies_in_three_colours(channels):
    shape = (4, 6) if channels is None else (4, 6, channels)
    given = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
    found = as_picture(given)
    assert found.shape == (4, 6, 3) and found.dtype == np.uint8
    np.testing.assert_array_equal(found[..., 0], given if channels is None else given[..., 0])
    before = found.copy()
    given[:] = 0
    np.testing.assert_array_equal(found, before)
