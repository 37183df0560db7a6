/* Bandit: several arms, of which one pays better. Which one is hidden. */
#include "shoal_env.h"

enum { NUM_ARMS, PULLS, ARM, WIN, LOSE }; /* the parameters */
enum { MOST_ARMS = 10, NONE = -1 };

typedef struct {
    shoal_rng rng;
    int32_t num_arms, pulls, fixed; /* fixed: the arm that pays in all episodes, or NONE */
    float win, lose;
    int32_t best, steps, found, last, paid; /* found: pulls of the best arm; paid: the last pull */
    int32_t pulled[MOST_ARMS];
} State;

SHOAL_FN void observe(const State *s, const shoal_io *io) {
    uint8_t *seen = (uint8_t *)io->observations;
    memset(seen, 0, (size_t)s->num_arms + 1);
    if (s->last != NONE)
        seen[s->last] = 1;
    seen[s->num_arms] = (uint8_t)s->paid;
}

SHOAL_FN void init(State *s, const double *params) {
    s->num_arms = (int32_t)params[NUM_ARMS];
    s->pulls = (int32_t)params[PULLS];
    s->fixed = (int32_t)params[ARM];
    s->win = (float)params[WIN];
    s->lose = (float)params[LOSE];
}

SHOAL_FN void reset(State *s, const shoal_io *io) {
    s->best = s->fixed == NONE ? shoal_below(&s->rng, s->num_arms) : s->fixed;
    s->steps = s->found = s->paid = 0;
    s->last = NONE;
    memset(s->pulled, 0, sizeof s->pulled);
    observe(s, io);
}

SHOAL_FN void step(State *s, const shoal_io *io) {
    s->last = (int32_t)*(const int64_t *)io->actions;
    s->paid = shoal_uniform(&s->rng) < (s->last == s->best ? s->win : s->lose);
    s->found += s->last == s->best;
    s->pulled[s->last]++;
    io->rewards[0] = (float)s->paid;
    io->terminated[0] = ++s->steps == s->pulls;
    observe(s, io);
}

SHOAL_FN void report(const State *s, int32_t agent, float *values) {
    (void)agent;
    values[0] = s->steps ? (float)s->found / (float)s->steps : 0.0f;
}

static void draw(const State *s, shoal_canvas *c) {
    const float wide = 6.0f / (float)s->num_arms;
    shoal_view(c, -0.3f, -0.3f, 6.6f, 6.6f);
    for (int32_t i = 0; i < s->num_arms; i++) {
        const float x = wide * ((float)i + 0.5f), share = (float)s->pulled[i] / (float)s->pulls;
        const int last = i == s->last;
        shoal_rect(c, x, 2.4f, 0.84f * wide, 4.8f, SHOAL_PANEL)->round = 0.15f;
        if (s->pulled[i]) {
            shoal_key(c, i + 1);
            shoal_rect(c, x, 4.8f - 2.4f * share, 0.84f * wide, 4.8f * share,
                       i == s->best ? SHOAL_AGENT : SHOAL_WALL)
                ->round = 0.15f;
        }
        shoal_circle(c, x, 5.5f, 0.34f * (wide < 1.2f ? wide : 1.2f),
                     !last     ? SHOAL_GRID
                     : s->paid ? SHOAL_GOAL
                               : SHOAL_DANGER);
        if (i == s->best) /* the one that pays, which the agent does not see */
            shoal_circle(c, x, 5.5f, 0.42f * (wide < 1.2f ? wide : 1.2f), SHOAL_GOAL)->width =
                0.06f;
        if (s->pulled[i])
            shoal_number(c, x, 0.4f, 0.4f, NULL, s->pulled[i], 0, SHOAL_INK);
    }
}

static const char *resolve(const double *params, shoal_spec *spec) {
    static const char *const keys[MOST_ARMS + 1] = {NULL,
                                                    NULL,
                                                    "1 2",
                                                    "1 2 3",
                                                    "1 2 3 4",
                                                    "1 2 3 4 5",
                                                    "1 2 3 4 5 6",
                                                    "1 2 3 4 5 6 7",
                                                    "1 2 3 4 5 6 7 8",
                                                    "1 2 3 4 5 6 7 8 9",
                                                    "1 2 3 4 5 6 7 8 9 0"};
    const int32_t num_arms = (int32_t)params[NUM_ARMS];
    if (params[ARM] >= num_arms)
        return "arm: there are no more than num_arms, and the first is 0";
    if (params[WIN] < params[LOSE])
        return "win must not be less than lose";
    spec->observations[0].shape[0] = num_arms + 1;
    spec->actions[0].high = num_arms - 1;
    spec->actions[0].keys = keys[num_arms];
    return NULL;
}

SHOAL_ENV(.name = "bandit",
          .text =
              "Find out which arm pays, then stay with it.\n"
              "One arm pays with probability `win`, the others with probability `lose`. Which "
              "one is always `arm`, or a random one in each episode if arm is -1. The agent "
              "sees its last pull and whether the pull paid. Reward: 1 if it pays. The episode "
              "ends after `pulls` pulls. With a fixed arm the best policy scores 1. With arm = "
              "-1 the agent must find the arm in each episode. If payment is certain (win 1, "
              "lose 0), trying the arms in order until one pays scores 1 - (num_arms - 1) / (2 "
              "pulls): 0.906 for 4 arms and 16 pulls, without memory. If it is not, the agent "
              "must count, which needs memory. Pulling one arm always scores 1 / num_arms then. "
              "Speed is limited by the loop around it: a step is a few operations.",
          .params = {{.name = "num_arms",
                      .value = 4,
                      .low = 2,
                      .high = MOST_ARMS,
                      .type = SHOAL_INTEGER,
                      .text = "to choose from"},
                     {.name = "pulls",
                      .value = 16,
                      .low = 1,
                      .high = 10000,
                      .type = SHOAL_INTEGER,
                      .text = "of an episode"},
                     {.name = "arm",
                      .value = 2,
                      .low = NONE,
                      .high = MOST_ARMS - 1,
                      .type = SHOAL_INTEGER,
                      .text = "which one pays better, from 0; -1: a random one in each episode"},
                     {.name = "win",
                      .value = 0.75,
                      .low = 0,
                      .high = 1,
                      .text = "probability that the better arm pays"},
                     {.name = "lose",
                      .value = 0.25,
                      .low = 0,
                      .high = 1,
                      .text = "probability that another arm pays"}},
          .observations = {{.name = "last",
                            .type = SHOAL_UINT8,
                            .ndim = 1,
                            .shape = {5},
                            .low = 0,
                            .high = 1,
                            .text = "1 for the arm pulled last; then 1 if that paid"}},
          .actions = {{.name = "arm",
                       .type = SHOAL_INT64,
                       .low = 0,
                       .high = 3,
                       .text = "which one to pull",
                       .keys = "1 2 3 4"}},
          .logs = {{.name = "score", .text = "share of the pulls that were of the better arm"}},
          .resolve = resolve);
