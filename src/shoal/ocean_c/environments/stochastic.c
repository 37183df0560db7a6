/* Stochastic: the best policy without memory is to draw lots, with the right odds. */
#include "shoal_env.h"

enum { SHARE, LENGTH }; /* the parameters */
enum { FIRST, SECOND }; /* the actions */

typedef struct {
    shoal_rng rng;
    double share;
    int32_t length, steps, first; /* first: how often it was taken */
} State;

SHOAL_FN void init(State *s, const double *params) {
    s->share = params[SHARE];
    s->length = (int32_t)params[LENGTH];
}

SHOAL_FN void reset(State *s, const shoal_io *io) {
    s->steps = s->first = 0;
    *(float *)io->observations = 1;
}

SHOAL_FN void step(State *s, const shoal_io *io) {
    const int64_t action = *(const int64_t *)io->actions;
    const double over = (double)s->first - s->share * s->steps; /* more often than it should be */
    if (action == FIRST && over <= 0)
        io->rewards[0] = (float)(1 - s->share);
    if (action == SECOND && over >= 0)
        io->rewards[0] = (float)s->share;
    s->first += action == FIRST;
    io->terminated[0] = ++s->steps == s->length;
    *(float *)io->observations = 1;
}

SHOAL_FN void report(const State *s, int32_t agent, float *values) {
    const double share = s->steps ? (double)s->first / s->steps : 0, off = share - s->share;
    const double least = s->share < 0.5 ? s->share : 1 - s->share;
    (void)agent;
    values[0] = shoal_clamp((float)(1 - (off < 0 ? -off : off) / least), 0, 1);
    values[1] = (float)share;
}

static void draw(const State *s, shoal_canvas *c) {
    const float share = s->steps ? (float)s->first / (float)s->steps : 0.5f;
    const float aim = 6 * (float)s->share, now = 6 * share;
    shoal_view(c, -0.4f, -1.6f, 6.8f, 4.2f);
    shoal_key(c, 1);
    shoal_rect(c, now / 2, 0.5f, now, 1.2f, SHOAL_AGENT);
    shoal_key(c, 2);
    shoal_rect(c, 3 + now / 2, 0.5f, 6 - now, 1.2f, SHOAL_BLUE);
    shoal_line(c, aim, -0.4f, aim, 1.4f, 0.07f, SHOAL_GOAL);
    shoal_number(c, aim, -0.75f, 0.4f, NULL, s->share, 2, SHOAL_GOAL);
    shoal_number(c, 1, 1.8f, 0.4f, "first", s->first, 0, SHOAL_AGENT);
    shoal_number(c, 5, 1.8f, 0.4f, "second", s->steps - s->first, 0, SHOAL_BLUE);
}

SHOAL_ENV(.name = "stochastic",
          .text =
              "Take two actions at random with the right odds.\n"
              "The observation is always the same, so that a policy without memory can only "
              "draw lots. Reward: for the first action 1 - `share`, if it has not been taken "
              "more often than in that share of the episode's steps until now; for the second "
              "one `share`, if the first has not been taken less often. The highest return "
              "without memory has `share` as the chance of the first action: about share (1 - "
              "share) in a step. The episode ends after `length` steps. One action alone scores "
              "0, and so do even odds by default. The best policy scores 0.86 with the "
              "defaults, because even the right odds miss by chance; it scores less in a longer "
              "episode. Speed is limited by the loop around it: a step is a few operations.",
          .params = {{.name = "share",
                      .value = 0.75,
                      .low = 0.05,
                      .high = 0.95,
                      .text = "of the steps in which the first action should be taken"},
                     {.name = "length",
                      .value = 100,
                      .low = 1,
                      .high = 1000000,
                      .type = SHOAL_INTEGER,
                      .text = "steps of an episode"}},
          .observations = {{.name = "nothing",
                            .type = SHOAL_FLOAT32,
                            .ndim = 1,
                            .shape = {1},
                            .low = 0,
                            .high = 1,
                            .text = "always 1"}},
          .actions = {{.name = "action",
                       .type = SHOAL_INT64,
                       .low = 0,
                       .high = 1,
                       .text = "which one to take",
                       .labels = "first second",
                       .keys = "left right"}},
          .logs = {{.name = "score",
                    .text = "1 if the share was right, 0 if it was off by as much as the rarer "
                            "action's share"},
                   {.name = "share", .text = "of the first action"}});
