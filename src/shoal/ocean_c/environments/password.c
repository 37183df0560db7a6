/* Password: one sequence of actions pays, and nothing says how near one is. */
#include "shoal_env.h"

enum { LENGTH, NUM_SYMBOLS, PASSWORD }; /* the parameters */
enum { MOST_LENGTH = 32, MOST_SYMBOLS = 8 };

typedef struct {
    shoal_rng rng;
    int32_t length, num_symbols;
    int32_t entered; /* how many symbols */
    uint8_t password[MOST_LENGTH], symbols[MOST_LENGTH];
} State;

SHOAL_FN int32_t count_right(const State *s) {
    int32_t count = 0;
    for (int32_t i = 0; i < s->entered; i++)
        count += s->symbols[i] == s->password[i];
    return count;
}

SHOAL_FN void init(State *s, const double *params) {
    shoal_rng own; /* the password must not depend on the seed */
    s->length = (int32_t)params[LENGTH];
    s->num_symbols = (int32_t)params[NUM_SYMBOLS];
    shoal_seed(&own, (uint64_t)params[PASSWORD]);
    for (int32_t i = 0; i < s->length; i++)
        s->password[i] = (uint8_t)shoal_below(&own, s->num_symbols);
}

SHOAL_FN void observe(const State *s, const shoal_io *io) {
    uint8_t *seen = (uint8_t *)io->observations;
    memset(seen, 0, (size_t)(s->length * s->num_symbols));
    for (int32_t i = 0; i < s->entered; i++)
        seen[i * s->num_symbols + s->symbols[i]] = 1;
}

SHOAL_FN void reset(State *s, const shoal_io *io) {
    s->entered = 0;
    observe(s, io);
}

SHOAL_FN void step(State *s, const shoal_io *io) {
    s->symbols[s->entered++] = (uint8_t)*(const int64_t *)io->actions;
    if (s->entered == s->length) {
        io->rewards[0] = count_right(s) == s->length;
        io->terminated[0] = 1;
    }
    observe(s, io);
}

SHOAL_FN void report(const State *s, int32_t agent, float *values) {
    const int32_t right = count_right(s);
    (void)agent;
    values[0] = right == s->length;
    values[1] = (float)right / (float)s->length;
}

static void draw(const State *s, shoal_canvas *c) {
    const int32_t n = s->length;
    const float slot = n < 4 ? 1.0f : 4.0f / (float)n, left = 3.0f - slot * (float)n / 2;
    const int over = s->entered == n, won = over && count_right(s) == n;
    const uint32_t color = won ? SHOAL_GOAL : over ? SHOAL_DANGER : SHOAL_MUTED;
    shoal_view(c, 0, 0, 6, 6);
    shoal_circle(c, won ? 3.6f : 3, 2.1f, 0.75f, color)->width = 0.28f; /* a lock */
    shoal_rect(c, 3, 2.9f, 2.4f, 1.7f, color)->round = 0.25f;
    shoal_circle(c, 3, 2.75f, 0.24f, SHOAL_NIGHT);
    shoal_rect(c, 3, 3.1f, 0.16f, 0.6f, SHOAL_NIGHT)->round = 0.08f;
    for (int32_t i = 0; i < n; i++) {
        const float x = left + slot * ((float)i + 0.5f);
        shoal_rect(c, x, 4.8f, 0.86f * slot, 0.86f * slot,
                   i < s->entered ? SHOAL_AGENT : SHOAL_GRID)
            ->round = 0.2f * slot;
        if (i < s->entered)
            shoal_number(c, x, 4.8f, 0.6f * slot, NULL, s->symbols[i] + 1, 0, SHOAL_NIGHT);
    }
}

static const char *resolve(const double *params, shoal_spec *spec) {
    static const char *const keys[MOST_SYMBOLS + 1] = {
        NULL,        NULL,          "1 2",           "1 2 3",          "1 2 3 4",
        "1 2 3 4 5", "1 2 3 4 5 6", "1 2 3 4 5 6 7", "1 2 3 4 5 6 7 8"};
    const int32_t num_symbols = (int32_t)params[NUM_SYMBOLS];
    spec->observations[0].shape[0] = (int32_t)params[LENGTH];
    spec->observations[0].shape[1] = num_symbols;
    spec->actions[0].high = num_symbols - 1;
    spec->actions[0].keys = keys[num_symbols];
    return NULL;
}

SHOAL_ENV(.name = "password",
          .text = "Find the one sequence of actions that pays: a test of exploration.\n"
                  "Each action enters a symbol; after `length` of them the episode ends. The "
                  "password is the same in every episode and every environment, and nothing shows "
                  "how much of an entry is right. Reward: 1 for the password, at the end. Random "
                  "actions find the password once in num_symbols ^ length episodes (243 by "
                  "default). So a policy must learn from few successes, and must not settle before "
                  "the first one. A policy that knows the password scores 1. Speed is limited by "
                  "the observation, which is written in each step.",
          .params = {{.name = "length",
                      .value = 5,
                      .low = 1,
                      .high = MOST_LENGTH,
                      .type = SHOAL_INTEGER,
                      .text = "symbols of the password"},
                     {.name = "num_symbols",
                      .value = 3,
                      .low = 2,
                      .high = MOST_SYMBOLS,
                      .type = SHOAL_INTEGER,
                      .text = "kinds of symbols"},
                     {.name = "password",
                      .value = 0,
                      .low = 0,
                      .high = 1000000,
                      .type = SHOAL_INTEGER,
                      .text = "the number of the password, from which its symbols are drawn"}},
          .observations = {{.name = "entered",
                            .type = SHOAL_UINT8,
                            .ndim = 2,
                            .shape = {5, 3},
                            .low = 0,
                            .high = 1,
                            .text = "for each place a 1 at the symbol that was entered there"}},
          .actions = {{.name = "symbol",
                       .type = SHOAL_INT64,
                       .low = 0,
                       .high = 2,
                       .text = "what to enter",
                       .keys = "1 2 3"}},
          .logs = {{.name = "score", .text = "1 for the password"},
                   {.name = "right", .text = "share of the symbols that were right"}},
          .resolve = resolve);
