"""Small environments in C for the tests, and how to build them."""

from pathlib import Path

from shoal.ocean_c.build import build

# One agent walks on a line. Every part can be replaced.
PARTS = {
    "head": "",
    "state": "int32_t length, position, steps;",
    "init": "s->length = (int32_t)params[0];",
    "reset": "s->position = shoal_below(&s->rng, s->length);",
    "step": """
        s->position += *(const int64_t *)io->actions ? 1 : s->position > 0 ? -1 : 0;
        if (s->position >= s->length) io->rewards[0] = io->terminated[0] = 1;""",
    "observe": "*(float *)io->observations = (float)s->position / (float)s->length;",
    "report": "(void)agent; values[0] = s->position >= s->length;",
    "draw": "shoal_circle(c, 0, 0, 1, SHOAL_INK);",
    "table": """
        .name = "walk", .text = "Walk.", .max_steps = 50,
        .params = {{.name = "length", .value = 10, .low = 2, .high = 1000, .type = SHOAL_INTEGER}},
        .observations = {{.name = "position", .type = SHOAL_FLOAT32, .low = 0, .high = 1}},
        .actions = {{.name = "move", .type = SHOAL_INT64, .low = 0, .high = 1}},
        .logs = {{.name = "score", .text = "1 at the end"}}""",
}

FRAME = """
#include "shoal_env.h"
%(head)s
typedef struct { shoal_rng rng; %(state)s } State;
SHOAL_FN void observe(const State *s, const shoal_io *io) { (void)s; (void)io; %(observe)s }
SHOAL_FN void init(State *s, const double *params) { (void)s; (void)params; %(init)s }
SHOAL_FN void reset(State *s, const shoal_io *io) { %(reset)s observe(s, io); }
SHOAL_FN void step(State *s, const shoal_io *io) { %(step)s observe(s, io); }
SHOAL_FN void report(const State *s, int32_t agent, float *values) { (void)s; %(report)s }
static void draw(const State *s, shoal_canvas *c) { (void)s; (void)c; %(draw)s }
SHOAL_ENV(%(table)s);
"""

# Agents that count down from different numbers. Agent 0 comes back when it is through, the others
# are gone; the last one is not there at all in every other episode.
COUNTDOWN = {
    "state": "int32_t left[4], episodes, absent;",
    "init": "",
    "reset": """
        s->absent = s->episodes++ % 2;
        for (int i = 0; i < 4; i++) s->left[i] = 2 + 3 * i;
        if (s->absent) io->masks[3] = io->acting[3] = 0;""",
    "step": """
        for (int i = 0; i < 4; i++) {
            s->left[i] -= 1 + (int)((const int64_t *)io->actions)[i];
            io->rewards[i] = (float)(i + 1);
            if (s->left[i] <= 0) {
                io->terminated[i] = 1;
                if (i == 0) { io->respawned[0] = 1; s->left[0] = 3; }
            }
        }""",
    "observe": """
        for (int i = 0; i < 4; i++) ((int32_t *)io->observations)[i] = 100 * i + s->left[i];""",
    "report": "values[0] = (float)agent;",
    "table": """
        .name = "countdown", .text = "Count down.", .agents = 4, .max_steps = 9,
        .observations = {{.name = "left", .type = SHOAL_INT32, .ndim = 1, .shape = {1},
                          .low = -1000, .high = 1000}},
        .actions = {{.name = "more", .type = SHOAL_INT64, .low = 0, .high = 1}},
        .logs = {{.name = "agent", .text = "its number"}}""",
}


def source(**parts: str) -> str:
    """An environment with some parts replaced."""
    return FRAME % {**PARTS, **parts}


def built(folder: Path, name: str = "walk", debug: bool = False, **parts: str) -> str:
    """The path of an environment with some parts replaced, which is built in `folder`."""
    path = folder / f"{name}.c"
    path.write_text(source(**parts))
    return str(build(path, debug=debug))
