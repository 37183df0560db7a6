/* Steps one environment with random actions, without Python: for profilers and sanitizers.
 *
 *   cc -DENVIRONMENT='"my_env.c"' drive.c -lm -o drive && ./drive STEPS SEED VARY
 *
 * Every array has exactly the size that the contract gives it, in memory of its own, so that
 * AddressSanitizer sees each byte too far. With VARY the parameters change every 2,000 steps or so,
 * to their bounds and to anything between. Observations that leave their bounds, flags that are
 * neither 0 nor 1 and rewards that are no numbers end the program with a message. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include ENVIRONMENT

enum { ROUND = 2000, NUM_KINDS = 7 };

static const int64_t sizes[NUM_KINDS] = {0, 1, 1, 2, 4, 8, 4};

static void fail(const char *what, const char *name, double value) {
    fprintf(stderr, "%s: %s %s: %g\n", shoal_env_table.name, what, name, value);
    exit(1);
}

static int64_t count_of(const shoal_field *field) {
    int64_t count = 1;
    for (int i = 0; i < field->ndim; i++)
        count *= field->shape[i];
    return count;
}

static double value_at(const char *at, int32_t type) {
    switch (type) {
    case SHOAL_UINT8:
        return *(const uint8_t *)at;
    case SHOAL_INT8:
        return *(const int8_t *)at;
    case SHOAL_INT16:
        return *(const int16_t *)(const void *)at;
    case SHOAL_INT32:
        return *(const int32_t *)(const void *)at;
    case SHOAL_INT64:
        return (double)*(const int64_t *)(const void *)at;
    default:
        return *(const float *)(const void *)at;
    }
}

/* Bytes of an observation; with `row`, check the values that are there. */
static int64_t observation(const shoal_spec *spec, const char *row) {
    int64_t at = 0, most = 1;
    for (int i = 0; spec->observations[i].name; i++) {
        const shoal_field *field = &spec->observations[i];
        const int64_t size = sizes[field->type], count = count_of(field);
        most = size > most ? size : most;
        at = (at + size - 1) / size * size;
        for (int64_t k = 0; row && k < count; k++) {
            const double value = value_at(row + at + k * size, field->type);
            const double low = field->lows ? field->lows[k] : field->low;
            const double high = field->highs ? field->highs[k] : field->high;
            if (!(value >= (field->type == SHOAL_FLOAT32 ? (float)low : low) &&
                  value <= (field->type == SHOAL_FLOAT32 ? (float)high : high)))
                fail("observation out of bounds", field->name, value);
        }
        at += size * count;
    }
    return (at + most - 1) / most * most;
}

/* One run of episodes with certain parameters; returns the steps of agents, 0 if none were taken.
 */
