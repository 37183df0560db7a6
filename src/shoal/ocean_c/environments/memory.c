/* Memory: symbols are shown one after the other, and must be named, in order, after a while. */
#include "shoal_env.h"

enum { LENGTH, NUM_SYMBOLS, DELAY }; /* the parameters */
enum { MOST_LENGTH = 32, MOST_SYMBOLS = 8 };

typedef struct {
    shoal_rng rng;
    int32_t length, num_symbols, delay;
    int32_t steps, right;
    uint8_t shown[MOST_LENGTH], named[MOST_LENGTH];
} State;

/* The step at which the first symbol must be named. */
SHOAL_FN int32_t first_question(const State *s) {
    return s->length + s->delay;
}

/* Whether each symbol is on show, then whether one must be named now. */
SHOAL_FN void observe(const State *s, const shoal_io *io) {
    uint8_t *seen = (uint8_t *)io->observations;
    memset(seen, 0, (size_t)s->num_symbols + 1);
    if (s->steps < s->length)
        seen[s->shown[s->steps]] = 1;
    seen[s->num_symbols] = s->steps >= first_question(s);
}

SHOAL_FN void init(State *s, const double *params) {
    s->length = (int32_t)params[LENGTH];
    s->num_symbols = (int32_t)params[NUM_SYMBOLS];
    s->delay = (int32_t)params[DELAY];
}

SHOAL_FN void reset(State *s, const shoal_io *io) {
    for (int32_t i = 0; i < s->length; i++)
        s->shown[i] = (uint8_t)shoal_below(&s->rng, s->num_symbols);
    s->steps = s->right = 0;
    observe(s, io);
}

SHOAL_FN void step(State *s, const shoal_io *io) {
    const int64_t action = *(const int64_t *)io->actions;
    const int32_t question = s->steps - first_question(s);
    s->steps++;
    if (question >= 0) {
        const int right = action == s->shown[question];
        s->named[question] = (uint8_t)action;
        s->right += right;
        io->rewards[0] = right ? 1.0f / (float)s->length : 0.0f;
        io->terminated[0] = question == s->length - 1;
    }
    observe(s, io);
}

SHOAL_FN void report(const State *s, int32_t agent, float *values) {
    (void)agent;
    values[0] = (float)s->right / (float)s->length;
    values[1] = s->right == s->length;
}

static void draw(const State *s, shoal_canvas *c) {
    static const uint32_t colors[MOST_SYMBOLS] = {SHOAL_BLUE,   SHOAL_GOAL,   SHOAL_PINK,
                                                  SHOAL_GREEN,  SHOAL_VIOLET, SHOAL_ORANGE,
                                                  SHOAL_DANGER, SHOAL_INK};
    const int32_t asked = s->steps - first_question(s), n = s->length;
    const float slot = n < 4 ? 1.0f : 4.0f / (float)n, left = 3.0f - slot * (float)n / 2;
    shoal_view(c, 0, 0, 6, 6);
    shoal_rect(c, 3, 2.4f, 5.2f, 4, SHOAL_PANEL)->round = 0.3f;
    if (s->steps < n) {
        const int symbol = s->shown[s->steps];
        shoal_circle(c, 3, 2.4f, 1.4f, colors[symbol]);
        shoal_number(c, 3, 2.4f, 1.3f, NULL, symbol + 1, 0, SHOAL_NIGHT);
    } else if (asked >= 0) {
        shoal_circle(c, 3, 2.4f, 1.4f, SHOAL_AGENT)->width = 0.1f;
        shoal_text(c, 3, 2.4f, 1.5f, "?", SHOAL_AGENT);
    } else {
        shoal_circle(c, 3, 2.4f, 1.4f, SHOAL_GRID)->width = 0.1f;
        shoal_number(c, 3, 2.4f, 0.9f, NULL, -asked, 0, SHOAL_WALL); /* steps to wait */
    }
    for (int32_t i = 0; i < n; i++) { /* the answers, above what was right once they are given */
        const float x = left + slot * ((float)i + 0.5f);
        shoal_rect(c, x, 5.2f, 0.86f * slot, 0.86f * slot,
                   i < asked && s->named[i] != s->shown[i] ? SHOAL_DANGER : SHOAL_GRID)
            ->round = 0.2f * slot;
        if (i < asked) {
            shoal_circle(c, x, 5.2f, 0.3f * slot, colors[s->named[i]]);
            if (s->named[i] != s->shown[i])
                shoal_line(c, x - 0.2f * slot, 5.2f + 0.2f * slot, x + 0.2f * slot,
                           5.2f - 0.2f * slot, 0.08f * slot, SHOAL_NIGHT);
        }
    }
}

static const char *resolve(const double *params, shoal_spec *spec) {
    static const char *const keys[MOST_SYMBOLS + 1] = {
        NULL,        NULL,          "1 2",           "1 2 3",          "1 2 3 4",
        "1 2 3 4 5", "1 2 3 4 5 6", "1 2 3 4 5 6 7", "1 2 3 4 5 6 7 8"};
    const int32_t num_symbols = (int32_t)params[NUM_SYMBOLS];
    spec->observations[0].shape[0] = num_symbols + 1;
    spec->actions[0].high = num_symbols - 1;
    spec->actions[0].keys = keys[num_symbols];
    return NULL;
}

SHOAL_ENV(
        .name = "memory",
        .text = "Remember symbols and name them after a while: a test of recurrence.\n"
                "`length` random symbols are shown, one in each step. Nothing is seen for `delay` "
                "steps, and what the agent does does not matter until then. Then it is asked "
                "`length` times: its actions must be the symbols in the order in which they were "
                "shown. Reward: 1 / length for each that is right. The episode ends with the last "
                "answer. Who remembers scores 1; without memory nobody gets more than "
                "1 / num_symbols in the mean. Speed is limited by resets: an episode is short.",
        .params = {{.name = "length",
                    .value = 1,
                    .low = 1,
                    .high = MOST_LENGTH,
                    .type = SHOAL_INTEGER,
                    .text = "symbols to remember"},
                   {.name = "num_symbols",
                    .value = 4,
                    .low = 2,
                    .high = MOST_SYMBOLS,
                    .type = SHOAL_INTEGER,
                    .text = "kinds of symbols"},
                   {.name = "delay",
                    .value = 2,
                    .low = 0,
                    .high = 10000,
                    .type = SHOAL_INTEGER,
                    .text = "steps between the last symbol and the first question"}},
        .observations = {{.name = "shown",
                          .type = SHOAL_UINT8,
                          .ndim = 1,
                          .shape = {5},
                          .low = 0,
                          .high = 1,
                          .text = "for each symbol 1 while it is shown; the last one is 1 when an "
                                  "answer is asked for"}},
        .actions = {{.name = "answer",
                     .type = SHOAL_INT64,
                     .low = 0,
                     .high = 3,
                     .text = "the symbol",
                     .keys = "1 2 3 4"}},
        .logs = {{.name = "score", .text = "share of the answers that were right"},
                 {.name = "complete", .text = "1 if all of them were right"}},
        .resolve = resolve);
