"""Layers of shoal_net.h against torch's."""

import ctypes
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from shoal.trainers.export import generate
from tests.trainers.export.c_policy import STRICT, at

HEADER = Path(generate.__file__).with_name("shoal_net.h")
FUNCTIONS = {
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "relu": torch.relu,
    "silu": functional.silu,
    "exp": torch.exp,
    "expm1": torch.expm1,
    "log1p": torch.log1p,
    "softplus": functional.softplus,
    "erf": torch.erf,
    "gelu": functional.gelu,
    "gelu_tanh": lambda x: functional.gelu(x, approximate="tanh"),
    "round": torch.round,
}
SOURCE = """
#include "shoal_net.h"
void linear(float *y, const float *x, const float *w, const float *b, int in, int out) {
    net_linear(y, x, w, b, in, out);
}
void conv2d(float *y, const float *x, const float *w, const float *b, const void *c, float *p) {
    net_conv2d(y, x, w, b, (const net_conv *)c, p);
}
void max_pool2d(float *y, const float *x, const void *c) {
    net_max_pool2d(y, x, (const net_conv *)c);
}
void layer_norm(float *y, const float *x, const float *w, const float *b, float e, int size) {
    net_layer_norm(y, x, w, b, e, size);
}
void lstm_cell(float *h, float *c, const float *old, const float *gates, int size) {
    net_lstm_cell(h, c, old, gates, size);
}
void mingru_cell(float *h, const float *old, const float *g, const float *c, int size) {
    net_mingru_cell(h, old, g, c, size);
}
void max_rows(float *y, const float *x, int rows, int columns) {
    net_max_rows(y, x, rows, columns);
}
int categorical(const float *l, const unsigned char *m, int n, uint64_t *random, int greedy) {
    return net_categorical(l, m, n, random, greedy);
}
void normals(float *y, int count, uint64_t *random) {
    for (int i = 0; i < count; i++)
        y[i] = net_normal(random);
}
"""


@pytest.fixture(scope="module")
def net(tmp_path_factory):
    folder = tmp_path_factory.mktemp("net")
    each = "".join(
        f"void f_{name}(float *y, const float *x, int n) "
        f"{{ for (int i = 0; i < n; i++) y[i] = net_{name}(x[i]); }}\n"
        for name in FUNCTIONS
    )
    (folder / "net.c").write_text(SOURCE + each)
    command = ["gcc", "-std=c11", "-O2", *STRICT, f"-I{HEADER.parent}", "-fPIC", "-shared"]
    subprocess.run([*command, "net.c", "-o", "net.so", "-lm"], cwd=folder, check=True)
    return ctypes.CDLL(str(folder / "net.so"))


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_of_one_number(net, name):
    low = -0.999 if name == "log1p" else -30
    x = np.concatenate(
        [np.linspace(low, 30, 20_001), np.geomspace(1e-6, 1, 500), [-0.5, 0.0, 0.5, 1.5, 2.5]]
    ).astype(np.float32)
    y = np.empty_like(x)
    net[f"f_{name}"](at(y), at(x), len(x))
    wanted = FUNCTIONS[name](torch.from_numpy(x).double()).numpy()
    assert (np.abs(y - wanted) <= 1e-6 * np.maximum(1, np.abs(wanted))).all()
    if name in ("tanh", "expm1", "log1p"):  # near 0 the relative error counts
        small = (np.abs(x) < 0.1) & (x != 0)
        assert (np.abs(y[small] / wanted[small] - 1) < 1e-6).all()


sizes = st.integers(1, 80)


