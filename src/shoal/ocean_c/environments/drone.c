/* Drone: a quadrotor races through rings. A rigid body in 3-D, of which Newton's and Euler's
 * equations are integrated by Runge and Kutta's method of fourth order.
 *
 * Metres, seconds, radians. x is the way the course begins, y is to the left of it, z is up; of the
 * body x is ahead, y to the left, z up. */
#include "shoal_env.h"

enum { NUM_RINGS, RING_RADIUS, BEND, GRAVITY, POWER, ARM, DRAG, SUBSTEPS }; /* the parameters */
enum { AT = 0, SPEED = 3, TURN = 6, SPIN = 10, BODY = 13 }; /* what a body's 13 numbers are */
enum { FRONT_LEFT, FRONT_RIGHT, BACK_LEFT, BACK_RIGHT };    /* the rotors */

#define MOST_RINGS 64
#define TIME 0.02f    /* of one substep */
#define DAMPING 2.0f  /* of the spin, by the air: 1 / s */
#define LEVER 2.8284f /* radians / s^2 of a rotor's m / s^2, for an arm of 1 m */
#define TWIST 0.4f    /* the same about the vertical axis, by the air that the rotor moves */
#define MOST_SPIN 25.0f
#define FAREST 12.0f /* from the next ring */
#define LOWEST 0.1f
#define RING_WORTH 1.0f
#define METRE_WORTH 0.1f
#define FEATURES 21

typedef struct {
    float at[3], normal[3]; /* the normal is horizontal */
} Ring;

typedef struct {
    shoal_rng rng;
    int32_t num_rings, substeps, passed, crashed;
    float ring_radius, bend, gravity, power, arm, drag;
    float body[BODY]; /* place, velocity, attitude (w, x, y, z: body to world), spin in its frame */
    float thrust[4];  /* of each rotor, by the mass; for the picture */
    Ring rings[MOST_RINGS];
} State;

SHOAL_FN float dot(const float *a, const float *b) {
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
}

SHOAL_FN void cross(const float *a, const float *b, float *out) {
    out[0] = a[1] * b[2] - a[2] * b[1];
    out[1] = a[2] * b[0] - a[0] * b[2];
    out[2] = a[0] * b[1] - a[1] * b[0];
}

/* A vector of the body in the world, with sign 1; of the world in the body, with -1. */
SHOAL_FN void rotate(const float *q, const float *v, float sign, float *out) {
    float twice[3], more[3];
    cross(q + 1, v, twice);
    for (int i = 0; i < 3; i++)
        twice[i] *= 2;
    cross(q + 1, twice, more);
    for (int i = 0; i < 3; i++)
        out[i] = v[i] + sign * q[0] * twice[i] + more[i];
}

/* How a body changes, by the second. `push`: the rotors' acceleration along its vertical axis, then
 * of its spin. Its moments of inertia are as 1 to 1 to 2: it is flat. */
SHOAL_FN void change(const State *s, const float *b, const float *push, float *rate) {
    const float up[3] = {0, 0, push[0]}, *q = b + TURN, *w = b + SPIN;
    float lift[3];
    rotate(q, up, 1, lift);
    for (int i = 0; i < 3; i++) {
        rate[AT + i] = b[SPEED + i];
        rate[SPEED + i] = lift[i] - s->drag * b[SPEED + i];
        rate[SPIN + i] = push[1 + i] - DAMPING * w[i];
    }
    rate[SPEED + 2] -= s->gravity;
    rate[SPIN] -= w[1] * w[2];
    rate[SPIN + 1] += w[2] * w[0];
    rate[TURN] = 0.5f * (-q[1] * w[0] - q[2] * w[1] - q[3] * w[2]);
    rate[TURN + 1] = 0.5f * (q[0] * w[0] + q[2] * w[2] - q[3] * w[1]);
    rate[TURN + 2] = 0.5f * (q[0] * w[1] + q[3] * w[0] - q[1] * w[2]);
    rate[TURN + 3] = 0.5f * (q[0] * w[2] + q[1] * w[1] - q[2] * w[0]);
}

