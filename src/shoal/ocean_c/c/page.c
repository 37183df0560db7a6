/* One environment, and the policy that plays it, as one wasm32 module for a web page.
 *
 *   clang --target=wasm32 -O3 -nostdlib -Wl,--no-entry -DENVIRONMENT='"my_env.c"' page.c
 *
 * With -DPOLICY='"policy.h"' the module has a policy too; `shoal export RUN --format c` writes that
 * file. JavaScript writes the parameters, calls `page_open` and then `page_reset`, `page_act` and
 * `page_step`, and reads and writes the arrays whose addresses `page_view` lists. Episodes begin
 * and end as in Shoal's engine with next-step autoreset: the step after an episode's last one
 * resets the environment. tests/ocean_c/test_web.py compares both byte for byte.
 *
 * The two globals are the module's only state. JavaScript can pass numbers to a function, but no
 * structs, so there is no argument in which it could hold them. All memory is taken by `page_open`.
 */

/* The rest of the mathematics is JavaScript's, rounded to float. */
#define PAGE_IMPORT(name) __attribute__((import_module("env"), import_name(#name)))
PAGE_IMPORT(sinf) float sinf(float);
PAGE_IMPORT(cosf) float cosf(float);
PAGE_IMPORT(tanf) float tanf(float);
PAGE_IMPORT(asinf) float asinf(float);
PAGE_IMPORT(acosf) float acosf(float);
PAGE_IMPORT(atan2f) float atan2f(float, float);
PAGE_IMPORT(expf) float expf(float);
PAGE_IMPORT(logf) float logf(float);
PAGE_IMPORT(powf) float powf(float, float);
PAGE_IMPORT(tanhf) float tanhf(float);
PAGE_IMPORT(fmodf) float fmodf(float, float);
PAGE_IMPORT(sin) double sin(double);
PAGE_IMPORT(cos) double cos(double);

#include ENVIRONMENT
#ifdef POLICY
#include POLICY
#endif

#define PAGE_EXPORT(name) SHOAL_EXPORT __attribute__((export_name(#name)))

enum { PAGE_SHAPES = 16384, PAGE_POINTS = 32768, PAGE_TEXT = 16384, PAGE_ELEMENTS = 256 };
enum { PAGE_RANDOM, PAGE_GREEDY, PAGE_SAMPLED }; /* how page_act chooses actions */

/* What JavaScript reads; each pointer is one number of 32 bits. page.js names them in this order.
 */
typedef struct {
    int32_t agents, max_steps, state_size, observation_size, action_size, num_masked;
    double *params;
    char *state, *observations, *actions;
    float *rewards;
    uint8_t *terminated, *truncated, *respawned, *masks, *acting, *gone, *action_masks;
    double *returns;
    int32_t *lengths, *ended; /* of the running episode; episodes that have ended */
    float *logs;              /* SHOAL_MAX_LOGS + 1 of each agent, of its last episode */
    float *logits, *values;
    int32_t num_logits;
    float *weights;
    int32_t num_weights;
    shoal_canvas *canvas;
    int32_t pending, steps; /* pending: the next step resets the environment */
} page_arrays;

static page_arrays page;
static struct {
    shoal_spec spec;
    shoal_canvas canvas;
    shoal_rng chance; /* of random actions; the environment has its own */
    uint64_t random;  /* of sampled actions */
    double params[SHOAL_MAX_PARAMS + 1];
    float low[PAGE_ELEMENTS], high[PAGE_ELEMENTS];
    int32_t elements;
    uint8_t *fresh; /* the agent's recurrent state is to be zeroed */
    float *recurrent, *scratch;
    unsigned char *next; /* the first byte that is not taken */
} page_own;

/* -- what a C library would have ----------------------------------------------------------------
 */

void *memcpy(void *to, const void *from, size_t count) {
    return __builtin_memcpy(to, from, count); /* one instruction, memory.copy */
}

void *memset(void *to, int value, size_t count) {
    return __builtin_memset(to, value, count);
}

float sqrtf(float x) {
    return __builtin_sqrtf(x);
}

double sqrt(double x) {
    return __builtin_sqrt(x);
}

