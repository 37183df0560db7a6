"""How fast an exported policy computes one step: C against torch, and against a plain loop.

The policy is the default one with an LSTM, 128 wide, for breakout; one row. The plain loop is what
small C ports of networks do: a dot product for each output, libm's tanhf and expf, compiled with
-O2 and without vector instructions. Everything is compiled by the same gcc and timed in turn.

The bound of a 128 by 128 layer is the time to read its 64 KiB of weights once: a loop that adds
them up in 8 vectors of 64 bytes, timed in turn too.
"""

from __future__ import annotations

import ctypes
import statistics
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _common import machine, machine_text, rounds, save, table

import shoal
from shoal.trainers.config import Config
from shoal.trainers.distributions import Distribution
from shoal.trainers.export.c import export_c
from shoal.trainers.policies import initial_state
from shoal.trainers.ppo import forward_step, make_policy

SIZE, REPEATS = 128, 200

EXPORTED = """
#include "policy.h"
static float scratch[POLICY_SCRATCH], logits[POLICY_LOGITS];
void steps(const float *weights, const float *seen, float *state, float *out, int count) {
    float value;
    for (int i = 0; i < count; i++) {
        policy_forward(weights, seen, state, scratch, logits, &value);
        out[0] = value;
        memcpy(out + 1, logits, sizeof logits);
    }
}
void layers(float *y, const float *x, const float *w, const float *b, int count) {
    for (int i = 0; i < count; i++) {
        net_linear(y, x, w, b, 128, 128);
        __asm__ volatile("" ::"r"(y), "r"(x), "r"(w) : "memory");
    }
}
typedef float wide __attribute__((vector_size(64)));
void reads(float *y, const float *w, int count) {
    for (int i = 0; i < count; i++) {
        wide sum[8] = {{0}};
        for (int at = 0; at < 128 * 128; at += 128)
            for (int k = 0; k < 8; k++) {
                wide each;
                memcpy(&each, w + at + 16 * k, sizeof each);
                sum[k] += each;
            }
        memcpy(y, sum, sizeof sum);
        __asm__ volatile("" ::"r"(y), "r"(w) : "memory");
    }
}
"""

PLAIN = """
#include <math.h>
static void linear(float *y, const float *x, const float *w, const float *b, int in, int out) {
    for (int o = 0; o < out; o++) {
        float sum = b ? b[o] : 0.0f;
        for (int i = 0; i < in; i++)
            sum += w[o * in + i] * x[i];
        y[o] = sum;
    }
}
static float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }
void plain(const float **p, const float *seen, int num_seen, float *state, int num_logits,
           float *out, int count) {
    float x[128], gates[512], more[512];
    for (int n = 0; n < count; n++) {
        linear(x, seen, p[0], p[1], num_seen, 128);
        for (int i = 0; i < 128; i++)
            x[i] = tanhf(x[i]);
        linear(gates, x, p[2], p[3], 128, 512);
        linear(more, state, p[4], 0, 128, 512);
        for (int i = 0; i < 512; i++)
            gates[i] += more[i];
        for (int i = 0; i < 128; i++) {
            float cell = sigmoid(gates[128 + i]) * state[128 + i];
            cell += sigmoid(gates[i]) * tanhf(gates[256 + i]);
            state[128 + i] = cell;
            state[i] = sigmoid(gates[384 + i]) * tanhf(cell);
        }
        linear(out + 1, state, p[5], p[6], 128, num_logits);
        linear(out, state, p[7], p[8], 128, 1);
    }
}
"""


def compiled(folder: Path, name: str, source: str, flags: list[str]) -> ctypes.CDLL:
    (folder / f"{name}.c").write_text(source)
    command = ["gcc", "-std=c11", *flags, "-fPIC", "-shared", f"{name}.c", "-o", f"{name}.so"]
    subprocess.run([*command, "-lm"], cwd=folder, check=True)
    return ctypes.CDLL(str(folder / f"{name}.so"))


def at(array: np.ndarray) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


def aligned(numbers: np.ndarray) -> np.ndarray:
    """Return a copy that begins at a cache line."""
    room = np.empty(numbers.size + 16, np.float32)
    begin = -room.ctypes.data % 64 // 4
    made = room[begin : begin + numbers.size]
    made[:] = numbers.ravel()
    return made


