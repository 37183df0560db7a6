/* NAME: an environment in one file. Build, check, play and train it:
 *
 *   shoal build NAME.c     (again after every change; --debug checks every step)
 *   shoal check NAME       shoal play NAME       shoal bench NAME       shoal train NAME
 *
 * The rules of this one: an agent on a grid picks berries, which grow back somewhere else, and
 * loses the game if it steps into the pit. Change what you like. */
#include "shoal_env.h"

/* The actions, and the parameters in the order of the table at the end. */
enum { UP, DOWN, LEFT, RIGHT };
enum { SIZE, BERRIES };

#define MOST_BERRIES 32

/* All that there is. It may be copied at any time, so: no pointers. `rng` must be the first. */
typedef struct {
    shoal_rng rng;
    int32_t size, num_berries; /* parameters */
    int32_t x, y, pit_x, pit_y;
    int32_t berry_x[MOST_BERRIES], berry_y[MOST_BERRIES];
    int32_t picked, steps;
} State;

/* What the agent sees, as the table's observation fields say: where the nearest berry and the pit
 * are, from where it stands, so that it needs not know where that is. */
typedef struct {
    float berry[2], pit[2];
} Observation;

SHOAL_FN int32_t distance(const State *s, int32_t x, int32_t y) {
    return (x < s->x ? s->x - x : x - s->x) + (y < s->y ? s->y - y : y - s->y);
}

SHOAL_FN void observe(const State *s, const shoal_io *io) {
    Observation *seen = (Observation *)io->observations;
    const float scale = 1.0f / (float)s->size; /* values of about 1 are the easiest to learn from */
    int32_t nearest = 0;
    for (int32_t i = 1; i < s->num_berries; i++)
        if (distance(s, s->berry_x[i], s->berry_y[i]) <
            distance(s, s->berry_x[nearest], s->berry_y[nearest]))
            nearest = i;
    seen->berry[0] = (float)(s->berry_x[nearest] - s->x) * scale;
    seen->berry[1] = (float)(s->berry_y[nearest] - s->y) * scale;
    seen->pit[0] = (float)(s->pit_x - s->x) * scale;
    seen->pit[1] = (float)(s->pit_y - s->y) * scale;
}

SHOAL_FN void grow(State *s, int32_t i) {
    do {
        s->berry_x[i] = shoal_below(&s->rng, s->size);
        s->berry_y[i] = shoal_below(&s->rng, s->size);
    } while (s->berry_x[i] == s->pit_x && s->berry_y[i] == s->pit_y);
}

/* Called once for each environment: keep the parameters. */
SHOAL_FN void init(State *s, const double *params) {
    s->size = (int32_t)params[SIZE];
    s->num_berries = (int32_t)params[BERRIES];
}

/* Begin an episode. */
SHOAL_FN void reset(State *s, const shoal_io *io) {
    s->x = s->y = s->size / 2;
    do {
        s->pit_x = shoal_below(&s->rng, s->size);
        s->pit_y = shoal_below(&s->rng, s->size);
    } while (s->pit_x == s->x && s->pit_y == s->y);
    for (int32_t i = 0; i < s->num_berries; i++)
        grow(s, i);
    s->picked = s->steps = 0;
    observe(s, io);
}

/* One step. Rewards and flags are 0 before; the time limit is the table's. */
SHOAL_FN void step(State *s, const shoal_io *io) {
    const int64_t action = *(const int64_t *)io->actions;
    const int32_t x = s->x + (action == RIGHT) - (action == LEFT);
    const int32_t y = s->y + (action == DOWN) - (action == UP);
    if (x >= 0 && x < s->size && y >= 0 && y < s->size)
        s->x = x, s->y = y;
    s->steps++;
    for (int32_t i = 0; i < s->num_berries; i++)
        if (s->x == s->berry_x[i] && s->y == s->berry_y[i]) {
            s->picked++;
            io->rewards[0] += 1;
            grow(s, i);
        }
    if (s->x == s->pit_x && s->y == s->pit_y) {
        io->rewards[0] -= 1;
        io->terminated[0] = 1;
    }
    observe(s, io);
}

/* The log fields, when an episode has ended. */
SHOAL_FN void report(const State *s, int32_t agent, float *values) {
    const float most = (float)s->steps / 3 + 1; /* a good player needs about 3 steps for each */
    (void)agent;
    values[0] = (float)s->picked < most ? (float)s->picked / most : 1;
    values[1] = (float)s->picked;
}

/* A picture: shapes, the later ones above the earlier ones. A shape with a key moves smoothly. */
static void draw(const State *s, shoal_canvas *c) {
    const float n = (float)s->size;
    shoal_view(c, -1, -1, n + 1, n + 1);
    for (int32_t i = 0; i < s->size * s->size; i++)
        shoal_rect(c, (float)(i % s->size), (float)(i / s->size), 0.92f, 0.92f, SHOAL_PANEL)
            ->round = 0.12f;
    shoal_circle(c, (float)s->pit_x, (float)s->pit_y, 0.4f, SHOAL_DANGER);
    for (int32_t i = 0; i < s->num_berries; i++)
        shoal_circle(c, (float)s->berry_x[i], (float)s->berry_y[i], 0.22f, SHOAL_GOAL);
    shoal_key(c, 1);
    shoal_rect(c, (float)s->x, (float)s->y, 0.66f, 0.66f, SHOAL_AGENT)->round = 0.2f;
}

/* What others may know of it; see docs/ocean_author.md. */
SHOAL_ENV(.name = "NAME",
          .text = "Pick berries on a grid, and stay out of the pit.\n"
                  "Reward: 1 for each berry, which grows back elsewhere; -1 in the pit, where the "
                  "episode ends.",
          .max_steps = 100,
          .params = {{.name = "size",
                      .value = 8,
                      .low = 2,
                      .high = 64,
                      .type = SHOAL_INTEGER,
                      .text = "cells of a side"},
                     {.name = "berries",
                      .value = 5,
                      .low = 1,
                      .high = MOST_BERRIES,
                      .type = SHOAL_INTEGER,
                      .text = "at one time"}},
          .observations = {{.name = "berry",
                            .type = SHOAL_FLOAT32,
                            .ndim = 1,
                            .shape = {2},
                            .low = -1,
                            .high = 1,
                            .text = "the nearest: right, down, in sides of the grid"},
                           {.name = "pit",
                            .type = SHOAL_FLOAT32,
                            .ndim = 1,
                            .shape = {2},
                            .low = -1,
                            .high = 1,
                            .text = "right, down"}},
          .actions = {{.name = "move",
                       .type = SHOAL_INT64,
                       .low = 0,
                       .high = 3,
                       .text = "where to go",
                       .labels = "up down left right",
                       .keys = "up down left right"}},
          .logs = {{.name = "score", .text = "berries, of as many as a good player gets, up to 1"},
                   {.name = "picked", .text = "berries"}});
