/* Swarm: boids, after Reynolds (1987), each of which is an agent that learns to fly with others.
 *
 * Lengths are in units of sight, and the torus is divided into cells with sides of 1: whom a boid
 * sees is in its own cell or in one of the 8 around it. */
#include "shoal_env.h"

enum { NUM_BOIDS, SIZE, ALIGNMENT, COHESION, SEPARATION, SPACING }; /* the parameters */

#define NEAREST 6  /* boids that one sees */
#define FEATURES 4 /* of each */
#define VIEW (2 + FEATURES * NEAREST)
#define CROWD 16 /* as many in sight are not told from more */
#define SLOWEST 0.03f
#define FASTEST 0.09f
#define PUSH 0.01f
#define TURN 0.25f /* radians */

typedef struct {
    float x, y, ahead_x, ahead_y;
    float heading, speed; /* radians, the angle of `ahead`, clockwise; a step */
    float total;          /* of its rewards in this episode */
} Boid;

/* Behind it lie the boids, then where each cell's boids begin in the list of all, size * size + 1
 * numbers, then that list: the boids' numbers, cell by cell. */
typedef struct {
    shoal_rng rng;
    int32_t num_boids, size, steps;
    float alignment, cohesion, separation, spacing;
} State;

SHOAL_FN Boid *boids_of(const State *s) {
    return (Boid *)(s + 1);
}

SHOAL_FN int32_t *cells_of(const State *s) {
    return (int32_t *)(boids_of(s) + s->num_boids);
}

SHOAL_FN int32_t *list_of(const State *s) {
    return cells_of(s) + s->size * s->size + 1;
}

SHOAL_FN float wrapped(float x, float size) {
    x = x < 0 ? x + size : x;
    return x >= size ? x - size : x;
}

SHOAL_FN int32_t cell_of(const State *s, const Boid *boid) {
    return (int32_t)boid->y * s->size + (int32_t)boid->x;
}

SHOAL_FN void face(Boid *boid, float heading) {
    boid->heading = heading - 6.2831853f * floorf(heading / 6.2831853f + 0.5f);
    boid->ahead_x = shoal_cos(boid->heading);
    boid->ahead_y = shoal_sin(boid->heading);
}

/* Sorts the boids by cells: how many are in each, where each ends, and then each one from the last
 * to the first to its place, which moves the ends to the beginnings. */
SHOAL_FN void sort(State *s) {
    const int32_t num_cells = s->size * s->size;
    const Boid *boids = boids_of(s);
    int32_t *cells = cells_of(s), *list = list_of(s), end = 0;
    memset(cells, 0, sizeof(int32_t) * (size_t)num_cells);
    for (int32_t i = 0; i < s->num_boids; i++)
        cells[cell_of(s, &boids[i])]++;
    for (int32_t k = 0; k < num_cells; k++)
        cells[k] = end += cells[k];
    cells[num_cells] = end;
    for (int32_t i = s->num_boids - 1; i >= 0; i--)
        list[--cells[cell_of(s, &boids[i])]] = i;
}