SHOAL_FN void fly(State *s, const float *push) {
    float rates[4][BODY], between[BODY], *b = s->body, length = 0;
    change(s, b, push, rates[0]);
    for (int k = 1; k < 4; k++) {
        for (int i = 0; i < BODY; i++)
            between[i] = b[i] + (k == 3 ? TIME : TIME / 2) * rates[k - 1][i];
        change(s, between, push, rates[k]);
    }
    for (int i = 0; i < BODY; i++)
        b[i] += TIME / 6 * (rates[0][i] + 2 * (rates[1][i] + rates[2][i]) + rates[3][i]);
    for (int i = 0; i < 4; i++)
        length += b[TURN + i] * b[TURN + i];
    for (int i = 0; i < 4; i++)
        b[TURN + i] *= 1 / sqrtf(length);
}

/* From the body to a ring, in the world. */
SHOAL_FN void way_to(const State *s, const Ring *ring, float *way) {
    for (int i = 0; i < 3; i++)
        way[i] = ring->at[i] - s->body[AT + i];
}

SHOAL_FN float distance(const State *s, const Ring *ring) {
    float way[3];
    way_to(s, ring, way);
    return sqrtf(dot(way, way));
}

/* Everything as the body sees it; of the attitude only what is up: no direction of the compass is
 * different from another. After the last ring comes the last ring. */
SHOAL_FN void observe(const State *s, const shoal_io *io) {
    const float *q = s->body + TURN, up[3] = {0, 0, 1};
    float *seen = (float *)io->observations, own[3];
    rotate(q, s->body + SPEED, -1, own);
    for (int i = 0; i < 3; i++) {
        seen[i] = shoal_clamp(own[i] * 0.1f, -2, 2);
        seen[3 + i] = shoal_clamp(s->body[SPIN + i] * 0.1f, -2, 2);
    }
    rotate(q, up, -1, own);
    for (int i = 0; i < 3; i++)
        seen[6 + i] = shoal_clamp(own[i], -1, 1);
    for (int k = 0; k < 2; k++) {
        const int32_t next = s->passed + k;
        const Ring *ring = &s->rings[next < s->num_rings ? next : s->num_rings - 1];
        float way[3];
        way_to(s, ring, way);
        rotate(q, way, -1, own);
        for (int i = 0; i < 3; i++)
            seen[9 + 6 * k + i] = shoal_clamp(own[i] * (2 / FAREST), -2, 2);
        rotate(q, ring->normal, -1, own);
        for (int i = 0; i < 3; i++)
            seen[12 + 6 * k + i] = shoal_clamp(own[i], -1, 1);
    }
}

SHOAL_FN void init(State *s, const double *params) {
    s->num_rings = (int32_t)params[NUM_RINGS];
    s->ring_radius = (float)params[RING_RADIUS];
    s->bend = (float)params[BEND];
    s->gravity = (float)params[GRAVITY];
    s->power = (float)params[POWER];
    s->arm = (float)params[ARM];
    s->drag = (float)params[DRAG];
    s->substeps = (int32_t)params[SUBSTEPS];
}