@settings(max_examples=60, deadline=None)
@given(sizes, sizes, st.booleans(), st.integers(0, 9))
def test_linear(net, size_in, size_out, biased, seed):
    x, w, b = normal(seed, size_in), normal(seed + 1, size_out, size_in), normal(seed, size_out)
    y, packed = np.empty(size_out, np.float32), generate.pack(w)
    net.linear(at(y), at(x), at(packed), at(b) if biased else None, size_in, size_out)
    np.testing.assert_allclose(y, w.astype(float) @ x + b * biased, rtol=1e-4, atol=1e-4)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_convolution_and_pool(net, data):
    draw = data.draw
    groups, kernel = draw(st.integers(1, 2)), [draw(st.integers(1, 4)) for _ in range(2)]
    stride, padding = ([draw(st.integers(low, 2)) for _ in range(2)] for low in (1, 0))
    dilation, sides = [draw(st.integers(1, 2)) for _ in range(2)], [9, draw(st.integers(8, 12))]
    channels, out = groups * draw(st.integers(1, 3)), groups * draw(st.integers(1, 20))
    x, b = normal(1, channels, *sides), normal(2, out)
    w = normal(3, out, channels // groups, *kernel)
    options = {"stride": stride, "padding": padding, "dilation": dilation}
    given_x = torch.from_numpy(x)[None]
    wanted = functional.conv2d(
        given_x, torch.from_numpy(w), torch.from_numpy(b), groups=groups, **options
    ).numpy()
    pairs = [*kernel, *stride, *padding, *dilation]
    sizes = np.array([channels, *sides, out, *pairs, groups], np.int32)
    y, patch = np.empty_like(wanted), np.empty(w.size + out, np.float32)
    packed = np.concatenate([generate.pack(part) for part in np.split(w.reshape(out, -1), groups)])
    net.conv2d(at(y), at(x), at(packed), at(b), at(sizes), at(patch))
    np.testing.assert_allclose(y, wanted, atol=1e-4)
    if all(2 * p <= k for p, k in zip(padding, kernel)):
        wanted = functional.max_pool2d(given_x, kernel, **options).numpy()
        y = np.empty_like(wanted)
        net.max_pool2d(at(y), at(x), at(sizes))
        np.testing.assert_array_equal(y, wanted)


@settings(max_examples=30, deadline=None)
@given(sizes, st.integers(0, 9))
def test_layer_norm_and_cells(net, size, seed):
    x, w, b = (torch.from_numpy(normal(seed + i, size)) for i in range(3))
    y = np.empty(size, np.float32)
    net.layer_norm(at(y), at(x.numpy()), at(w.numpy()), at(b.numpy()), ctypes.c_float(1e-5), size)
    np.testing.assert_allclose(y, functional.layer_norm(x, [size], w, b), atol=1e-4)
    gates, cell = normal(seed, 4 * size), normal(seed + 5, size)
    into, forget, fresh, out = torch.from_numpy(gates).chunk(4)
    wanted = forget.sigmoid() * torch.from_numpy(cell) + into.sigmoid() * fresh.tanh()
    hidden = np.empty(size, np.float32)
    net.lstm_cell(at(hidden), at(cell), at(cell), at(gates), size)
    np.testing.assert_allclose(cell, wanted, atol=1e-6)
    np.testing.assert_allclose(hidden, out.sigmoid() * wanted.tanh(), atol=1e-6)
    net.mingru_cell(at(hidden), at(x.numpy()), at(w.numpy()), at(b.numpy()), size)
    np.testing.assert_allclose(hidden, torch.lerp(x, b, w.sigmoid()), atol=1e-6)
    rows = normal(seed, 7, size)
    net.max_rows(at(y), at(rows), 7, size)
    np.testing.assert_array_equal(y, rows.max(0))


def test_drawn_categories_have_the_policys_probabilities(net):
    logits, random = normal(0, 6), np.zeros(1, np.uint64)
    mask = np.array([1, 0, 1, 1, 1, 0], np.uint8)
    for legal, given_mask in ((mask, at(mask)), (np.ones(6, np.uint8), None)):
        drawn = [net.categorical(at(logits), given_mask, 6, at(random), 0) for _ in range(20_000)]
        counts = np.bincount(drawn, minlength=6)
        wanted = np.exp(logits) * legal
        wanted = wanted / wanted.sum() * len(drawn)
        kept = wanted > 0
        assert (counts[~kept] == 0).all()
        # Chi-squared with at most 5 degrees of freedom exceeds 26 once in 10,000 times.
        assert ((counts - wanted)[kept] ** 2 / wanted[kept]).sum() < 26
    best = int(np.argmax(np.where(mask, logits, -np.inf)))
    assert net.categorical(at(logits), at(mask), 6, at(random), 1) == best
    none = np.zeros(6, np.uint8)
    assert net.categorical(at(logits), at(none), 6, at(random), 1) == int(np.argmax(logits))


def test_normal_numbers(net):
    y, random = np.empty(100_000, np.float32), np.ones(1, np.uint64)
    net.normals(at(y), len(y), at(random))
    assert abs(y.mean()) < 4 / np.sqrt(len(y))  # 4 standard errors
    assert abs(y.var() - 1) < 4 * np.sqrt(2 / len(y))
    assert abs((y < 1).mean() - 0.8413) < 4 * np.sqrt(0.1335 / len(y))
