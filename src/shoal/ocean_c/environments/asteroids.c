/* Asteroids, after Atari's arcade game of 1979: a ship with inertia among rocks that break, on a
 * torus. Lengths are in units of which the torus has 20 a side, times in frames. */
#include "shoal_env.h"

enum { COAST, THRUST };                               /* the first action */
enum { STRAIGHT, LEFT, RIGHT };                       /* the second */
enum { HOLD, FIRE };                                  /* the third */
enum { FRAME_SKIP, NUM_ROCKS, NUM_SEEN, ROCK_SPEED }; /* the parameters */
enum { SMALL = 1, MEDIUM, LARGE };                    /* sizes of rocks */

#define SIDE 20.0f
#define PIECES 7 /* rocks that one large one makes: itself, 2 of medium size, 4 small ones */
#define MOST_LARGE 16
#define MOST_ROCKS (4 * MOST_LARGE) /* at a time */
#define MOST_SEEN 32
#define BULLETS 4
#define SHIP_FEATURES 5
#define ROCK_FEATURES 6
#define CORNERS 11 /* of a rock, as it is drawn */

#define TURNING 0.08f /* radians */
#define PUSH 0.006f
#define DRAG 0.98f     /* of the ship's speed, what a frame leaves */
#define FASTEST 0.3f   /* push / (1 - drag) */
#define SHIP 0.4f      /* radius */
#define BULLET 0.4f    /* speed, besides the ship's */
#define LIFE 36        /* of a bullet */
#define COOLDOWN 8     /* from one bullet to the next */
#define SMALLEST 0.45f /* radius; each larger size is twice as large */
#define SAFE 5.0f      /* no rock begins nearer than this */

typedef struct {
    float x, y;
} Vec;

typedef struct {
    Vec at, speed;
    float radius;
    int32_t size, number; /* number: in the order of appearance */
} Rock;

typedef struct {
    Vec at, speed;
    int32_t left, number; /* left: frames; 0: there is none */
} Bullet;

typedef struct {
    shoal_rng rng;
    int32_t frame_skip, num_large, num_seen;
    float rock_speed;
    Vec at, speed, ahead; /* ahead: where the ship looks, of length 1 */
    float heading;        /* the angle of `ahead`: radians, clockwise */
    int32_t thrusting, cooldown, hit, dead;
    int32_t num_rocks, created, fired;
    Bullet bullets[BULLETS];
    Rock rocks[MOST_ROCKS];
} State;

/* Back onto the torus; and the shortest way round it. */
SHOAL_FN float wrapped(float x) {
    x = x < 0 ? x + SIDE : x;
    return x >= SIDE ? x - SIDE : x;
}

SHOAL_FN float shortest(float x) {
    return x - SIDE * (float)((x > SIDE / 2) - (x < -SIDE / 2)); /* without a branch */
}

SHOAL_FN void move(Vec *at, Vec speed) {
    at->x = wrapped(at->x + speed.x);
    at->y = wrapped(at->y + speed.y);
}

SHOAL_FN Vec between(Vec from, Vec to) {
    Vec way;
    way.x = shortest(to.x - from.x);
    way.y = shortest(to.y - from.y);
    return way;
}

SHOAL_FN int touches(Vec a, Vec b, float distance) {
    float x = fabsf(b.x - a.x), y = fabsf(b.y - a.y);
    x = x < SIDE - x ? x : SIDE - x;
    y = y < SIDE - y ? y : SIDE - y;
    return x * x + y * y < distance * distance;
}

SHOAL_FN void face(State *s, float heading) {
    s->heading = heading - 6.2831853f * floorf(heading / 6.2831853f + 0.5f);
    s->ahead.x = shoal_cos(s->heading);
    s->ahead.y = shoal_sin(s->heading);
}

/* Where it is the caller has written; where it goes is chance, smaller ones faster. */
SHOAL_FN void send(State *s, Rock *rock, int32_t size) {
    const float angle = shoal_between(&s->rng, 0, 6.2831853f);
    const float speed = s->rock_speed * (float)(5 - size) / 2 * shoal_between(&s->rng, 0.5f, 1.5f);
    rock->size = size;
    rock->radius = SMALLEST * (float)(1 << (size - 1));
    rock->number = s->created++;
    rock->speed.x = speed * shoal_cos(angle);
    rock->speed.y = speed * shoal_sin(angle);
}