float fabsf(float x) {
    return __builtin_fabsf(x);
}

float floorf(float x) {
    return __builtin_floorf(x);
}

float ceilf(float x) {
    return __builtin_ceilf(x);
}

float fminf(float x, float y) {
    return x != x || y < x ? y : x;
}

float fmaxf(float x, float y) {
    return x != x || y > x ? y : x;
}

/* -- memory -------------------------------------------------------------------------------------
 */

extern unsigned char __heap_base; /* the linker's: the first byte that nothing uses */

/* Return `size` bytes of zeros, aligned to 64. */
static void *page_take(int64_t size) {
    const uintptr_t start = ((uintptr_t)page_own.next + 63) / 64 * 64;
    const uintptr_t have = __builtin_wasm_memory_size(0) * 65536;
    page_own.next = (unsigned char *)start + size;
    if ((uintptr_t)page_own.next > have)
        __builtin_wasm_memory_grow(0, ((uintptr_t)page_own.next - have + 65535) / 65536);
    return (void *)start;
}

static int64_t page_count_of(const shoal_field *field) {
    int64_t count = 1;
    for (int i = 0; i < field->ndim; i++)
        count *= field->shape[i];
    return count;
}

/* Bytes of one agent's observation, which lies like a C struct of its fields. */
static int64_t page_row_size(const shoal_field *fields) {
    static const int32_t sizes[7] = {0, 1, 1, 2, 4, 8, 4};
    int64_t at = 0, most = 1;
    for (; fields->name; fields++) {
        const int64_t size = sizes[fields->type];
        most = size > most ? size : most;
        at = (at + size - 1) / size * size + size * page_count_of(fields);
    }
    return (at + most - 1) / most * most;
}

/* -- episodes -----------------------------------------------------------------------------------
 */

/* What the header promises before each call. */
static void page_preset(void) {
    const size_t n = (size_t)page.agents;
    memset(page.rewards, 0, n * sizeof(float));
    memset(page.terminated, 0, n);
    memset(page.truncated, 0, n);
    memset(page.respawned, 0, n);
    memset(page.masks, 1, n);
    memset(page.acting, 1, n);
}

static void page_begin(void) {
    const shoal_io io = {page.actions,    page.observations, page.rewards,
                         page.terminated, page.truncated,    page.respawned,
                         page.masks,      page.acting,       page.action_masks};
    page_preset();
    shoal_env_table.reset(page.state, &io);
    page.steps = page.pending = 0;
    for (int32_t a = 0; a < page.agents; a++) {
        const int there = page.masks[a] || page.acting[a];
        page.returns[a] = 0;
        page.lengths[a] = 0;
        page.gone[a] = (uint8_t)!there;
        page_own.fresh[a] = 1;
        if (!there)
            memset(page.observations + a * page.observation_size, 0, (size_t)page.observation_size);
        if (!page.acting[a])
            memset(page.action_masks + a * page.num_masked, 1, (size_t)page.num_masked);
    }
}

/* Count the step of one agent that is there; return whether the agent stays. */
static int page_count_step(int32_t a, int late) {
    page.truncated[a] |= (uint8_t)late;
    page.returns[a] += (double)page.rewards[a];
    page.lengths[a] += page.masks[a];
    if (page.terminated[a] | page.truncated[a]) {
        shoal_env_table.report(page.state, a, page.logs + a * (SHOAL_MAX_LOGS + 1));
        page.ended[a]++;
        page_own.fresh[a] = 1;
        page.gone[a] = !page.respawned[a] || page.truncated[a];
        if (page.gone[a])
            page.acting[a] = 0;
    }
    return !page.gone[a];
}

/* -- exports ------------------------------------------------------------------------------------
 */

PAGE_EXPORT(page_view) page_arrays *page_view(void) {
    page.params = page_own.params;
    return &page;
}