/* Writes what boid i sees, the nearest first, and returns its reward. */
SHOAL_FN float look(const State *s, int32_t i, float *seen) {
    const Boid *boids = boids_of(s), *me = &boids[i];
    const int32_t *cells = cells_of(s), *list = list_of(s), column = (int32_t)me->x;
    const float size = (float)s->size;
    float away[NEAREST], aside[NEAREST][2]; /* squares of distances; offsets */
    float along = 0, middle_x = 0, middle_y = 0, nearest, worth;
    int32_t near[NEAREST], count = 0, kept;
    for (int32_t down = -1; down <= 1; down++) {
        int32_t row = (int32_t)me->y + down;
        const float top = row < 0 ? -size : row == s->size ? size : 0;
        row += row < 0 ? s->size : row == s->size ? -s->size : 0;
        for (int32_t right = -1; right <= 1; right++) {
            const int32_t place = column + right;
            const float left = place < 0 ? -size : place == s->size ? size : 0;
            const int32_t there = place < 0 ? s->size - 1 : place == s->size ? 0 : place;
            const int32_t *k = list + cells[row * s->size + there];
            const int32_t *end = list + cells[row * s->size + there + 1];
            for (; k < end; k++) {
                const Boid *other = &boids[*k];
                const float x = other->x + left - me->x, y = other->y + top - me->y;
                const float square = x * x + y * y;
                int32_t at = count < NEAREST ? count : NEAREST;
                if (square >= 1 || *k == i)
                    continue;
                count++;
                along += other->ahead_x * me->ahead_x + other->ahead_y * me->ahead_y;
                middle_x += x;
                middle_y += y;
                if (at == NEAREST && square >= away[--at])
                    continue;
                for (; at > 0 && away[at - 1] > square; at--) {
                    away[at] = away[at - 1], near[at] = near[at - 1];
                    aside[at][0] = aside[at - 1][0], aside[at][1] = aside[at - 1][1];
                }
                away[at] = square, near[at] = *k;
                aside[at][0] = x, aside[at][1] = y;
            }
        }
    }
    kept = count < NEAREST ? count : NEAREST;
    seen[0] = shoal_clamp((me->speed - SLOWEST) / (FASTEST - SLOWEST), 0, 1);
    seen[1] = (float)(count < CROWD ? count : CROWD) / CROWD;
    seen += 2;
    for (int32_t k = 0; k < kept; k++, seen += FEATURES) {
        const Boid *other = &boids[near[k]];
        const float x = aside[k][0], y = aside[k][1];
        const float cosine = other->ahead_x * me->ahead_x + other->ahead_y * me->ahead_y;
        const float sine = other->ahead_y * me->ahead_x - other->ahead_x * me->ahead_y;
        seen[0] = shoal_clamp(x * me->ahead_x + y * me->ahead_y, -1, 1);
        seen[1] = shoal_clamp(y * me->ahead_x - x * me->ahead_y, -1, 1);
        seen[2] = shoal_clamp(cosine, -1, 1);
        seen[3] = shoal_clamp(sine, -1, 1);
    }
    memset(seen, 0, sizeof(float) * (size_t)(FEATURES * (NEAREST - kept)));
    if (count == 0)
        return 0;
    along /= (float)count;
    middle_x /= (float)count;
    middle_y /= (float)count;
    nearest = sqrtf(away[0]);
    worth = s->alignment * along;
    worth += s->cohesion * (1 - sqrtf(middle_x * middle_x + middle_y * middle_y));
    return nearest < s->spacing ? worth - s->separation * (1 - nearest / s->spacing) : worth;
}

SHOAL_FN void init(State *s, const double *params) {
    s->num_boids = (int32_t)params[NUM_BOIDS];
    s->size = (int32_t)params[SIZE];
    s->alignment = (float)params[ALIGNMENT];
    s->cohesion = (float)params[COHESION];
    s->separation = (float)params[SEPARATION];
    s->spacing = (float)params[SPACING];
}

SHOAL_FN void reset(State *s, const shoal_io *io) {
    float *seen = (float *)io->observations;
    s->steps = 0;
    for (int32_t i = 0; i < s->num_boids; i++) {
        Boid *boid = &boids_of(s)[i];
        boid->x = wrapped((float)s->size * shoal_uniform(&s->rng), (float)s->size);
        boid->y = wrapped((float)s->size * shoal_uniform(&s->rng), (float)s->size);
        face(boid, shoal_between(&s->rng, -3.1415927f, 3.1415927f));
        boid->speed = shoal_between(&s->rng, SLOWEST, FASTEST);
        boid->total = 0;
    }
    sort(s);
    for (int32_t i = 0; i < s->num_boids; i++)
        look(s, i, seen + VIEW * i);
}

/* All boids move, then all of them look. */
SHOAL_FN void step(State *s, const shoal_io *io) {
    const float *actions = (const float *)io->actions; /* two for each boid */
    const float size = (float)s->size;
    float *seen = (float *)io->observations;
    s->steps++;
    for (int32_t i = 0; i < s->num_boids; i++) {
        Boid *boid = &boids_of(s)[i];
        face(boid, boid->heading + TURN * actions[2 * i]);
        boid->speed = shoal_clamp(boid->speed + PUSH * actions[2 * i + 1], SLOWEST, FASTEST);
        boid->x = wrapped(boid->x + boid->speed * boid->ahead_x, size);
        boid->y = wrapped(boid->y + boid->speed * boid->ahead_y, size);
    }
    sort(s);
    for (int32_t i = 0; i < s->num_boids; i++) {
        io->rewards[i] = look(s, i, seen + VIEW * i);
        boids_of(s)[i].total += io->rewards[i];
    }
}

SHOAL_FN void report(const State *s, int32_t agent, float *values) {
    const float mean = boids_of(s)[agent].total / (float)s->steps;
    const float best = s->alignment + s->cohesion;
    values[0] = best > 0 ? shoal_clamp(mean / best, 0, 1) : 0;
}