/* The ship; then the rocks whose surfaces are nearest, in order. */
SHOAL_FN void observe(const State *s, const shoal_io *io) {
    float *seen = (float *)io->observations, away[MOST_SEEN];
    const float c = s->ahead.x, n = s->ahead.y;
    const int32_t all = PIECES * s->num_large;
    int32_t order[MOST_SEEN], count = 0, flying = 0;
    for (int32_t i = 0; i < BULLETS; i++)
        flying += s->bullets[i].left > 0;
    seen[0] = shoal_clamp((s->speed.x * c + s->speed.y * n) * (1 / FASTEST), -1, 1);
    seen[1] = shoal_clamp((s->speed.y * c - s->speed.x * n) * (1 / FASTEST), -1, 1);
    seen[2] = (float)(BULLETS - flying) * (1.0f / BULLETS);
    seen[3] = (float)s->cooldown * (1.0f / COOLDOWN);
    seen[4] = (float)(all - s->hit) / (float)all;
    seen += SHIP_FEATURES;
    for (int32_t i = 0; i < s->num_rocks; i++) {
        const Vec way = between(s->at, s->rocks[i].at);
        const float near = sqrtf(way.x * way.x + way.y * way.y) - s->rocks[i].radius;
        int32_t k = count;
        if (count == s->num_seen && near >= away[count - 1])
            continue;
        if (count < s->num_seen)
            count++;
        else
            k--;
        for (; k > 0 && away[k - 1] > near; k--)
            away[k] = away[k - 1], order[k] = order[k - 1];
        away[k] = near, order[k] = i;
    }
    for (int32_t k = 0; k < count; k++, seen += ROCK_FEATURES) {
        const Rock *rock = &s->rocks[order[k]];
        const Vec way = between(s->at, rock->at);
        const float x = rock->speed.x - s->speed.x, y = rock->speed.y - s->speed.y;
        const float scale = 1 / (away[k] + rock->radius + 1e-6f);
        seen[0] = shoal_clamp((way.x * c + way.y * n) * scale, -1, 1);
        seen[1] = shoal_clamp((way.y * c - way.x * n) * scale, -1, 1);
        seen[2] = shoal_clamp(away[k] * (2 / SIDE), 0, 1);
        seen[3] = shoal_clamp((x * c + y * n) * (1 / FASTEST), -1, 1);
        seen[4] = shoal_clamp((y * c - x * n) * (1 / FASTEST), -1, 1);
        seen[5] = (float)rock->size / (float)LARGE;
    }
    memset(seen, 0, sizeof(float) * (size_t)(ROCK_FEATURES * (s->num_seen - count)));
}

SHOAL_FN void init(State *s, const double *params) {
    s->frame_skip = (int32_t)params[FRAME_SKIP];
    s->num_large = (int32_t)params[NUM_ROCKS];
    s->num_seen = (int32_t)params[NUM_SEEN];
    s->rock_speed = (float)params[ROCK_SPEED];
}

SHOAL_FN void reset(State *s, const shoal_io *io) {
    s->at.x = s->at.y = SIDE / 2;
    s->speed.x = s->speed.y = 0;
    face(s, shoal_between(&s->rng, -3.1415927f, 3.1415927f));
    s->thrusting = s->cooldown = s->hit = s->dead = s->created = s->fired = 0;
    for (int32_t i = 0; i < BULLETS; i++)
        s->bullets[i].left = 0;
    s->num_rocks = s->num_large;
    for (int32_t i = 0; i < s->num_large; i++) {
        const float angle = shoal_between(&s->rng, 0, 6.2831853f);
        const float distance = shoal_between(&s->rng, SAFE, SIDE / 2);
        s->rocks[i].at.x = SIDE / 2 + distance * shoal_cos(angle);
        s->rocks[i].at.y = SIDE / 2 + distance * shoal_sin(angle);
        send(s, &s->rocks[i], LARGE);
    }
    observe(s, io);
}

SHOAL_FN void fire(State *s) {
    for (int32_t i = 0; i < BULLETS; i++) {
        Bullet *b = &s->bullets[i];
        if (b->left > 0)
            continue;
        b->at.x = wrapped(s->at.x + SHIP * s->ahead.x);
        b->at.y = wrapped(s->at.y + SHIP * s->ahead.y);
        b->speed.x = s->speed.x + BULLET * s->ahead.x;
        b->speed.y = s->speed.y + BULLET * s->ahead.y;
        b->left = LIFE;
        b->number = s->fired++;
        s->cooldown = COOLDOWN;
        return;
    }
}

/* A rock becomes two, of which one takes its place; or the last rock does. */
SHOAL_FN void split(State *s, Rock *rock) {
    if (rock->size > SMALL) {
        Rock *other = &s->rocks[s->num_rocks++];
        const int32_t size = rock->size - 1;
        other->at = rock->at;
        send(s, rock, size);
        send(s, other, size);
    } else
        *rock = s->rocks[--s->num_rocks];
}