/* Take the parameters and all memory; returns 0, or the address of what is wrong with them. */
PAGE_EXPORT(page_open) const char *page_open(void) {
    const shoal_table *table = &shoal_env_table;
    shoal_spec *spec = &page_own.spec;
    spec->agents = table->agents ? table->agents : 1;
    spec->max_steps = table->max_steps;
    spec->state_size = table->state_size;
    memcpy(spec->observations, table->observations, sizeof spec->observations);
    memcpy(spec->actions, table->actions, sizeof spec->actions);
    const char *wrong = table->resolve ? table->resolve(page_own.params, spec) : NULL;
    if (wrong)
        return wrong;
    const int discrete = spec->actions[0].type == SHOAL_INT64;
    for (int i = 0; spec->actions[i].name; i++) {
        const shoal_field *field = &spec->actions[i];
        for (int64_t k = 0; k < page_count_of(field); k++, page_own.elements++) {
            if (page_own.elements == PAGE_ELEMENTS)
                return "a page can play at most 256 actions at once";
            page_own.low[page_own.elements] = (float)(field->lows ? field->lows[k] : field->low);
            page_own.high[page_own.elements] =
                (float)(field->highs ? field->highs[k] : field->high);
            page.num_masked += discrete ? (int32_t)page_own.high[page_own.elements] + 1 : 0;
        }
    }
    page_own.next = &__heap_base;
    const int64_t n = page.agents = spec->agents;
    page.max_steps = spec->max_steps;
    page.state_size = (int32_t)spec->state_size;
    page.observation_size = (int32_t)page_row_size(spec->observations);
    page.action_size = page_own.elements * (discrete ? 8 : 4);
    page.state = (char *)page_take(spec->state_size);
    page.observations = (char *)page_take(n * page.observation_size);
    page.actions = (char *)page_take(n * page.action_size);
    page.rewards = (float *)page_take(n * 4);
    uint8_t **flags[8] = {&page.terminated, &page.truncated, &page.respawned, &page.masks,
                          &page.acting,     &page.gone,      &page_own.fresh, NULL};
    for (int i = 0; flags[i]; i++)
        *flags[i] = (uint8_t *)page_take(n);
    page.action_masks = (uint8_t *)page_take(n * page.num_masked);
    memset(page.action_masks, 1, (size_t)(n * page.num_masked));
    page.returns = (double *)page_take(n * 8);
    page.lengths = (int32_t *)page_take(n * 4);
    page.ended = (int32_t *)page_take(n * 4);
    page.logs = (float *)page_take(n * 4 * (SHOAL_MAX_LOGS + 1));
    page_own.canvas.shapes = (shoal_shape *)page_take(PAGE_SHAPES * (int64_t)sizeof(shoal_shape));
    page_own.canvas.points = (float *)page_take(PAGE_POINTS * 2 * 4);
    page_own.canvas.text = (char *)page_take(PAGE_TEXT);
    page_own.canvas.max_shapes = PAGE_SHAPES;
    page_own.canvas.max_points = PAGE_POINTS;
    page_own.canvas.max_text = PAGE_TEXT;
    page.canvas = &page_own.canvas;
#ifdef POLICY
    if (page.observation_size != POLICY_OBSERVATION || page.action_size != POLICY_ACTION)
        return "the policy was trained on other observations or actions";
    page.num_logits = POLICY_LOGITS;
    page.num_weights = POLICY_WEIGHTS;
    page.logits = (float *)page_take(n * POLICY_LOGITS * 4);
    page.values = (float *)page_take(n * 4);
    page.weights = (float *)page_take(POLICY_WEIGHTS * (int64_t)4);
    page_own.recurrent = (float *)page_take(n * POLICY_STATE * 4);
    page_own.scratch = (float *)page_take(POLICY_SCRATCH * (int64_t)4);
#endif
    return NULL;
}

/* Seed all chance with `high` << 32 | `low`, and begin an episode. */
PAGE_EXPORT(page_reset) void page_reset(uint32_t low, uint32_t high) {
    const uint64_t seed = (uint64_t)high << 32 | low;
    memset(page.state, 0, (size_t)page.state_size); /* so that nothing is left of the past */
    shoal_seed((shoal_rng *)(void *)page.state, seed);
    shoal_env_table.init(page.state, page_own.params);
    shoal_seed(&page_own.chance, seed + 1);
    page_own.random = seed + 2;
    page_begin();
}