/* A boid's colour is where it flies to; what boid 0 sees is around it. */
static void draw(const State *s, shoal_canvas *c) {
    static const uint32_t colors[8] = {SHOAL_AGENT,  SHOAL_GREEN, SHOAL_GOAL,   SHOAL_ORANGE,
                                       SHOAL_DANGER, SHOAL_PINK,  SHOAL_VIOLET, SHOAL_BLUE};
    static const float shape[4][2] = {{0.16f, 0}, {-0.12f, 0.09f}, {-0.07f, 0}, {-0.12f, -0.09f}};
    const Boid *first = boids_of(s);
    const float size = (float)s->size, large = size < 16 ? 1.4f : size / 12;
    shoal_view(c, 0, 0, size, size);
    for (int copy = 0; copy < 9; copy++) /* what is beyond the border is at the opposite one */
        shoal_circle(c, first->x + size * (float)(copy % 3 - 1),
                     first->y + size * (float)(copy / 3 - 1), 1, SHOAL_PANEL);
    for (int32_t i = 0; i < s->num_boids; i++) {
        const Boid *boid = &first[i];
        const float u = boid->ahead_x * large, v = boid->ahead_y * large;
        const int32_t way = (int32_t)floorf(boid->heading * (4 / 3.1415927f) + 0.5f) & 7;
        float points[8];
        for (int k = 0; k < 4; k++) {
            points[2 * k] = boid->x + shape[k][0] * u - shape[k][1] * v;
            points[2 * k + 1] = boid->y + shape[k][0] * v + shape[k][1] * u;
        }
        shoal_polygon(c, points, 4, colors[way]);
        shoal_place(c, i, boid->x, boid->y, 0.2f * large);
    }
}

static const char *resolve(const double *params, shoal_spec *spec) {
    const int64_t num_boids = (int64_t)params[NUM_BOIDS], size = (int64_t)params[SIZE];
    spec->agents = (int32_t)num_boids;
    spec->state_size = (int64_t)sizeof(State) + num_boids * (int64_t)sizeof(Boid) +
                       (num_boids + size * size + 1) * (int64_t)sizeof(int32_t);
    return NULL;
}

SHOAL_ENV(.name = "swarm",
          .text =
              "Boids learn to fly together, each one an agent.\n"
              "Each boid turns, and goes faster or slower, on a torus; it sees the 6 nearest boids "
              "within a distance of 1. Reward in each step, of the boids in sight: alignment times "
              "the mean cosine between their headings and its own, and cohesion times the nearness "
              "of their middle; less separation times how far the nearest one is within spacing; 0 "
              "if it sees none. The episode ends with the time limit. Speed is limited by the "
              "search for the boids in sight, in 9 cells of a grid.",
          .agents = 64, .max_steps = 256,
          .params = {{.name = "num_boids",
                      .value = 64,
                      .low = 1,
                      .high = 1024,
                      .type = SHOAL_INTEGER,
                      .text = "each one an agent"},
                     {.name = "size",
                      .value = 8,
                      .low = 3,
                      .high = 64,
                      .type = SHOAL_INTEGER,
                      .text = "of a side of the torus, in units of sight"},
                     {.name = "alignment",
                      .value = 0.5,
                      .low = 0,
                      .high = 1,
                      .text = "worth of the same heading"},
                     {.name = "cohesion",
                      .value = 0.5,
                      .low = 0,
                      .high = 1,
                      .text = "worth of being in the middle"},
                     {.name = "separation",
                      .value = 1,
                      .low = 0,
                      .high = 1,
                      .text = "cost of being at the same place as another"},
                     {.name = "spacing",
                      .value = 0.3,
                      .low = 0.01,
                      .high = 1,
                      .text = "nearer than that costs"}},
          .observations =
              {{.name = "view",
                .type = SHOAL_FLOAT32,
                .ndim = 1,
                .shape = {VIEW},
                .low = -1,
                .high = 1,
                .text =
                    "its speed, from the lowest to the highest; how many it sees, of 16 at most; "
                    "then of each of the 6 nearest, zeros where there is none: how far ahead and "
                    "how far to the right it is; cosine and sine of its heading, from the "
                    "boid's own"}},
          .actions = {{.name = "steer",
                       .type = SHOAL_FLOAT32,
                       .ndim = 1,
                       .shape = {2},
                       .low = -1,
                       .high = 1,
                       .text = "turn, by 0.25 radians at most; push, by 0.01 a step at most",
                       .labels = "turn push",
                       .keys = "left/right down/up"}},
          .logs = {{.name = "score", .text = "mean reward, of alignment and cohesion together"}},
          .resolve = resolve);
