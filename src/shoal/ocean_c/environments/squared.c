/* Squared, the first tutorial: a grid, an agent, a target. docs/ocean_author.md walks through it.
 */
#include "shoal_env.h"

enum { EMPTY, AGENT, TARGET };        /* what a cell of the observation holds */
enum { STAY, UP, DOWN, LEFT, RIGHT }; /* the actions */
enum { SIZE };                        /* the parameters, in the table's order */

typedef struct {
    shoal_rng rng;
    int32_t size;          /* cells of a side */
    int32_t row, column;   /* of the agent */
    int32_t target;        /* cell: row * size + column */
    int32_t steps, needed; /* taken so far; at the least, from where the agent began */
    int32_t reached;
} State;

SHOAL_FN void observe(const State *s, const shoal_io *io) {
    uint8_t *cells = (uint8_t *)io->observations;
    memset(cells, EMPTY, (size_t)(s->size * s->size));
    cells[s->target] = TARGET;
    cells[s->row * s->size + s->column] = AGENT;
}

SHOAL_FN void init(State *s, const double *params) {
    s->size = (int32_t)params[SIZE];
}

SHOAL_FN void reset(State *s, const shoal_io *io) {
    int32_t n = s->size, middle = n / 2, dx, dy;
    s->row = s->column = middle;
    s->target = shoal_below(&s->rng, n * n - 1);
    s->target += s->target >= middle * n + middle; /* anywhere else */
    dx = s->target % n - middle;
    dy = s->target / n - middle;
    s->needed = (dx < 0 ? -dx : dx) + (dy < 0 ? -dy : dy);
    s->steps = s->reached = 0;
    observe(s, io);
}

SHOAL_FN void step(State *s, const shoal_io *io) {
    int64_t action = *(const int64_t *)io->actions;
    int32_t n = s->size, row = s->row, column = s->column;
    row += (action == DOWN) - (action == UP);
    column += (action == RIGHT) - (action == LEFT);
    if (row >= 0 && row < n && column >= 0 && column < n) {
        s->row = row;
        s->column = column;
    }
    s->steps++;
    s->reached = s->row * n + s->column == s->target;
    io->rewards[0] = (float)s->reached;
    io->terminated[0] = (uint8_t)s->reached;
    observe(s, io);
}

SHOAL_FN void report(const State *s, int32_t agent, float *values) {
    (void)agent; /* there is but one */
    values[0] = s->reached ? (float)s->needed / (float)s->steps : 0.0f;
    values[1] = (float)s->reached;
}

static void draw(const State *s, shoal_canvas *c) {
    int32_t n = s->size;
    shoal_view(c, -0.5f, -0.5f, (float)n + 1, (float)n + 1);
    for (int32_t i = 0; i < n * n; i++) {
        float x = (float)(i % n) + 0.5f, y = (float)(i / n) + 0.5f;
        shoal_rect(c, x, y, 0.92f, 0.92f, SHOAL_PANEL)->round = 0.12f;
    }
    shoal_rect(c, (float)(s->target % n) + 0.5f, (float)(s->target / n) + 0.5f, 0.6f, 0.6f,
               SHOAL_GOAL)
        ->round = 0.15f;
    shoal_key(c, 1);
    shoal_circle(c, (float)s->column + 0.5f, (float)s->row + 0.5f, 0.36f, SHOAL_AGENT);
}

/* The observation has as many cells as the parameter says. */
static const char *resolve(const double *params, shoal_spec *spec) {
    int32_t n = (int32_t)params[SIZE];
    spec->observations[0].shape[0] = spec->observations[0].shape[1] = n;
    spec->max_steps = 4 * n;
    return NULL;
}

SHOAL_ENV(
        .name = "squared",
        .text =
            "Reach the target on a grid.\n"
            "The agent begins in the middle and moves by one cell; walls stop it. Reward: 1 at the "
            "target, which ends the episode. Time limit: 4 times the side, unless max_steps is "
            "given.",
        .params = {{.name = "size",
                    .value = 11,
                    .low = 3,
                    .high = 255,
                    .type = SHOAL_INTEGER,
                    .text = "cells of a side"}},
        .observations = {{.name = "cells",
                          .type = SHOAL_UINT8,
                          .ndim = 2,
                          .shape = {11, 11},
                          .low = 0,
                          .high = 2,
                          .text = "0 empty, 1 the agent, 2 the target"}},
        .actions = {{.name = "move",
                     .type = SHOAL_INT64,
                     .low = 0,
                     .high = 4,
                     .text = "where to go",
                     .labels = "stay up down left right",
                     .keys = "- up down left right"}},
        .logs = {{.name = "score",
                  .text = "how direct the way was: steps needed / taken; 0 if not reached"},
                 {.name = "reached", .text = "1 if the target was reached"}},
        .resolve = resolve);