/* Choose the actions of all agents that act. */
PAGE_EXPORT(page_act) void page_act(int32_t how) {
    const int discrete = page_own.spec.actions[0].type == SHOAL_INT64;
    const int32_t size = page_own.elements;
    for (int32_t a = 0; a < page.agents; a++) {
        const uint8_t *legal = page.action_masks + a * page.num_masked;
        if (page.pending || !page.acting[a])
            continue;
#ifdef POLICY
        float *recurrent = page_own.recurrent + a * POLICY_STATE, *logits;
        if (page_own.fresh[a])
            memset(recurrent, 0, sizeof(float) * POLICY_STATE);
        page_own.fresh[a] = 0;
        logits = page.logits + a * POLICY_LOGITS;
        policy_forward(page.weights, page.observations + a * POLICY_OBSERVATION, recurrent,
                       page_own.scratch, logits, &page.values[a]);
        if (how != PAGE_RANDOM) {
            policy_act(logits, shoal_env_table.action_mask ? legal : NULL, &page_own.random,
                       how == PAGE_GREEDY, page.actions + a * POLICY_ACTION);
            continue;
        }
#endif
        for (int32_t k = 0; k < size; k++) {
            const int32_t count = (int32_t)page_own.high[k] + 1;
            int32_t choice = discrete ? shoal_below(&page_own.chance, count) : 0;
            for (int tries = 0; discrete && !legal[choice] && tries < count; tries++)
                choice = (choice + 1) % count;
            if (discrete)
                ((int64_t *)(void *)page.actions)[a * size + k] = choice;
            else
                ((float *)(void *)page.actions)[a * size + k] =
                    shoal_between(&page_own.chance, page_own.low[k], page_own.high[k]);
            legal += count;
        }
    }
    (void)how;
}

/* Step with the actions that are in the rows; or begin an episode, if the last one is over. */
PAGE_EXPORT(page_step) void page_step(void) {
    const shoal_table *table = &shoal_env_table;
    int left = 0;
    if (page.pending) {
        page_begin();
        memset(page.masks, 0, (size_t)page.agents);
        return;
    }
    for (int32_t a = 0; a < page.agents; a++) /* an episode that began in the last step */
        if (!page.gone[a] && (page.terminated[a] | page.truncated[a]))
            page.returns[a] = 0, page.lengths[a] = 0;
    if (page_own.spec.actions[0].type == SHOAL_FLOAT32)
        for (int32_t i = 0; i < page.agents * page_own.elements; i++) {
            float *value = (float *)(void *)page.actions + i;
            *value = *value > page_own.low[i % page_own.elements]
                         ? *value
                         : page_own.low[i % page_own.elements];
            *value = *value < page_own.high[i % page_own.elements]
                         ? *value
                         : page_own.high[i % page_own.elements];
        }
    page_preset();
    const shoal_batch batch = {page.state,
                               page.actions,
                               page.observations,
                               page.rewards,
                               page.terminated,
                               page.truncated,
                               page.respawned,
                               page.masks,
                               page.acting,
                               page.action_masks,
                               0,
                               0,
                               0,
                               0,
                               page.agents};
    table->step_many(&batch, 0, 1);
    page.steps++;
    for (int32_t a = 0; a < page.agents; a++) {
        if (page.gone[a]) {
            memset(page.observations + a * page.observation_size, 0, (size_t)page.observation_size);
            page.rewards[a] = 0;
            page.terminated[a] = page.truncated[a] = page.masks[a] = page.acting[a] = 0;
        } else {
            left |= page_count_step(a, page.max_steps && page.steps >= page.max_steps);
        }
        if (!page.acting[a])
            memset(page.action_masks + a * page.num_masked, 1, (size_t)page.num_masked);
    }
    page.pending = !left;
}

/* List the shapes of the picture. */
PAGE_EXPORT(page_draw) void page_draw(void) {
    shoal_canvas *c = &page_own.canvas;
    c->num_shapes = c->num_points = c->num_text = c->lost = c->key = 0;
    c->x = c->y = 0, c->w = c->h = 1;
    c->background = SHOAL_NIGHT;
    shoal_env_table.draw(page.state, c);
}