static int64_t run(const double *params, const shoal_spec *spec, shoal_rng *rng, int64_t steps) {
    const shoal_table *table = &shoal_env_table;
    const int64_t n = spec->agents, row = observation(spec, NULL);
    int64_t elements = 0, masked = 0, taken = 0, done = 0;
    const int discrete = spec->actions[0].type == SHOAL_INT64;
    float low[256], high[256];
    for (int i = 0; spec->actions[i].name; i++)
        for (int64_t k = 0; k < count_of(&spec->actions[i]); k++, elements++) {
            const shoal_field *field = &spec->actions[i];
            low[elements % 256] = (float)(field->lows ? field->lows[k] : field->low);
            high[elements % 256] = (float)(field->highs ? field->highs[k] : field->high);
            masked += discrete ? (int64_t)high[elements % 256] + 1 : 0;
        }
    if (elements > 256 || n * row > (1 << 26) || spec->state_size > (1 << 26))
        return 0;
    masked = table->action_mask ? masked : 0;
    char *state = (char *)aligned_alloc(64, ((size_t)spec->state_size + 63) / 64 * 64);
    int64_t *choices = (int64_t *)malloc((size_t)(n * elements) * 8);
    float *pushes = (float *)malloc((size_t)(n * elements) * 4);
    char *observations = (char *)malloc((size_t)(n * row));
    float *rewards = (float *)malloc((size_t)n * 4), values[SHOAL_MAX_LOGS + 1];
    uint8_t *flags[5], *masks = (uint8_t *)malloc((size_t)(n * masked)), *gone;
    for (int i = 0; i < 5; i++)
        flags[i] = (uint8_t *)malloc((size_t)n);
    gone = (uint8_t *)calloc((size_t)n, 1);
    memset(state, 0, (size_t)spec->state_size);
    shoal_seed((shoal_rng *)(void *)state, ((uint64_t)shoal_bits(rng) << 32) | shoal_bits(rng));
    table->init(state, params);
    const shoal_batch batch = {state,
                               discrete ? (char *)choices : (char *)pushes,
                               observations,
                               rewards,
                               flags[0],
                               flags[1],
                               flags[2],
                               flags[3],
                               flags[4],
                               masks,
                               spec->state_size,
                               0,
                               0,
                               0,
                               n};
    for (int over = 1; done < steps;) {
        memset(observations, 0xA5, (size_t)(n * row));
        memset(masks, 1, (size_t)(n * masked));
        for (int64_t a = 0; a < n; a++) {
            rewards[a] = 0;
            flags[0][a] = flags[1][a] = flags[2][a] = 0;
            flags[3][a] = flags[4][a] = 1;
        }
        if (over) {
            const shoal_io io = shoal_io_of(&batch, 0);
            table->reset(state, &io);
            taken = 0;
        } else {
            table->step_many(&batch, 0, 1);
            taken++;
            done += n;
        }
        int left = 0;
        for (int64_t a = 0; a < n; a++) {
            for (int i = 0; i < 5; i++)
                if (flags[i][a] > 1)
                    fail("flag is neither 0 nor 1:", "number", i);
            if (!(rewards[a] - rewards[a] == 0))
                fail("reward", "is no number", (double)rewards[a]);
            if (over)
                gone[a] = !flags[3][a] && !flags[4][a];
            const int ended =
                flags[0][a] || flags[1][a] || (spec->max_steps && taken >= spec->max_steps);
            if (!gone[a]) {
                observation(spec, observations + a * row);
                if (ended && !over) {
                    table->report(state, (int32_t)a, values);
                    gone[a] = !flags[2][a] || (spec->max_steps && taken >= spec->max_steps);
                }
            }
            left |= !gone[a];
        }
        if (over && !left)
            fail("reset", "leaves agents:", 0);
        over = !left;
        for (int64_t a = 0; a < n; a++)
            for (int64_t k = 0, first = a * masked; k < elements; k++) {
                const int32_t count = (int32_t)high[k] + 1;
                int32_t choice = discrete ? shoal_below(rng, count) : 0, tries = 0;
                while (masked && discrete && !masks[first + choice] && tries++ < count)
                    choice = (choice + 1) % count;
                if (discrete)
                    choices[a * elements + k] = choice;
                else
                    pushes[a * elements + k] = shoal_between(rng, low[k], high[k]);
                first += count;
            }
    }
    free(state), free(choices), free(pushes), free(observations), free(rewards), free(masks);
    free(gone);
    for (int i = 0; i < 5; i++)
        free(flags[i]);
    return done;
}

int main(int argc, char **argv) {
    const int64_t steps = argc > 1 ? strtoll(argv[1], NULL, 10) : 1000000;
    const int vary = argc > 3 && atoi(argv[3]);
    const shoal_table *table = &shoal_env_table;
    static shoal_spec spec;
    shoal_rng rng;
    int64_t done = 0;
    shoal_seed(&rng, argc > 2 ? strtoull(argv[2], NULL, 10) : 0);
    for (int64_t tries = 0; done < steps && tries < steps; tries++) {
        double params[SHOAL_MAX_PARAMS + 1] = {0};
        for (int i = 0; table->params[i].name; i++) {
            const shoal_param *p = &table->params[i];
            const double low = p->type == SHOAL_BOOLEAN ? 0 : p->low > -1e6 ? p->low : -1e6;
            const double high = p->type == SHOAL_BOOLEAN ? 1 : p->high < 1e6 ? p->high : 1e6;
            const int32_t how = shoal_below(&rng, 8); /* mostly as it is */
            params[i] = p->value == p->value ? p->value : low;
            if (vary && how < 3)
                params[i] = how == 0   ? low
                            : how == 1 ? high
                                       : low + (high - low) * (double)shoal_uniform(&rng);
            if (p->type != SHOAL_REAL)
                params[i] = (double)(int64_t)params[i];
        }
        spec.agents = table->agents ? table->agents : 1;
        spec.max_steps = table->max_steps;
        spec.state_size = table->state_size;
        memcpy(spec.observations, table->observations, sizeof spec.observations);
        memcpy(spec.actions, table->actions, sizeof spec.actions);
        if (table->resolve && table->resolve(params, &spec))
            continue;
        /* Fewer steps where an observation is large: looking at it takes longer than the step. */
        const int64_t bytes = spec.agents * observation(&spec, NULL) + 1;
        const int64_t fitting = ROUND * INT64_C(1000) / bytes;
        const int64_t round = fitting > ROUND ? ROUND : fitting < 20 ? 20 : fitting;
        done += run(params, &spec, &rng, vary ? round : steps);
    }
    printf("%s: %" PRId64 " steps\n", table->name, done);
    return done < steps;
}