/* A flying start, towards the first ring. */
SHOAL_FN void reset(State *s, const shoal_io *io) {
    const float yaw = shoal_between(&s->rng, -0.3f, 0.3f);
    float x = 0, y = 0, z = 3, heading = 0;
    memset(s->body, 0, sizeof s->body);
    s->body[AT + 2] = z;
    s->body[SPEED] = 3;
    s->body[TURN] = shoal_cos(yaw / 2);
    s->body[TURN + 3] = shoal_sin(yaw / 2);
    s->passed = s->crashed = 0;
    for (int i = 0; i < 4; i++)
        s->thrust[i] = s->gravity / 4;
    for (int32_t k = 0; k < s->num_rings; k++) {
        const float far = k ? shoal_between(&s->rng, 4, 7) : 4;
        Ring *ring = &s->rings[k];
        heading += k ? shoal_between(&s->rng, -s->bend, s->bend) : 0;
        ring->normal[0] = shoal_cos(heading);
        ring->normal[1] = shoal_sin(heading);
        ring->normal[2] = 0;
        x += far * ring->normal[0];
        y += far * ring->normal[1];
        z = shoal_clamp(z + shoal_between(&s->rng, -1, 1), 2, 6);
        ring->at[0] = x, ring->at[1] = y, ring->at[2] = z;
    }
    observe(s, io);
}

/* Whether the way from `from` leads through the ring, in its direction. */
SHOAL_FN int passes(const State *s, const Ring *ring, const float *from) {
    float before[3], after[3], there[3], a, b;
    for (int i = 0; i < 3; i++) {
        before[i] = from[i] - ring->at[i];
        after[i] = s->body[AT + i] - ring->at[i];
    }
    a = dot(before, ring->normal);
    b = dot(after, ring->normal);
    if (a >= 0 || b < 0)
        return 0;
    for (int i = 0; i < 3; i++)
        there[i] = before[i] + (after[i] - before[i]) * (a / (a - b));
    return dot(there, there) < s->ring_radius * s->ring_radius;
}

SHOAL_FN void step(State *s, const shoal_io *io) {
    const float *actions = (const float *)io->actions, *spin = s->body + SPIN;
    float push[4], *f = s->thrust, reward = 0;
    for (int i = 0; i < 4; i++)
        f[i] = s->gravity / 4 * (1 + (s->power - 1) * actions[i]);
    push[0] = f[FRONT_LEFT] + f[FRONT_RIGHT] + f[BACK_LEFT] + f[BACK_RIGHT];
    push[1] = LEVER / s->arm * (f[FRONT_LEFT] + f[BACK_LEFT] - f[FRONT_RIGHT] - f[BACK_RIGHT]);
    push[2] = LEVER / s->arm * (f[BACK_LEFT] + f[BACK_RIGHT] - f[FRONT_LEFT] - f[FRONT_RIGHT]);
    push[3] = TWIST / s->arm * (f[FRONT_LEFT] + f[BACK_RIGHT] - f[FRONT_RIGHT] - f[BACK_LEFT]);
    for (int32_t k = 0; k < s->substeps && !s->crashed && s->passed < s->num_rings; k++) {
        const Ring *ring = &s->rings[s->passed];
        const float from[3] = {s->body[0], s->body[1], s->body[2]}, before = distance(s, ring);
        float after;
        fly(s, push);
        after = distance(s, ring);
        reward += METRE_WORTH * (before - after);
        if (passes(s, ring, from)) {
            reward += RING_WORTH;
            s->passed++;
        }
        s->crashed =
            after > FAREST || s->body[AT + 2] < LOWEST || dot(spin, spin) > MOST_SPIN * MOST_SPIN;
    }
    io->rewards[0] = reward;
    io->terminated[0] = s->crashed || s->passed == s->num_rings;
    observe(s, io);
}

SHOAL_FN void report(const State *s, int32_t agent, float *values) {
    (void)agent;
    values[0] = (float)s->passed / (float)s->num_rings;
    values[1] = (float)s->passed;
    values[2] = (float)s->crashed;
}

/* -- drawing: from behind, from the right and from above, as isometric pictures are -------------
 */

#define WIDE 16.0f
#define HIGH 12.0f
#define POINTS 32 /* of a circle */

/* `out`: a point of the world in the picture. */
static void project(const float *at, float *out) {
    out[0] = 0.866f * (at[0] - at[1]);
    out[1] = -0.5f * (at[0] + at[1]) - at[2];
}

