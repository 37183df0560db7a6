/* Cart and pole, as Gymnasium's CartPole-v1: the same equations, in the same order, in doubles, so
 * that it agrees with it to the rounding of its float32 observations. After Barto, Sutton and
 * Anderson (1983), with the corrected equations of Florian (2007). */
#include "shoal_env.h"

enum { GRAVITY, CART_MASS, POLE_MASS, LENGTH, FORCE, TAU, CONTINUOUS };

typedef struct {
    shoal_rng rng;
    double x, speed, angle, turning; /* m, m/s, rad, rad/s */
    /* What the equations need of the parameters: M is the mass of both, m and l are the pole's. */
    double gravity, tau, length; /* length: 4/3 l */
    double push, moment;         /* force / M; m l / M */
    float half_length;
    int32_t continuous, steps;
} State;

#define MOST_X 2.4
#define MOST_ANGLE (12 * 2 * 3.141592653589793 / 360)

/* Sine and cosine by their series: exact to double precision for the angles that episodes have, at
 * most 12 degrees at the beginning of a step; good to 1e-8 at a radian. */
SHOAL_FN double sine(double x) {
    const double y = x * x;
    return x * (1 + y * (-1.0 / 6 +
                         y * (1.0 / 120 +
                              y * (-1.0 / 5040 + y * (1.0 / 362880 + y * (-1.0 / 39916800))))));
}

SHOAL_FN double cosine(double x) {
    const double y = x * x;
    return 1 + y * (-1.0 / 2 +
                    y * (1.0 / 24 + y * (-1.0 / 720 + y * (1.0 / 40320 + y * (-1.0 / 3628800)))));
}

SHOAL_FN void observe(const State *s, const shoal_io *io) {
    float *seen = (float *)io->observations;
    seen[0] = shoal_clamp((float)s->x, (float)(-2 * MOST_X), (float)(2 * MOST_X));
    seen[1] = (float)s->speed;
    seen[2] = shoal_clamp((float)s->angle, (float)(-2 * MOST_ANGLE), (float)(2 * MOST_ANGLE));
    seen[3] = (float)s->turning;
}

SHOAL_FN void init(State *s, const double *params) {
    const double mass = params[CART_MASS] + params[POLE_MASS];
    s->gravity = params[GRAVITY];
    s->tau = params[TAU];
    s->length = 4.0 / 3.0 * params[LENGTH];
    s->push = params[FORCE] / mass;
    s->moment = params[POLE_MASS] * params[LENGTH] / mass;
    s->half_length = (float)params[LENGTH];
    s->continuous = (int32_t)params[CONTINUOUS];
}

SHOAL_FN void reset(State *s, const shoal_io *io) {
    s->x = shoal_between(&s->rng, -0.05f, 0.05f);
    s->speed = shoal_between(&s->rng, -0.05f, 0.05f);
    s->angle = shoal_between(&s->rng, -0.05f, 0.05f);
    s->turning = shoal_between(&s->rng, -0.05f, 0.05f);
    s->steps = 0;
    observe(s, io);
}

SHOAL_FN void step(State *s, const shoal_io *io) {
    const double sin_angle = sine(s->angle), cos_angle = cosine(s->angle);
    const double share = s->continuous ? (double)*(const float *)io->actions
                                       : (double)(2 * *(const int64_t *)io->actions - 1);
    const double pull = s->push * share + s->moment * s->turning * s->turning * sin_angle;
    const double turning = (s->gravity * sin_angle - cos_angle * pull) /
                           (s->length - s->moment * cos_angle * cos_angle);
    const double speeding = pull - s->moment * turning * cos_angle;
    s->x += s->tau * s->speed;
    s->speed += s->tau * speeding;
    s->angle += s->tau * s->turning;
    s->turning += s->tau * turning;
    s->steps++;
    io->rewards[0] = 1;
    io->terminated[0] = (uint8_t)((s->x < -MOST_X) | (s->x > MOST_X) | (s->angle < -MOST_ANGLE) |
                                  (s->angle > MOST_ANGLE));
    observe(s, io);
}

