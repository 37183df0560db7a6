"""A trained policy as a program in C."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from shoal.errors import ExportError
from shoal.ocean_c.find import load as load_module
from shoal.ocean_c.table import Spec
from shoal.registry.creators import find_source
from shoal.rows.actions import is_discrete
from shoal.trainers.distributions import Distribution
from shoal.trainers.export.generate import CTYPES, Code, generate, literal
from shoal.trainers.export.step import load, trace
from shoal.trainers.policies import initial_state
from shoal.trainers.runs import write_whole

__all__ = ["export_c"]

HERE = Path(__file__).parent
SHOAL_ENV = HERE.parents[1] / "ocean_c" / "shoal_env.h"


def export_c(source: Any, folder: str | Path) -> list[Path]:
    """Write a policy as C: ``policy.h``, ``shoal_net.h``, ``weights.bin``, and a program.

    ``policy.h`` has the sizes as constants (``POLICY_STATE`` and others), and the functions
    ``policy_forward`` and ``policy_act``. ``weights.bin`` holds float32, little-endian, in the
    order in which ``policy.h`` reads them. If the run's environment is in C and its source is
    there, ``main.c`` plays episodes, with the environment's file and ``shoal_env.h`` beside it.

    Args:
        source: the folder of a run, a checkpoint, or a policy from
            `shoal.trainers.ppo.load_policy`.
        folder: where to write; it is made if it does not exist.

    Returns:
        The files that were written.

    Raises:
        CheckpointError: the run has no checkpoint that can be read.
        ExportError: a part of the policy has no counterpart in C; the message names the module.
    """
    policy, config = load(source)
    code = generate(trace(policy))
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    files = {
        "policy.h": header(policy, code).encode(),
        "weights.bin": code.weights.astype("<f4").tobytes(),
        "shoal_net.h": (HERE / "shoal_net.h").read_bytes(),
    }
    found = find_source(config["env"], None, dict(config["env_kwargs"])) if config else None
    if found is not None and found.native is not None:
        file = found.native.with_suffix(".c")
        if file.is_file():
            module = load_module(found.native)
            spec = module.spec(found.kwargs)
            masked = policy.distribution.layout.num_masked * module.table.action_mask
            files["main.c"] = program(file.name, spec, masked).encode()
            files["shoal_env.h"] = SHOAL_ENV.read_bytes()
            files[file.name] = file.read_bytes()
    for name, data in files.items():
        write_whole(folder / name, data)
    return [folder / name for name in files]


HEADER = """\
/* A policy, written by `shoal export --format c`.
 *
 * policy_forward computes one step of one agent. `observation` is laid out and aligned as the
 * environment writes it. `state` holds POLICY_STATE floats, which are zero when an episode begins,
 * and is changed. `scratch` holds POLICY_SCRATCH floats. `logits` gets POLICY_LOGITS floats: the
 * categories of one component after the other, then the means and then the logarithms of the
 * standard deviations of the continuous numbers.
 *
 * policy_act chooses an action: the likeliest, or a drawn one. `mask` has 1 for each legal category
 * of all components in turn, or is NULL. `random` is any number at first.
 */
#ifndef POLICY_H
#define POLICY_H

#include "shoal_net.h"

enum {
    POLICY_WEIGHTS = %(weights)d,    /* floats of weights.bin */
    POLICY_SCRATCH = %(scratch)d,    /* floats */
    POLICY_STATE = %(state)d,        /* floats that an agent remembers; 0: none */
    POLICY_OBSERVATION = %(observation)d,  /* bytes of an agent's observation */
    POLICY_LOGITS = %(logits)d,       /* floats: the parameters of the distribution of actions */
    POLICY_ACTION = %(action)d,       /* bytes of an action */
    POLICY_COMPONENTS = %(components)d,   /* choices of an action */
    POLICY_CONTINUOUS = %(continuous)d    /* continuous numbers of an action */
};

static const int POLICY_CATEGORIES[] = {%(categories)s}; /* of each component */