static shoal_shape *line(shoal_canvas *c, const float *from, const float *to, float width,
                         uint32_t color) {
    float a[2], b[2];
    project(from, a);
    project(to, b);
    return shoal_line(c, a[0], a[1], b[0], b[1], width, color);
}

/* A disc, or its edge, spanned by two vectors. */
static shoal_shape *disc(shoal_canvas *c, const float *at, const float *u, const float *v,
                         uint32_t color) {
    float points[2 * POINTS];
    for (int i = 0; i < POINTS; i++) {
        const float angle = 6.2831853f / POINTS * (float)i, a = shoal_cos(angle),
                    b = shoal_sin(angle);
        const float corner[3] = {at[0] + a * u[0] + b * v[0], at[1] + a * u[1] + b * v[1],
                                 at[2] + a * u[2] + b * v[2]};
        project(corner, points + 2 * i);
    }
    return shoal_polygon(c, points, POINTS, color);
}

static void draw_ring(const State *s, shoal_canvas *c, int32_t k) {
    const Ring *ring = &s->rings[k];
    const float r = s->ring_radius, *n = ring->normal;
    const float aside[3] = {-r * n[1], r * n[0], 0}, up[3] = {0, 0, r};
    const float foot[3] = {ring->at[0], ring->at[1], 0};
    const float base[3] = {ring->at[0], ring->at[1], ring->at[2] - r};
    const uint32_t color = k < s->passed ? SHOAL_GREEN : k == s->passed ? SHOAL_GOAL : SHOAL_ORANGE;
    line(c, foot, base, 0.08f, SHOAL_WALL);
    if (k == s->passed)
        disc(c, ring->at, aside, up, SHOAL_GOAL & ~0xDFu);
    disc(c, ring->at, aside, up, color)->width = 0.16f;
}

/* Twice as large as it is, or it could not be seen. */
static void draw_drone(const State *s, shoal_canvas *c) {
    static const float corners[4][2] = {{1, 1}, {1, -1}, {-1, 1}, {-1, -1}};
    const float *at = s->body + AT, *q = s->body + TURN, size = 0.35f + s->arm;
    const float shade[2][3] = {{0.4f, 0, 0}, {0, 0.4f, 0}}, ground[3] = {at[0], at[1], 0};
    float axes[2][3];
    disc(c, ground, shade[0], shade[1], 0x00000080u);
    line(c, ground, at, 0.04f, SHOAL_WALL);
    for (int i = 0; i < 2; i++) {
        const float axis[3] = {(float)(i == 0), (float)(i == 1), 0};
        rotate(q, axis, 1, axes[i]);
    }
    for (int k = 0; k < 4; k++) {
        const float disc_size = 0.62f * size;
        float hub[3], u[3], v[3];
        for (int i = 0; i < 3; i++) {
            hub[i] =
                at[i] + 0.7071f * size * (corners[k][0] * axes[0][i] + corners[k][1] * axes[1][i]);
            u[i] = disc_size * axes[0][i];
            v[i] = disc_size * axes[1][i];
        }
        line(c, at, hub, 0.12f, SHOAL_INK);
        disc(c, hub, u, v, (k <= FRONT_RIGHT ? SHOAL_AGENT : SHOAL_BLUE) & ~0x5Fu);
        disc(c, hub, u, v, k <= FRONT_RIGHT ? SHOAL_AGENT : SHOAL_BLUE)->width = 0.06f;
    }
}

