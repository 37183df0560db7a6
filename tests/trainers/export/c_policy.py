"""Call an exported policy from Python: compiled as a library, with the sizes it declares."""

import ctypes
import subprocess
from pathlib import Path

import numpy as np

from shoal.trainers.export.c import export_c

STRICT = ["-Wall", "-Wextra", "-Werror", "-Wno-unused-function"]
LIBRARY = """
#include "policy.h"
const int sizes[] = {POLICY_WEIGHTS, POLICY_SCRATCH, POLICY_STATE, POLICY_OBSERVATION,
                     POLICY_LOGITS, POLICY_ACTION, POLICY_COMPONENTS};
void forward(const float *weights, const void *observation, float *state, float *scratch,
             float *logits, float *value) {
    policy_forward(weights, observation, state, scratch, logits, value);
}
void act(const float *logits, const unsigned char *mask, uint64_t *random, int greedy,
         void *action) {
    policy_act(logits, mask, random, greedy, action);
}
"""


class CPolicy:
    """A policy in C."""

    def __init__(self, policy, folder: Path, flags=("-O2",)):
        export_c(policy, folder)
        (folder / "library.c").write_text(LIBRARY)
        library = folder / "library.so"
        command = ["gcc", "-std=c11", *STRICT, *flags, "-fPIC", "-shared", "library.c", "-lm"]
        subprocess.run([*command, "-o", library.name], cwd=folder, check=True)
        self.library = ctypes.CDLL(str(library))
        sizes = (ctypes.c_int * 7).in_dll(self.library, "sizes")
        self.sizes = dict(
            zip(
                ("weights", "scratch", "state", "observation", "logits", "action", "components"),
                sizes,
            )
        )
        self.weights = np.fromfile(folder / "weights.bin", "<f4")
        assert self.weights.size == self.sizes["weights"]
        self.scratch = np.zeros(self.sizes["scratch"], np.float32)
        self.random = np.zeros(1, np.uint64)

    def new_state(self, n):
        return np.zeros((n, self.sizes["state"]), np.float32)

    def forward(self, rows, state):
        """Return logits and values of rows of observations; `state` is changed."""
        n = len(rows)
        assert rows.nbytes == n * self.sizes["observation"]
        logits = np.zeros((n, self.sizes["logits"]), np.float32)
        values = np.zeros(n, np.float32)
        for i in range(n):
            self.library.forward(
                *map(
                    at,
                    (
                        self.weights,
                        rows[i : i + 1],
                        state[i : i + 1],
                        self.scratch,
                        logits[i : i + 1],
                        values[i : i + 1],
                    ),
                )
            )
        return logits, values

    def act(self, logits, masks, greedy, dtype, shape):
        """Return actions."""
        n = len(logits)
        actions = np.zeros((n, *shape), dtype)
        assert actions.nbytes == n * self.sizes["action"]
        for i in range(n):
            mask = None if masks is None else at(masks[i : i + 1])
            self.library.act(
                at(logits[i : i + 1]), mask, at(self.random), int(greedy), at(actions[i : i + 1])
            )
        return actions


def at(array):
    assert array.flags.c_contiguous
    return ctypes.c_void_p(array.ctypes.data)