SHOAL_FN void report(const State *s, int32_t agent, float *values) {
    (void)agent;
    values[0] = s->steps < 500 ? (float)s->steps / 500.0f : 1.0f;
}

static void draw(const State *s, shoal_canvas *c) {
    const float x = (float)s->x, tilt = (float)s->angle, length = 2 * s->half_length;
    const float top_x = x + length * shoal_sin(tilt), top_y = -0.1f - length * shoal_cos(tilt);
    shoal_view(c, -2.8f, -1.9f, 5.6f, 2.8f);
    shoal_line(c, -2.8f, 0.22f, 2.8f, 0.22f, 0.025f, SHOAL_WALL);
    for (int side = -1; side <= 1; side += 2)
        shoal_line(c, (float)(side * MOST_X), 0.12f, (float)(side * MOST_X), 0.32f, 0.03f,
                   SHOAL_DANGER);
    for (int side = -1; side <= 1; side += 2) {
        shoal_key(c, 3 + side);
        shoal_circle(c, x + 0.13f * (float)side, 0.15f, 0.07f, SHOAL_MUTED);
    }
    shoal_key(c, 1);
    shoal_rect(c, x, 0, 0.5f, 0.26f, SHOAL_AGENT)->round = 0.05f;
    shoal_key(c, 5);
    shoal_line(c, x, -0.1f, top_x, top_y, 0.09f, SHOAL_GOAL);
    shoal_key(c, 6);
    shoal_circle(c, x, -0.1f, 0.05f, SHOAL_INK);
    shoal_number(c, 0, 0.65f, 0.2f, "steps", s->steps, 0, SHOAL_MUTED);
}

static const double lows[] = {-2 * MOST_X, -SHOAL_INF, -2 * MOST_ANGLE, -SHOAL_INF};
static const double highs[] = {2 * MOST_X, SHOAL_INF, 2 * MOST_ANGLE, SHOAL_INF};

static const char *resolve(const double *params, shoal_spec *spec) {
    if (params[CONTINUOUS] != 0) {
        shoal_field *push = &spec->actions[0];
        push->type = SHOAL_FLOAT32;
        push->low = -1, push->high = 1;
        push->ndim = 1, push->shape[0] = 1;
        push->labels = NULL;
        push->keys = "left/right";
    }
    return NULL;
}

SHOAL_ENV(.name = "cartpole",
          .text = "Balance a pole on a cart by pushing the cart.\n"
                  "Gymnasium's CartPole-v1. Reward: 1 for each step. The episode ends when the "
                  "pole leans "
                  "by 12 degrees or the cart leaves the rail, 2.4 m from its middle.",
          .max_steps = 500,
          .params =
              {{.name = "gravity", .value = 9.8, .low = 0, .high = 1000, .text = "m/s^2"},
               {.name = "cart_mass", .value = 1, .low = 0.001, .high = 1000, .text = "kg"},
               {.name = "pole_mass", .value = 0.1, .low = 0.001, .high = 1000, .text = "kg"},
               {.name = "length",
                .value = 0.5,
                .low = 0.01,
                .high = 100,
                .text = "half of the pole's, in m"},
               {.name = "force", .value = 10, .low = 0, .high = 10000, .text = "of a push, in N"},
               {.name = "tau", .value = 0.02, .low = 0.0001, .high = 1, .text = "s of a step"},
               {.name = "continuous",
                .value = 0,
                .type = SHOAL_BOOLEAN,
                .text = "the action is a share of the force, from -1 to 1"}},
          .observations = {{.name = "cart",
                            .type = SHOAL_FLOAT32,
                            .ndim = 1,
                            .shape = {4},
                            .low = -SHOAL_INF,
                            .high = SHOAL_INF,
                            .lows = lows,
                            .highs = highs,
                            .text = "position, speed, angle, angular speed",
                            .labels = "x speed angle turning"}},
          .actions = {{.name = "push",
                       .type = SHOAL_INT64,
                       .low = 0,
                       .high = 1,
                       .text = "which way to push",
                       .labels = "left right",
                       .keys = "left right"}},
          .logs = {{.name = "score", .text = "steps that it stood, of 500"}}, .resolve = resolve);