SHOAL_FN void frame(State *s, const int64_t *actions) {
    const int32_t turn = (actions[1] == RIGHT) - (actions[1] == LEFT);
    if (turn)
        face(s, s->heading + TURNING * (float)turn);
    s->speed.x *= DRAG;
    s->speed.y *= DRAG;
    if (s->thrusting) {
        s->speed.x += PUSH * s->ahead.x;
        s->speed.y += PUSH * s->ahead.y;
    }
    move(&s->at, s->speed);
    s->cooldown -= s->cooldown > 0;
    if (actions[2] == FIRE && s->cooldown == 0)
        fire(s);
    for (int32_t i = 0; i < s->num_rocks; i++)
        move(&s->rocks[i].at, s->rocks[i].speed);
    for (int32_t i = 0; i < BULLETS; i++) {
        Bullet *b = &s->bullets[i];
        if (b->left == 0)
            continue;
        move(&b->at, b->speed);
        b->left--;
        for (int32_t k = 0; k < s->num_rocks; k++)
            if (touches(b->at, s->rocks[k].at, s->rocks[k].radius)) {
                split(s, &s->rocks[k]);
                b->left = 0;
                s->hit++;
                break;
            }
    }
    for (int32_t k = 0; k < s->num_rocks; k++)
        s->dead |= touches(s->at, s->rocks[k].at, s->rocks[k].radius + SHIP);
}

SHOAL_FN void step(State *s, const shoal_io *io) {
    const int64_t *actions = (const int64_t *)io->actions;
    const int32_t had = s->hit;
    s->thrusting = actions[0] == THRUST;
    for (int32_t i = 0; i < s->frame_skip && !s->dead && s->num_rocks; i++)
        frame(s, actions);
    io->rewards[0] = (float)(s->hit - had);
    io->terminated[0] = s->dead || !s->num_rocks;
    observe(s, io);
}

SHOAL_FN void report(const State *s, int32_t agent, float *values) {
    (void)agent;
    values[0] = (float)s->hit / (float)(PIECES * s->num_large);
    values[1] = (float)s->hit;
    values[2] = (float)!s->dead;
}

/* What is at the border is seen at the opposite one, too. */
static void draw_rock(const Rock *rock, shoal_canvas *c) {
    const float radius = rock->radius;
    for (int32_t copy = 0; copy < 9; copy++) {
        const float x = rock->at.x + SIDE * (float)(copy % 3 - 1);
        const float y = rock->at.y + SIDE * (float)(copy / 3 - 1);
        float points[2 * CORNERS];
        uint32_t bits = (uint32_t)rock->number * 2654435761u + 97;
        if (x < -radius || x > SIDE + radius || y < -radius || y > SIDE + radius)
            continue;
        for (int32_t i = 0; i < CORNERS; i++, bits = bits * 1664525u + 1013904223u) {
            const float angle = 6.2831853f / CORNERS * (float)i;
            const float far = radius * (0.8f + 0.3f * (float)(bits >> 24) / 255);
            points[2 * i] = x + far * shoal_cos(angle);
            points[2 * i + 1] = y + far * shoal_sin(angle);
        }
        shoal_polygon(c, points, CORNERS, SHOAL_GRID);
        shoal_polygon(c, points, CORNERS, SHOAL_MUTED)->width = 0.1f;
    }
}

static void draw_ship(const State *s, shoal_canvas *c, float x, float y) {
    const float ahead_x = s->ahead.x * SHIP, ahead_y = s->ahead.y * SHIP;
    const uint32_t color = s->dead ? SHOAL_DANGER : SHOAL_AGENT;
    /* Its corners, ahead and to the right: the tip, the right one, the notch, the left one. */
    static const float shape[4][2] = {{1.5f, 0}, {-1, 0.9f}, {-0.6f, 0}, {-1, -0.9f}};
    float points[8], flame[6] = {0};
    for (int i = 0; i < 4; i++) {
        points[2 * i] = x + ahead_x * shape[i][0] - ahead_y * shape[i][1];
        points[2 * i + 1] = y + ahead_y * shape[i][0] + ahead_x * shape[i][1];
    }
    if (s->thrusting) {
        for (int i = 0; i < 3; i++) {
            const float back = i == 1 ? -1.7f : -0.75f, right = 0.45f * (float)(1 - i);
            flame[2 * i] = x + ahead_x * back - ahead_y * right;
            flame[2 * i + 1] = y + ahead_y * back + ahead_x * right;
        }
        shoal_polygon(c, flame, 3, SHOAL_ORANGE);
    }
    shoal_polygon(c, points, 4, color);
}