static void draw(const State *s, shoal_canvas *c) {
    const float *at = s->body + AT, looks_at[3] = {at[0], at[1], 2.5f};
    float middle[2];
    const int32_t x = (int32_t)floorf(at[0] / 2), y = (int32_t)floorf(at[1] / 2);
    project(looks_at, middle);
    shoal_view(c, middle[0] - 0.4f * WIDE, middle[1] - 0.6f * HIGH, WIDE, HIGH);
    for (int32_t i = -14; i <= 14; i++) {
        const float ends[4][3] = {{(float)(2 * (x + i)), (float)(2 * (y - 14)), 0},
                                  {(float)(2 * (x + i)), (float)(2 * (y + 14)), 0},
                                  {(float)(2 * (x - 14)), (float)(2 * (y + i)), 0},
                                  {(float)(2 * (x + 14)), (float)(2 * (y + i)), 0}};
        line(c, ends[0], ends[1], 0.03f, SHOAL_GRID);
        line(c, ends[2], ends[3], 0.03f, SHOAL_GRID);
    }
    for (int32_t k = s->num_rings - 1; k >= s->passed; k--)
        draw_ring(s, c, k);
    draw_drone(s, c);
    for (int32_t k = s->passed - 1; k >= 0; k--)
        draw_ring(s, c, k);
    shoal_number(c, c->x + 1.8f, c->y + 0.8f, 0.65f, "rings", s->passed, 0, SHOAL_INK);
}

SHOAL_ENV(
        .name = "drone",
        .text =
            "Race a quadrotor through rings.\n"
            "Each rotor pushes with a share of its power; an action of 0 is the thrust that "
            "hovers. The rings are to be passed in order and in their direction; each is some 4 to "
            "7 m from the last. Reward: 1 for each ring, and 0.1 for each metre nearer to "
            "it. The episode ends after the last ring, or with a crash: at the ground, 12 m away "
            "from the next ring, or at a spin of 25 radians per second. Speed is limited by the "
            "integration, 4 evaluations of the rigid body's equations in each substep.",
        .max_steps = 500,
        .params = {{.name = "num_rings",
                    .value = 10,
                    .low = 1,
                    .high = MOST_RINGS,
                    .type = SHOAL_INTEGER,
                    .text = "of the course"},
                   {.name = "ring_radius", .value = 1, .low = 0.3, .high = 2, .text = "in m"},
                   {.name = "bend",
                    .value = 0.7,
                    .low = 0,
                    .high = 1.5,
                    .text = "how far the course turns from ring to ring at most, in radians"},
                   {.name = "gravity", .value = 9.81, .low = 1, .high = 30, .text = "m/s^2"},
                   {.name = "power",
                    .value = 1.6,
                    .low = 1.05,
                    .high = 2,
                    .text = "highest thrust, of that which hovers; the lowest is as far below"},
                   {.name = "arm",
                    .value = 0.25,
                    .low = 0.1,
                    .high = 1,
                    .text = "from the middle to a rotor, in m"},
                   {.name = "drag",
                    .value = 0.3,
                    .low = 0,
                    .high = 5,
                    .text = "of the air: what it takes of the speed, by the second"},
                   {.name = "substeps",
                    .value = 2,
                    .low = 1,
                    .high = 10,
                    .type = SHOAL_INTEGER,
                    .text = "of 0.02 s, all with the same action"}},
        .observations =
            {{.name = "flight",
              .type = SHOAL_FLOAT32,
              .ndim = 1,
              .shape = {FEATURES},
              .low = -2,
              .high = 2,
              .text = "all in the body's frame (ahead, left, up): velocity, by 10 m/s; spin, by "
                      "10 radians per second; the direction that is up; then of the next ring and "
                      "of the one after it: where it is, by 6 m; the direction to pass it"}},
        .actions = {{.name = "thrust",
                     .type = SHOAL_FLOAT32,
                     .ndim = 1,
                     .shape = {4},
                     .low = -1,
                     .high = 1,
                     .text = "of each rotor: -1 the lowest, 0 hovers, 1 the highest",
                     .labels = "front_left front_right back_left back_right",
                     .keys = "a/q s/w d/e f/r"}},
        .logs = {{.name = "score", .text = "rings that were passed, of all"},
                 {.name = "rings", .text = "that were passed"},
                 {.name = "crashed", .text = "1 if it crashed"}});