static inline void policy_forward(const float *weights, const void *observation, float *state,
                                  float *scratch, float *logits, float *value) {
%(body)s
    (void)weights, (void)observation, (void)state, (void)scratch;
}

static inline void policy_act(const float *logits, const unsigned char *mask, uint64_t *random,
                              int greedy, void *action) {
%(act)s
    (void)mask, (void)POLICY_CATEGORIES;
}

#endif
"""


def header(policy: Any, code: Code) -> str:
    """Return the text of ``policy.h``."""
    distribution: Distribution = policy.distribution
    sizes = categories(distribution)
    return HEADER % {
        "weights": code.weights.size,
        "scratch": max(1, code.scratch),
        "state": initial_state(policy, 1).numel(),
        "observation": policy.observation_layout.nbytes,
        "logits": distribution.num_parameters,
        "action": distribution.layout.flat.nbytes,
        "components": len(sizes),
        "continuous": distribution.num_continuous,
        "categories": ", ".join(map(str, sizes)) or "0",
        "body": code.body,
        "act": act(distribution, sizes),
    }


def categories(distribution: Distribution) -> list[int]:
    """Return how many categories each discrete element of an action has."""
    sizes = [0] * distribution.num_discrete
    for elements, columns in distribution.groups:
        for element in elements.tolist():
            sizes[element] = columns.shape[1]
    return sizes


def act(distribution: Distribution, sizes: list[int]) -> str:
    """Return the body of ``policy_act``."""
    lines = []
    for leaf in distribution.layout.flat.leaves:
        dtype = getattr(torch, leaf.dtype, None)
        if dtype not in CTYPES:
            raise ExportError(f"actions: numbers of {leaf.dtype} can't be exported to C")
        ctype = CTYPES[dtype]
        if is_discrete(leaf):
            low = np.broadcast_to(distribution.low, len(sizes))
            lines += [
                table("int", "low", low.tolist(), torch.int64),
                f"{ctype} *chosen = ({ctype} *)(void *)((char *)action + {leaf.offset});",
                "for (int c = 0, at = 0; c < POLICY_COMPONENTS; at += POLICY_CATEGORIES[c++])",
                f"    chosen[c] = ({ctype})(low[c] + net_categorical(logits + at, mask ? mask + at "
                ": NULL, POLICY_CATEGORIES[c], random, greedy));",
            ]
            continue
        ends = distribution.middle, distribution.half, *distribution.bounds
        for name, numbers in zip(("middle", "half", "least", "most"), ends):
            lines.append(table("float", name, numbers.tolist(), torch.float32))
        drawn = (
            f"net_gaussian(mean[k], log_std[k], {int(distribution.squash)}, middle[k], half[k], "
            "least[k], most[k], random, greedy)"
        )
        lines += [
            f"const float *mean = logits + {distribution.num_logits};",
            "const float *log_std = mean + POLICY_CONTINUOUS;",
            f"{ctype} *numbers = ({ctype} *)(void *)((char *)action + {leaf.offset});",
            "for (int k = 0; k < POLICY_CONTINUOUS; k++)",
            f"    numbers[k] = {drawn if dtype.is_floating_point else f'net_round({drawn})'};",
        ]
    return "\n".join(f"    {line}" for line in lines)


def table(ctype: str, name: str, numbers: list[Any], dtype: torch.dtype) -> str:
    """Return the definition of a table."""
    return f"static const {ctype} {name}[] = {{{', '.join(literal(n, dtype) for n in numbers)}}};"


PROGRAM = """\
/* Plays episodes of an environment with the policy, and prints the returns. To build and run:
 *   cc -O3 -ffp-contract=off main.c %(file)s -lm -o play && ./play [EPISODES [SEED [GREEDY]]] */
#include "policy.h"
#include "shoal_env.h"
#include <stdio.h>
#include <stdlib.h>

enum { AGENTS = %(agents)d, MASKED = %(masked)d, MAX_STEPS = %(max_steps)d, STATE = %(state)d };
extern const shoal_table shoal_env_table;