static void draw(const State *s, shoal_canvas *c) {
    shoal_view(c, 0, 0, SIDE, SIDE);
    for (uint32_t i = 0, bits = 1; i < 60; i++) { /* stars */
        const float x = (float)(bits >> 16) / 65536 * SIDE;
        bits = bits * 1664525u + 1013904223u;
        shoal_circle(c, x, (float)(bits >> 16) / 65536 * SIDE, 0.035f, SHOAL_WALL);
        bits = bits * 1664525u + 1013904223u;
    }
    for (int32_t i = 0; i < s->num_rocks; i++)
        draw_rock(&s->rocks[i], c);
    for (int32_t i = 0; i < BULLETS; i++)
        if (s->bullets[i].left)
            shoal_circle(c, s->bullets[i].at.x, s->bullets[i].at.y, 0.12f, SHOAL_GOAL);
    for (int32_t copy = 0; copy < 9; copy++) {
        const float x = s->at.x + SIDE * (float)(copy % 3 - 1);
        const float y = s->at.y + SIDE * (float)(copy / 3 - 1);
        if (x > -1 && x < SIDE + 1 && y > -1 && y < SIDE + 1)
            draw_ship(s, c, x, y);
    }
    shoal_number(c, 1.5f, 0.8f, 0.8f, NULL, s->hit, 0, SHOAL_INK);
}

static const char *resolve(const double *params, shoal_spec *spec) {
    spec->observations[1].shape[0] = (int32_t)params[NUM_SEEN];
    return NULL;
}

SHOAL_ENV(
        .name = "asteroids",
        .text =
            "Shoot rocks that break into smaller ones, in a ship with inertia.\n"
            "What leaves the picture comes back at the opposite side. A large rock breaks into two "
            "of medium size, these into two small ones, which are gone when they are hit: 7 "
            "rocks from one. Smaller ones are faster. At most 4 bullets fly at a time, 8 frames "
            "apart. Reward: 1 for each rock that is hit. The episode ends when a rock "
            "touches the ship, or with the last rock. Speed is limited by the distances, of "
            "bullets and the ship to all rocks in each frame, and by the order of the nearest.",
        .max_steps = 1000,
        .params = {{.name = "frame_skip",
                    .value = 2,
                    .low = 1,
                    .high = 16,
                    .type = SHOAL_INTEGER,
                    .text = "frames in a step, all with the same action"},
                   {.name = "num_rocks",
                    .value = 4,
                    .low = 1,
                    .high = MOST_LARGE,
                    .type = SHOAL_INTEGER,
                    .text = "large ones at the beginning"},
                   {.name = "num_seen",
                    .value = 8,
                    .low = 1,
                    .high = MOST_SEEN,
                    .type = SHOAL_INTEGER,
                    .text = "rocks that the ship sees, the nearest ones"},
                   {.name = "rock_speed",
                    .value = 0.04,
                    .low = 0,
                    .high = 0.2,
                    .text = "of a large one, in units a frame; the torus has 20 a side"}},
        .observations =
            {{.name = "ship",
              .type = SHOAL_FLOAT32,
              .ndim = 1,
              .shape = {SHIP_FEATURES},
              .low = -1,
              .high = 1,
              .text = "speed ahead and to the right, bullets that it has, time to the next one, "
                      "rocks that are left, of all"},
             {.name = "rocks",
              .type = SHOAL_FLOAT32,
              .ndim = 2,
              .shape = {8, ROCK_FEATURES},
              .low = -1,
              .high = 1,
              .text = "the nearest first, zeros where there is none: how far ahead and how far to "
                      "the right, of its distance; the distance of its surface, of half a side; "
                      "its speed, seen from the ship, ahead and to the right; its size, from "
                      "1/3 to 1"}},
        .actions = {{.name = "thrust",
                     .type = SHOAL_INT64,
                     .low = 0,
                     .high = 1,
                     .text = "ahead",
                     .labels = "coast thrust",
                     .keys = "- up"},
                    {.name = "turn",
                     .type = SHOAL_INT64,
                     .low = 0,
                     .high = 2,
                     .text = "by 0.08 radians a frame",
                     .labels = "straight left right",
                     .keys = "- left right"},
                    {.name = "fire",
                     .type = SHOAL_INT64,
                     .low = 0,
                     .high = 1,
                     .text = "a bullet",
                     .labels = "hold fire",
                     .keys = "- space"}},
        .logs = {{.name = "score", .text = "rocks that were hit, of all that there can be"},
                 {.name = "hit", .text = "rocks that were hit"},
                 {.name = "alive", .text = "1 if no rock touched the ship"}},
        .resolve = resolve);