def variants(folder: Path) -> tuple[dict[str, Callable[[], int]], Any]:
    vector = shoal.vectorize("breakout", 1, backend="native")
    layout, actions = vector.observation_layout, vector.action_layout
    vector.close()
    torch.manual_seed(0)
    config = Config(env="breakout", memory="lstm", hidden_size=SIZE)
    policy = make_policy(config, layout, actions).eval()
    policy.observation_layout, policy.distribution = layout, Distribution(actions)
    export_c(policy, folder)
    native = compiled(folder, "native", EXPORTED, ["-O3", "-march=native"])
    base = compiled(folder, "base", EXPORTED, ["-O3"])
    plain = compiled(folder, "plain", PLAIN, ["-O2", "-fno-tree-vectorize"])
    weights = aligned(np.fromfile(folder / "weights.bin", "<f4"))
    seen = np.random.default_rng(0).random(layout.nbytes // 4, np.float32)
    num_logits = policy.distribution.num_parameters
    memory, inner = policy.memory, policy.policy
    parts = [
        inner.first.weight, inner.first.bias, memory.inputs.weight, memory.inputs.bias,
        memory.hidden.weight, inner.head.linear.weight, inner.head.linear.bias,
        inner.value.weight, inner.value.bias,
    ]  # fmt: skip
    arrays = [part.detach().numpy() for part in parts]
    pointers = (ctypes.c_void_p * len(arrays))(*(array.ctypes.data for array in arrays))
    outs = {name: np.zeros(1 + num_logits, np.float32) for name in ("native", "base", "plain")}
    states = {name: np.zeros(2 * SIZE, np.float32) for name in outs}
    square, x, y = (
        aligned(np.random.rand(SIZE, SIZE)),
        aligned(np.ones(SIZE)),
        aligned(np.ones(256)),
    )

    def exported(library: Any, name: str) -> Callable[[], int]:
        def run() -> int:
            library.steps(at(weights), at(seen), at(states[name]), at(outs[name]), REPEATS)
            return REPEATS

        return run

    def plainly() -> int:
        plain.plain(pointers, at(seen), seen.size, at(states["plain"]), num_logits,
                    at(outs["plain"]), REPEATS)  # fmt: skip
        return REPEATS

    state = [initial_state(policy, 1)]
    rows = torch.from_numpy(seen)[None]

    def eager() -> int:
        with torch.inference_mode():
            for _ in range(20):
                _, _, state[0] = forward_step(policy, rows, state[0])
        return 20

    def layer() -> int:
        native.layers(at(y), at(x), at(square), at(x), REPEATS)
        return REPEATS

    def reading() -> int:
        native.reads(at(y), at(square), REPEATS)
        return REPEATS

    return {
        "C, -O3 -march=native": exported(native, "native"),
        "C, -O3": exported(base, "base"),
        "plain loop": plainly,
        "torch eager": eager,
        "128 by 128 layer": layer,
        "reading its weights": reading,
    }, outs


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        made, outs = variants(Path(folder))
        times = rounds(made)
        np.testing.assert_allclose(outs["native"], outs["plain"], atol=1e-5)
    ours = times["C, -O3 -march=native"]
    medians = {name: statistics.median(each) for name, each in times.items()}
    ratios = {
        name: statistics.median(b / a for a, b in zip(ours, times[name]))
        for name in list(times)[1:4]
    }
    base = statistics.median(b / a for a, b in zip(times["C, -O3"], times["plain loop"]))
    share = statistics.median(
        b / a for a, b in zip(times["128 by 128 layer"], times["reading its weights"])
    )
    rows = [
        [name, f"{medians[name]:.2f}", f"{ratios[name]:.1f}" if name in ratios else ""]
        for name in list(times)[:4]
    ]
    layer, reading = medians["128 by 128 layer"], medians["reading its weights"]
    gigabytes = SIZE * SIZE * 4 / reading / 1e3
    found = machine("torch", "numpy")
    gcc = subprocess.run(["gcc", "-dumpfullversion"], capture_output=True, text=True).stdout.strip()
    text = "\n\n".join(
        [
            "# Exported policies: microseconds of one step",
            f"{machine_text(found)} gcc {gcc}.",
            "The default policy with an LSTM of 128 units for breakout, one row, one thread. "
            "Medians of 31 interleaved rounds; ratios are medians of the rounds' own.",
            table(["variant", "microseconds", "times as long as C, -march=native"], rows),
            "Bars: torch eager at least 5 times as long, reached "
            f"{ratios['torch eager']:.1f}; the plain loop at least 3 times, reached "
            f"{ratios['plain loop']:.1f} (and {base:.1f} times as long as C for any x86-64).",
            f"A layer of 128 by 128 takes {layer:.2f} µs. Its bound is the time to read 64 KiB "
            f"of weights from the second-level cache: {reading:.2f} µs, {gigabytes:.0f} GB/s. "
            f"The layer reaches {share:.0%} of this bound; the bar is 70 %.",
        ]
    )
    print(text)
    data = {"machine": found, "microseconds": medians, "ratios": ratios, "share": share}
    save("export", text, data)


if __name__ == "__main__":
    main()