static float weights[POLICY_WEIGHTS], scratch[POLICY_SCRATCH], logits[POLICY_LOGITS];
static float state[AGENTS][POLICY_STATE + 1], rewards[AGENTS];
static __attribute__((aligned(16))) char env[STATE], actions[AGENTS][POLICY_ACTION];
static __attribute__((aligned(16))) char observations[AGENTS][POLICY_OBSERVATION];
static uint8_t terminated[AGENTS], truncated[AGENTS], respawned[AGENTS], valid[AGENTS];
static uint8_t acting[AGENTS], masks[AGENTS * MASKED + 1], gone[AGENTS];

int main(int count, char **arguments) {
    const int episodes = count > 1 ? atoi(arguments[1]) : 10;
    uint64_t random = count > 2 ? strtoull(arguments[2], NULL, 10) : 0;
    const int greedy = count > 3;
    const double params[] = {%(params)s};
    double sum = 0, squares = 0;
    FILE *file = fopen("weights.bin", "rb");
    if (!file || fread(weights, sizeof *weights, POLICY_WEIGHTS, file) != POLICY_WEIGHTS)
        return fputs("weights.bin: missing or too short\\n", stderr), 1;
    fclose(file);
    shoal_env_table.init(env, params);
    shoal_seed((shoal_rng *)(void *)env, random);
    for (int episode = 0; episode < episodes; episode++) {
        double returns[AGENTS] = {0}, total = 0;
        int lives = 0, steps = 0, left = 0;
        shoal_batch batch = {env, actions[0], observations[0], rewards, terminated, truncated,
                             respawned, valid, acting, masks, STATE, sizeof actions,
                             sizeof observations, sizeof masks, AGENTS};
        shoal_io io = shoal_io_of(&batch, 0);
        memset(valid, 1, AGENTS), memset(acting, 1, AGENTS), memset(state, 0, sizeof state);
        memset(terminated, 0, AGENTS), memset(truncated, 0, AGENTS), memset(respawned, 0, AGENTS);
        shoal_env_table.reset(env, &io);
        for (int a = 0; a < AGENTS; a++)
            left += !(gone[a] = !valid[a] && !acting[a]);
        while (left) {
            for (int a = 0; a < AGENTS; a++) {
                float value;
                if (gone[a])
                    continue;
                policy_forward(weights, observations[a], state[a], scratch, logits, &value);
                policy_act(logits, MASKED > 0 && acting[a] ? masks + a * MASKED : NULL, &random,
                           greedy, actions[a]);
            }
            memset(valid, 1, AGENTS), memset(acting, 1, AGENTS), memset(rewards, 0, sizeof rewards);
            memset(terminated, 0, AGENTS), memset(truncated, 0, AGENTS);
            memset(respawned, 0, AGENTS);
            shoal_env_table.step_many(&batch, 0, 1);
            left = 0, steps++;
            for (int a = 0; a < AGENTS; a++) {
                if (gone[a])
                    continue;
                returns[a] += (double)rewards[a];
                truncated[a] |= MAX_STEPS > 0 && steps >= MAX_STEPS;
                if (terminated[a] || truncated[a]) {
                    total += returns[a], lives++, returns[a] = 0;
                    gone[a] = !respawned[a] || truncated[a];
                }
                left += !gone[a];
            }
        }
        total /= lives ? lives : 1;
        printf("%%g\\n", total);
        sum += total, squares += total * total;
    }
    sum /= episodes;
    printf("mean %%g, standard deviation %%g, %%d episodes\\n", sum,
           sqrt(squares / episodes > sum * sum ? squares / episodes - sum * sum : 0), episodes);
    return 0;
}
"""


def program(file: str, spec: Spec, masked: int) -> str:
    """Return the text of ``main.c``.

    Args:
        file: the environment's C file.
        spec: of the environment, with the run's parameters.
        masked: entries of an action mask; 0 if the environment has none.
    """
    values = ", ".join(f"{value!r}" for value in spec.values) or "0"
    sizes = {
        "agents": spec.agents,
        "masked": masked,
        "max_steps": spec.max_steps,
        "state": -(-spec.state_size // 16) * 16,
    }
    return PROGRAM % {"file": file, "params": values, **sizes}
