/* Invariants: engine.h. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "engine.h"
#include "../../c/clock.h"

#include <errno.h>
#include <stdlib.h>

#define GUARD 256     /* bytes before and behind each array, when debugging */
#define MOST_ROWS 256 /* of a chunk, unless one environment has more: they stay in the cache */
#define CHUNKS_PER_THREAD 4 /* of a job, so that whoever is early can help the others */
#define MOST_ENVS (INT64_C(1) << 31)

/* These loops gain from wide registers; the loader chooses. (Not everywhere is there a loader.) */
#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__) &&       \
    !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define WIDE __attribute__((target_clones("arch=x86-64-v3", "default")))
#else
#define WIDE
#endif

/* -- waiting -------------------------------------------------------------------------------------
 */

/* A condition whose waits end by the monotonic clock: the clock on the wall may be set back. */
static void init_condition(pthread_cond_t *condition) {
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
#ifndef __APPLE__
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
#endif
    pthread_cond_init(condition, &attributes);
    pthread_condattr_destroy(&attributes);
}

/* Wait for `condition` until `until` (clock_ns); returns whether it is too late. */
static int wait_until(pthread_cond_t *condition, pthread_mutex_t *mutex, int64_t until) {
#ifdef __APPLE__
    const int64_t left = until - clock_ns();
    const int64_t time = left > 0 ? left : 0;
#else
    const int64_t time = until;
#endif
    const struct timespec at = {(time_t)(time / 1000000000), (long)(time % 1000000000)};
#ifdef __APPLE__
    return pthread_cond_timedwait_relative_np(condition, mutex, &at) == ETIMEDOUT;
#else
    return pthread_cond_timedwait(condition, mutex, &at) == ETIMEDOUT;
#endif
}

/* -- calling the environment ---------------------------------------------------------------------
 */

static char *state_of(const shoal_engine *e, int64_t env) {
    return e->states + env * e->state_stride;
}

/* The arrays of a batch that begins at environment `env` and place `place`. */
static shoal_batch batch_at(const shoal_engine *e, const shoal_scratch *t, int64_t env,
                            int64_t place) {
    int64_t row = place * e->agents;
    shoal_batch b;
    b.states = state_of(e, env);
    b.actions = e->rows.actions + env * e->agents * e->action_size;
    b.observations = e->rows.observations + row * e->observation_size;
    b.rewards = t->rewards;
    b.terminated = e->rows.terminations + row;
    b.truncated = e->rows.truncations + row;
    b.respawned = t->respawned;
    b.masks = e->rows.masks + row;
    b.acting = e->rows.acting + row;
    b.action_masks = e->rows.action_masks + row * e->num_masked;
    b.state_stride = e->state_stride;
    b.action_stride = e->agents * e->action_size;
    b.observation_stride = e->agents * e->observation_size;
    b.mask_stride = e->agents * e->num_masked;
    b.agents = e->agents;
    return b;
}

/* What the header promises before each call. */
static void preset(const shoal_batch *b, int64_t count) {
    size_t rows = (size_t)(count * b->agents);
    memset(b->rewards, 0, rows * sizeof(float));
    memset(b->respawned, 0, rows);
    memset(b->terminated, 0, rows);
    memset(b->truncated, 0, rows);
    memset(b->masks, 1, rows);
    memset(b->acting, 1, rows);
}

static void call(const shoal_engine *e, const shoal_batch *b, int32_t op, int64_t first,
                 int64_t count) {
    if (op == SHOAL_STEP) {
        e->table->step_many(b, first, count);
    } else {
        shoal_io io = shoal_io_of(b, first);
        e->table->reset(b->states, &io);
    }
}

static void report_fault(shoal_engine *e, int32_t kind, int32_t where, int32_t op, int64_t env,
                         int64_t offset) {
    int32_t none = 0;
    if (atomic_compare_exchange_strong(&e->faulty, &none, 1)) {
        e->fault.kind = kind, e->fault.where = where, e->fault.op = op;
        e->fault.env = env, e->fault.offset = offset;
        atomic_store(&e->faulty, 2);
    }
}

/* One array of a guarded block. */
typedef struct {
    char *real; /* where its bytes belong */
    int64_t at, size;
    int32_t where;
} part;

enum { NUM_PARTS = 9, STATE_PART = 8 };

static int64_t lay_parts(const shoal_engine *e, const shoal_batch *b, part *parts) {
    const int64_t n = e->agents;
    const struct {
        char *real;
        int64_t size;
        int32_t where;
    } all[NUM_PARTS] = {
        {b ? b->observations : NULL, n * e->observation_size, SHOAL_IN_OBSERVATIONS},
        {b ? (char *)b->action_masks : NULL, e->writes_masks ? n * e->num_masked : 0,
         SHOAL_IN_MASKS},
        {b ? (char *)b->rewards : NULL, n * (int64_t)sizeof(float), SHOAL_IN_REWARDS},
        {b ? (char *)b->terminated : NULL, n, SHOAL_IN_FLAGS},
        {b ? (char *)b->truncated : NULL, n, SHOAL_IN_FLAGS},
        {b ? (char *)b->respawned : NULL, n, SHOAL_IN_FLAGS},
        {b ? (char *)b->masks : NULL, n, SHOAL_IN_FLAGS},
        {b ? (char *)b->acting : NULL, n, SHOAL_IN_FLAGS},
        {b ? b->states : NULL, e->state_size, 0},
    };
    int64_t at = GUARD;
    for (int i = 0; i < NUM_PARTS; i++) {
        parts[i].real = all[i].real, parts[i].size = all[i].size, parts[i].where = all[i].where;
        parts[i].at = at;
        at += (all[i].size + 63) / 64 * 64 + GUARD;
    }
    return at;
}

/* Call one environment twice, from copies of its state, in arrays of its own that lie between
 * guards and are filled with another pattern each time. */
static void call_guarded(shoal_engine *e, shoal_scratch *t, const shoal_batch *b, int32_t op,
                         int64_t env) {
    part parts[NUM_PARTS];
    int64_t total = lay_parts(e, b, parts);
    for (int run = 0; run < 2; run++) {
        const unsigned char fill = run ? 0x3B : 0xC6;
        shoal_batch own = *b;
        memset(t->guarded, fill, (size_t)total);
        own.observations = t->guarded + parts[0].at;
        own.action_masks = (uint8_t *)t->guarded + parts[1].at;
        own.rewards = (float *)(void *)(t->guarded + parts[2].at);
        own.terminated = (uint8_t *)t->guarded + parts[3].at;
        own.truncated = (uint8_t *)t->guarded + parts[4].at;
        own.respawned = (uint8_t *)t->guarded + parts[5].at;
        own.masks = (uint8_t *)t->guarded + parts[6].at;
        own.acting = (uint8_t *)t->guarded + parts[7].at;
        own.states = t->guarded + parts[STATE_PART].at;
        memcpy(own.states, b->states, (size_t)e->state_size);
        preset(&own, 1);
        call(e, &own, op, 0, 1);
        int64_t inside = 0;
        for (int i = 0; i <= NUM_PARTS; i++) { /* what lies between the arrays */
            int64_t end = i < NUM_PARTS ? parts[i].at : total;
            for (int64_t at = inside; at < end; at++)
                if ((unsigned char)t->guarded[at] != fill) {
                    /* Nearer to the array before it, or to that behind it? */
                    int last = i && (i == NUM_PARTS || at - inside < end - at) ? i - 1 : i;
                    report_fault(e, last == STATE_PART ? SHOAL_FAULT_STATE : SHOAL_FAULT_BOUNDS,
                                 parts[last].where, op, env, at - parts[last].at);
                    break;
                }
            if (i < NUM_PARTS)
                inside = parts[i].at + parts[i].size;
        }
        if (run == 0) {
            memcpy(t->first, t->guarded, (size_t)total);
            continue;
        }
        for (int i = 0; i < NUM_PARTS; i++)
            for (int64_t at = parts[i].at; at < parts[i].at + parts[i].size; at++)
                if (t->first[at] != t->guarded[at]) {
                    int unwritten = (unsigned char)t->guarded[at] == 0x3B &&
                                    (unsigned char)t->first[at] == 0xC6;
                    report_fault(e, unwritten ? SHOAL_FAULT_UNWRITTEN : SHOAL_FAULT_CHANCE,
                                 parts[i].where, op, env, at - parts[i].at);
                    break;
                }
    }
    for (int i = 0; i < NUM_PARTS; i++)
        memcpy(parts[i].real, t->first + parts[i].at, (size_t)parts[i].size);
}

/* Call `count` environments of a batch from the one at `first` on; it begins with `env`. */
static void call_many(shoal_engine *e, shoal_scratch *t, const shoal_batch *b, int32_t op,
                      int64_t env, int64_t first, int64_t count) {
    if (!e->debug) {
        call(e, b, op, first, count);
        return;
    }
    for (int64_t i = first; i < first + count; i++) {
        shoal_batch one = *b;
        one.states += i * b->state_stride;
        one.actions += i * b->action_stride;
        one.observations += i * b->observation_stride;
        one.action_masks += i * b->mask_stride;
        one.rewards += i * b->agents;
        one.terminated += i * b->agents;
        one.truncated += i * b->agents;
        one.respawned += i * b->agents;
        one.masks += i * b->agents;
        one.acting += i * b->agents;
        call_guarded(e, t, &one, op, env + i);
    }
}

/* -- resets --------------------------------------------------------------------------------------
 */

/* Begin an episode; its observations go to `place`. `within`: in the step that ended the last one,
 * whose rewards, flags and masks stay. `valid`: masks of the agents that are there. */
static void reset_env(shoal_engine *e, shoal_scratch *t, int64_t env, int64_t place, int within,
                      int valid) {
    const int64_t n = e->agents, own = env * n, row = place * n;
    const shoal_rows *r = &e->rows;
    shoal_batch b = batch_at(e, t, env, place);
    b.rewards = (float *)(void *)t->spare;
    b.terminated = t->spare + 4 * n;
    b.truncated = t->spare + 5 * n;
    b.respawned = t->spare + 6 * n;
    b.masks = t->spare + 7 * n;
    b.acting = t->spare + 8 * n;
    memset(t->spare, 0, (size_t)(7 * n)); /* as `preset` */
    memset(t->spare + 7 * n, 1, (size_t)(2 * n));
    call_many(e, t, &b, SHOAL_RESET, env, 0, 1);
    e->steps[env] = 0;
    e->pending[env] = 0;
    for (int64_t a = 0; a < n; a++) {
        const int there = b.masks[a] || b.acting[a];
        e->returns[own + a] = 0;
        e->lengths[own + a] = 0;
        e->gone[own + a] = !there;
        r->occupants[row + a] = there ? a : -1;
        if (!there)
            memset(b.observations + a * e->observation_size, 0, (size_t)e->observation_size);
        if (!b.acting[a] && e->writes_masks)
            memset(b.action_masks + a * e->num_masked, 1, (size_t)e->num_masked);
        r->acting[row + a] = b.acting[a] != 0;
        if (within)
            continue;
        r->rewards[row + a] = 0;
        r->terminations[row + a] = r->truncations[row + a] = 0;
        r->masks[row + a] = (uint8_t)(valid && there);
        r->finals[row + a] = 0;
        r->episode_returns[row + a] = 0;
        r->episode_lengths[row + a] = 0;
    }
}

/* The episode of a whole environment has ended in the step whose results are at `place`. */
static void end_env(shoal_engine *e, shoal_scratch *t, int64_t env, int64_t place) {
    const int64_t row = place * e->agents, size = e->observation_size;
    if (e->mode != SHOAL_SAME_STEP) {
        e->pending[env] = 1;
        return;
    }
    memcpy(e->rows.final_observations + row * size, e->rows.observations + row * size,
           (size_t)(e->agents * size));
    memset(e->rows.finals + row, 1, (size_t)e->agents);
    reset_env(e, t, env, place, 1, 1);
}

static void log_agent(shoal_engine *e, int64_t env, int64_t agent, int64_t row) {
    float values[SHOAL_MAX_LOGS + 1] = {0};
    if (!e->num_logs)
        return;
    e->table->report(state_of(e, env), (int32_t)agent, values);
    memcpy(e->logs + row * e->num_logs, values, (size_t)e->num_logs * sizeof(float));
}

/* -- steps ---------------------------------------------------------------------------------------
 */

/* The first of `count` environments from `env` on, counted from `at`, that is to be reset before it
 * steps; `count` if there is none. */
static int64_t next_due(const shoal_engine *e, int64_t env, int64_t at, int64_t count) {
    return shoal_next_set(e->pending + env, e->pending + env, at, count);
}

/* Rewards, returns, lengths and time limits of environments with one agent. Returns whether any
 * episode has ended. */
WIDE static int count_singles(int64_t count, int32_t max_steps, const float *restrict given,
                              double *restrict rewards, double *restrict own_returns,
                              double *restrict returns, int32_t *restrict own_lengths,
                              int64_t *restrict lengths, int32_t *restrict steps,
                              const uint8_t *restrict terminated, uint8_t *restrict truncated,
                              uint8_t *restrict acting) {
    uint8_t any = 0;
    for (int64_t i = 0; i < count; i++) {
        double reward = (double)given[i], sum = own_returns[i] + reward;
        rewards[i] = reward;
        own_returns[i] = sum;
        returns[i] = sum;
    }
    for (int64_t i = 0; i < count; i++) {
        int32_t length = own_lengths[i] + 1;
        own_lengths[i] = length;
        lengths[i] = length;
    }
    for (int64_t i = 0; i < count; i++) {
        int32_t taken = steps[i] + 1;
        steps[i] = taken;
        truncated[i] |= (uint8_t)(taken >= max_steps);
    }
    for (int64_t i = 0; i < count; i++) {
        uint8_t ended = terminated[i] | truncated[i];
        acting[i] = (uint8_t)(acting[i] & (ended ^ 1));
        any |= ended;
    }
    return any;
}

/* Finish a step of environments with one agent; `due` is the first that is reset instead. */
static uint32_t finish_singles(shoal_engine *e, shoal_scratch *t, int64_t env, int64_t place,
                               int64_t count, int64_t due) {
    const shoal_rows *r = &e->rows;
    const int32_t max_steps = e->max_steps ? (int32_t)e->max_steps : INT32_MAX;
    uint32_t num_ended = 0;
    if (e->mode == SHOAL_SAME_STEP)
        memset(r->finals + place, 0, (size_t)count);
    const int any_ended = count_singles(
        count, max_steps, t->rewards, r->rewards + place, e->returns + env,
        r->episode_returns + place, e->lengths + env, r->episode_lengths + place, e->steps + env,
        r->terminations + place, r->truncations + place, r->acting + place);
    for (; due < count; due = next_due(e, env, due + 1, count)) /* which undoes what was counted */
        reset_env(e, t, env + due, place + due, 0, 0);
    if (!any_ended)
        return 0;
    const uint8_t *terminated = r->terminations + place, *truncated = r->truncations + place;
    for (int64_t i = shoal_next_set(terminated, truncated, 0, count); i < count;
         i = shoal_next_set(terminated, truncated, i + 1, count)) {
        num_ended++;
        log_agent(e, env + i, 0, place + i);
        e->returns[env + i] = 0;
        e->lengths[env + i] = 0;
        if (t->respawned[i] && !truncated[i])
            r->acting[place + i] = 1;
        else
            end_env(e, t, env + i, place + i);
    }
    return num_ended;
}

/* The same for one environment of several agents; `given`, `respawned`: its rows of the chunk. */
static uint32_t finish_agents(shoal_engine *e, shoal_scratch *t, int64_t env, int64_t place,
                              const float *given, const uint8_t *respawned) {
    const int64_t n = e->agents, own = env * n, row = place * n;
    const shoal_rows *r = &e->rows;
    const int late = e->max_steps && e->steps[env] + 1 >= e->max_steps;
    uint32_t num_ended = 0;
    int left = 0;
    e->steps[env]++;
    for (int64_t a = 0; a < n; a++) {
        const int64_t i = row + a;
        r->finals[i] = 0;
        if (e->gone[own + a]) {
            memset(r->observations + i * e->observation_size, 0, (size_t)e->observation_size);
            r->rewards[i] = 0;
            r->terminations[i] = r->truncations[i] = r->masks[i] = r->acting[i] = 0;
            r->occupants[i] = -1;
            r->episode_returns[i] = 0;
            r->episode_lengths[i] = 0;
        } else {
            r->truncations[i] |= (uint8_t)late;
            r->rewards[i] = (double)given[a];
            r->occupants[i] = a;
            e->returns[own + a] += (double)given[a];
            e->lengths[own + a] += r->masks[i];
            r->episode_returns[i] = e->returns[own + a];
            r->episode_lengths[i] = e->lengths[own + a];
            if (r->terminations[i] | r->truncations[i]) {
                num_ended++;
                log_agent(e, env, a, i);
                e->returns[own + a] = 0;
                e->lengths[own + a] = 0;
                if (!respawned[a] || r->truncations[i]) {
                    e->gone[own + a] = 1;
                    r->acting[i] = 0;
                }
            }
            left |= !e->gone[own + a];
        }
        if (!r->acting[i] && e->writes_masks)
            memset(r->action_masks + i * e->num_masked, 1, (size_t)e->num_masked);
    }
    if (!left)
        end_env(e, t, env, place);
    return num_ended;
}

/* Environments never see a number outside of its bounds, nor one that is none. */
WIDE static void clip(float *restrict actions, int64_t rows, int64_t size,
                      const float *restrict low, const float *restrict high) {
    for (int64_t i = 0; i < rows; i++)
        for (int64_t k = 0; k < size; k++) {
            float value = actions[i * size + k];
            value = value > low[k] ? value : low[k];
            actions[i * size + k] = value < high[k] ? value : high[k];
        }
}

/* Step `count` environments from `env` on; those whose episodes are over are reset instead. */
static uint32_t step_run(shoal_engine *e, shoal_scratch *t, int64_t env, int64_t place,
                         int64_t count) {
    const shoal_batch b = batch_at(e, t, env, place);
    const int64_t first_due = next_due(e, env, 0, count);
    uint32_t num_ended = 0;
    if (e->action_low)
        clip((float *)(void *)(e->rows.actions + env * e->agents * e->action_size),
             count * e->agents, e->action_size / (int64_t)sizeof(float), e->action_low,
             e->action_high);
    preset(&b, count);
    for (int64_t at = 0, due = first_due; at < count;
         at = due + 1, due = next_due(e, env, at, count))
        if (due > at)
            call_many(e, t, &b, SHOAL_STEP, env, at, due - at);
    if (e->agents == 1)
        return finish_singles(e, t, env, place, count, first_due);
    for (int64_t i = 0; i < count; i++)
        if (e->pending[env + i])
            reset_env(e, t, env + i, place + i, 0, 0);
        else
            num_ended += finish_agents(e, t, env + i, place + i, t->rewards + i * e->agents,
                                       t->respawned + i * e->agents);
    return num_ended;
}

#define COPY_ROWS(array, size)                                                                     \
    memcpy((char *)(array) + (to) * (size), (char *)(array) + (from) * (size), (size_t)(n * (size)))

/* Deliver once more what an environment returned last; its transition has been delivered. */
static void keep(shoal_engine *e, int64_t env, int64_t place) {
    const int64_t n = e->agents, from = e->place[env] * n, to = place * n;
    const shoal_rows *r = &e->rows;
    COPY_ROWS(r->observations, e->observation_size);
    COPY_ROWS(r->rewards, 8);
    COPY_ROWS(r->episode_returns, 8);
    COPY_ROWS(r->episode_lengths, 8);
    COPY_ROWS(r->occupants, 8);
    COPY_ROWS(r->terminations, 1);
    COPY_ROWS(r->truncations, 1);
    COPY_ROWS(r->acting, 1);
    COPY_ROWS(r->action_masks, e->num_masked);
    memset(r->masks + to, 0, (size_t)n);
    memset(r->finals + to, 0, (size_t)n);
}

/* The stages of an environment's operation, in their order; the last one is followed by the first.
 */
enum { FREE, POSTED, STEPPED, DONE };

/* Check that an environment comes to `stage` from the one before. */
static inline void enter_stage(shoal_engine *e, int64_t env, uint8_t stage) {
#ifdef SHOAL_CHECKS
    SHOAL_ASSERT(atomic_exchange(&e->stage[env], stage) == (stage + 3) % 4);
#else
    (void)e, (void)env, (void)stage;
#endif
}

/* Check that all environments of a job come to `stage`. */
static inline void enter_stages(shoal_engine *e, const shoal_job *job, uint8_t stage) {
#ifdef SHOAL_CHECKS
    for (int64_t i = 0; i < e->batch_size; i++)
        enter_stage(e, job->shares->envs ? job->shares->envs[i] : i, stage);
#else
    (void)e, (void)job, (void)stage;
#endif
}

/* Do `op` with `count` environments from `env` on, whose results go to consecutive places. */
static uint32_t run(shoal_engine *e, shoal_scratch *t, int32_t op, int64_t env, int64_t place,
                    int64_t count) {
    uint32_t num_ended = 0;
    SHOAL_ASSERT(env >= 0 && count > 0 && env + count <= e->num_envs);
    SHOAL_ASSERT(place >= 0 && place + count <= e->num_blocks * e->batch_size);
    for (int64_t i = 0; i < count; i++)
        enter_stage(e, env + i, STEPPED);
    if (op == SHOAL_STEP) {
        num_ended = step_run(e, t, env, place, count);
    } else {
        for (int64_t i = 0; i < count; i++)
            if (op == SHOAL_RESET)
                reset_env(e, t, env + i, place + i, 0, 1);
            else
                keep(e, env + i, place + i);
    }
    for (int64_t i = 0; i < count; i++) {
        e->place[env + i] = place + i;
        enter_stage(e, env + i, DONE);
    }
    return num_ended;
}

/* -- jobs ----------------------------------------------------------------------------------------
 */

/* Run one chunk of the job of `share`; return how many agents' episodes have ended. */
static uint32_t run_chunk(shoal_engine *e, shoal_scratch *t, const shoal_job *job,
                          const shoal_share *share, int64_t number) {
    int64_t first = number * e->chunk, end = first + e->chunk;
    uint32_t num_ended = 0;
    end = end < e->batch_size ? end : e->batch_size;
    if (share->actions) {
        const int64_t size = e->agents * e->action_size;
        memcpy(e->rows.actions + first * size, share->actions + first * size,
               (size_t)((end - first) * size));
    }
    if (!share->envs)
        return run(e, t, share->op, first, job->first_place + first, end - first);
    while (first < end) { /* environments that follow each other go together */
        const int32_t op = share->ops ? share->ops[first] : share->op;
        int64_t next = first + 1;
        while (next < end && share->envs[next] == share->envs[next - 1] + 1 &&
               (!share->ops || share->ops[next] == op))
            next++;
        num_ended += run(e, t, op, share->envs[first], job->first_place + first, next - first);
        first = next;
    }
    return num_ended;
}

/* Take chunks of a job until none is left: those of thread `me`, then those of the others. */
static void work(shoal_engine *e, int32_t me, shoal_job *job) {
    const int32_t parties = e->num_threads + 1;
    shoal_share *mine = &job->shares[me];
    uint64_t taken = 0, num_ended = 0;
    for (int32_t i = 0; i < parties; i++) {
        shoal_share *share = &job->shares[(me + i) % parties];
        uint64_t ticket = atomic_load_explicit(&share->ticket, memory_order_relaxed);
        while ((uint32_t)ticket < ticket >> 32) {
            ticket = atomic_fetch_add_explicit(&share->ticket, 1, memory_order_acquire);
            if ((uint32_t)ticket >= ticket >> 32)
                break;
            SHOAL_ASSERT((uint32_t)ticket < (uint64_t)e->num_chunks);
            num_ended += run_chunk(e, &e->scratch[me], job, mine, (uint32_t)ticket);
            taken++;
            ticket++;
        }
    }
    if (!taken)
        return;
    mine->num_ended += num_ended;
    atomic_fetch_add(&mine->done, taken);
    if (atomic_load(&e->waiting)) {
        pthread_mutex_lock(&e->mutex);
        pthread_cond_signal(&e->finished);
        pthread_mutex_unlock(&e->mutex);
    }
}

typedef struct {
    shoal_engine *engine;
    int32_t number;
} thread_start;

static void *thread_main(void *argument) {
    thread_start start = *(thread_start *)argument;
    shoal_engine *e = start.engine;
    const uint64_t num_blocks = (uint64_t)e->num_blocks;
    free(argument);
    for (uint64_t next = 1;;) { /* the number of the job that is worked on next */
        shoal_job *job = &e->jobs[(next - 1) % num_blocks];
        _Atomic uint64_t *number = &job->shares[start.number].number;
        const int64_t until = clock_ns() + e->spin_ns;
        uint64_t posted;
        for (int i = 1; (posted = atomic_load(number)) < next && !atomic_load(&e->closed); i++) {
            pause_core();
            if (i % 64 == 0 && clock_ns() > until) {
                pthread_mutex_lock(&e->mutex);
                atomic_fetch_add(&e->sleepers, 1);
                SHOAL_ASSERT(atomic_load(&e->sleepers) <= e->num_threads);
                while (atomic_load(number) < next && !atomic_load(&e->closed))
                    pthread_cond_wait(&e->wake, &e->mutex);
                atomic_fetch_sub(&e->sleepers, 1);
                pthread_mutex_unlock(&e->mutex);
            }
        }
        if (atomic_load(&e->closed)) {
            atomic_fetch_sub(&e->alive, 1);
            return NULL;
        }
        work(e, start.number, job);
        /* If the slot has come to a later job, those up to the one before it there are done. */
        next = posted > next ? posted - num_blocks + 1 : next + 1;
    }
}

/* Return how many chunks of a slot the threads have done, over all its jobs. */
static uint64_t chunks_done(const shoal_engine *e, const shoal_job *job) {
    uint64_t done = 0;
    for (int32_t i = 0; i <= e->num_threads; i++)
        done += atomic_load(&job->shares[i].done);
    return done;
}

void shoal_engine_post(shoal_engine *e, int32_t op, const int64_t *envs, const int32_t *ops,
                       const char *actions) {
    const uint64_t num_blocks = (uint64_t)e->num_blocks;
    const uint64_t parties = (uint64_t)e->num_threads + 1, chunks = (uint64_t)e->num_chunks;
    shoal_job *job = &e->jobs[e->posted % num_blocks];
    SHOAL_ASSERT(e->posted - e->received < num_blocks);
    SHOAL_ASSERT(!e->num_threads || chunks_done(e, job) == e->posted / num_blocks * chunks);
    SHOAL_ASSERT(!actions || !envs);
    e->posted++;
    if (envs)
        memcpy(job->env_list, envs, (size_t)e->batch_size * sizeof *envs);
    if (ops)
        memcpy(job->op_list, ops, (size_t)e->batch_size * sizeof *ops);
    for (uint64_t i = 0; i < parties; i++) {
        shoal_share *share = &job->shares[i];
        share->op = op;
        share->envs = envs ? job->env_list : NULL;
        share->ops = ops ? job->op_list : NULL;
        share->actions = actions;
    }
    enter_stages(e, job, POSTED);
    if (e->num_threads == 0)
        return;
    for (uint64_t i = 0; i < parties; i++) {
        shoal_share *share = &job->shares[i];
        atomic_store_explicit(&share->ticket,
                              (chunks * (i + 1) / parties << 32) | chunks * i / parties,
                              memory_order_release);
        atomic_store_explicit(&share->number, e->posted, memory_order_release);
    }
    atomic_thread_fence(memory_order_seq_cst);
    if (atomic_load(&e->sleepers)) {
        pthread_mutex_lock(&e->mutex);
        pthread_cond_broadcast(&e->wake);
        pthread_mutex_unlock(&e->mutex);
    }
}

/* Return whether all chunks of the job that is received next are done. */
static int is_over(const shoal_engine *e, const shoal_job *job) {
    const uint64_t jobs = e->received / (uint64_t)e->num_blocks + 1; /* of this slot */
    const uint64_t done = chunks_done(e, job);
    SHOAL_ASSERT(done <= jobs * (uint64_t)e->num_chunks);
    return done == jobs * (uint64_t)e->num_chunks;
}

/* Wait until the threads have finished a job; SHOAL_DONE, SHOAL_NOT_YET or SHOAL_CLOSED. */
static int wait_for_threads(shoal_engine *e, const shoal_job *job, int64_t nanoseconds) {
    if (is_over(e, job)) /* which it mostly is: no need to know the time */
        return SHOAL_DONE;
    const int64_t begin = clock_ns(), spin_until = begin + e->spin_ns;
    const int64_t until = nanoseconds < INT64_MAX - begin ? begin + nanoseconds : INT64_MAX;
    int late = 0;
    for (int i = 1; !late && !is_over(e, job) && !atomic_load(&e->closed); i++) {
        pause_core();
        if (i % 64 || clock_ns() < spin_until)
            continue;
        pthread_mutex_lock(&e->mutex);
        SHOAL_ASSERT(!atomic_load(&e->waiting)); /* one thread at a time waits */
        atomic_store(&e->waiting, 1);
        while (!is_over(e, job) && !atomic_load(&e->closed) && !late)
            late = wait_until(&e->finished, &e->mutex, until);
        atomic_store(&e->waiting, 0);
        pthread_mutex_unlock(&e->mutex);
    }
    return is_over(e, job) ? SHOAL_DONE : late ? SHOAL_NOT_YET : SHOAL_CLOSED;
}

int shoal_engine_wait(shoal_engine *e, int help, int64_t nanoseconds, int64_t *block) {
    const int64_t slot = (int64_t)(e->received % (uint64_t)e->num_blocks);
    shoal_job *job = &e->jobs[slot];
    uint64_t all_ended = 0;
    SHOAL_ASSERT(e->received < e->posted);
    if (e->num_threads == 0) {
        for (int64_t i = 0; i < e->num_chunks; i++) {
            if (atomic_load(&e->closed))
                return SHOAL_CLOSED;
            job->shares->num_ended += run_chunk(e, e->scratch, job, job->shares, i);
        }
    } else {
        if (help)
            work(e, e->num_threads, job);
        const int code = wait_for_threads(e, job, nanoseconds);
        if (code != SHOAL_DONE)
            return code;
    }
    for (int32_t i = 0; i <= e->num_threads; i++)
        all_ended += job->shares[i].num_ended;
    e->num_ended[slot] = all_ended - e->all_ended[slot];
    e->all_ended[slot] = all_ended;
    enter_stages(e, job, FREE);
    e->received++;
    *block = slot;
    return atomic_load(&e->faulty) ? SHOAL_FAULTY : SHOAL_DONE;
}

/* -- calls that may not return -------------------------------------------------------------------
 */

struct shoal_call {
    void (*function)(void *);
    void *argument;
    int over;
    pthread_mutex_t mutex;
    pthread_cond_t finished;
};

static void *call_main(void *argument) {
    shoal_call *call = (shoal_call *)argument;
    call->function(call->argument);
    pthread_mutex_lock(&call->mutex);
    call->over = 1;
    pthread_cond_signal(&call->finished);
    pthread_mutex_unlock(&call->mutex);
    return NULL;
}

int shoal_call_start(shoal_call **made, void (*function)(void *), void *argument) {
    shoal_call *call = (shoal_call *)calloc(1, sizeof *call);
    pthread_t thread;
    int error;
    if (!call)
        return ENOMEM;
    call->function = function, call->argument = argument;
    pthread_mutex_init(&call->mutex, NULL);
    init_condition(&call->finished);
    error = pthread_create(&thread, NULL, call_main, call);
    if (error) {
        shoal_call_free(call);
        return error;
    }
    pthread_detach(thread);
    *made = call;
    return 0;
}

int shoal_call_wait(shoal_call *call, int64_t nanoseconds) {
    const int64_t until = clock_ns() + nanoseconds;
    int over;
    pthread_mutex_lock(&call->mutex);
    while (!call->over && !wait_until(&call->finished, &call->mutex, until)) {
    }
    over = call->over;
    pthread_mutex_unlock(&call->mutex);
    return over;
}

void shoal_call_free(shoal_call *call) {
    pthread_mutex_destroy(&call->mutex);
    pthread_cond_destroy(&call->finished);
    free(call);
}

/* -- life ----------------------------------------------------------------------------------------
 */

void shoal_engine_seed(shoal_engine *e, int64_t env, uint64_t seed) {
    shoal_seed((shoal_rng *)(void *)state_of(e, env), seed);
}

/* Return the product, or set an error if it (and a few like it together) may not fit. */
static size_t checked_product(size_t count, size_t size, int *error) {
    size_t product = 0;
    if (__builtin_mul_overflow(count, size, &product) || product > SIZE_MAX / 32) {
        *error = ENOMEM;
        return 0;
    }
    return product;
}

static void *zeros(size_t count, size_t size, int *error) {
    const size_t bytes = checked_product(count, size, error) / 128 * 128 + 256;
    void *memory = NULL;
    if (*error || posix_memalign(&memory, 128, bytes)) {
        *error = ENOMEM;
        return NULL;
    }
    return memset(memory, 0, bytes);
}

static int start_thread(shoal_engine *e, int32_t number) {
    thread_start *start = (thread_start *)malloc(sizeof *start);
    int error;
    if (!start)
        return ENOMEM;
    start->engine = e, start->number = number;
    atomic_fetch_add(&e->alive, 1);
    error = pthread_create(&e->threads[number], NULL, thread_main, start);
    if (error) {
        atomic_fetch_sub(&e->alive, 1);
        free(start);
    }
    return error;
}

int shoal_engine_open(shoal_engine *e) {
    const int64_t parties = e->num_threads + 1;
    const size_t most = (size_t)(e->agents > MOST_ROWS ? e->agents : MOST_ROWS);
    int64_t most_envs = MOST_ROWS / e->agents, wanted = e->num_threads ? CHUNKS_PER_THREAD : 1;
    part parts[NUM_PARTS];
    int error = 0;
    if (e->num_envs >= MOST_ENVS)
        return EINVAL;
    const size_t n = (size_t)e->num_envs, rows = checked_product(n, (size_t)e->agents, &error);
    /* All that is multiplied later: rows of the blocks, their arrays, and what debugging copies. */
    const size_t places = checked_product((size_t)e->num_blocks, (size_t)e->batch_size, &error);
    const size_t all = checked_product(places > n ? places : n, (size_t)e->agents, &error);
    const size_t widths[] = {(size_t)e->observation_size, (size_t)e->action_size,
                             (size_t)e->num_masked, (size_t)e->num_logs * sizeof(float), 9};
    for (size_t i = 0; i < sizeof widths / sizeof *widths; i++)
        checked_product(all, widths[i], &error);
    if (checked_product(n, (size_t)e->state_stride, &error), error)
        return error;
    most_envs = most_envs < 1 ? 1 : most_envs;
    wanted *= parties;
    e->chunk = (e->batch_size + wanted - 1) / wanted;
    e->chunk = e->chunk > most_envs ? most_envs : e->chunk;
    e->num_chunks = (e->batch_size + e->chunk - 1) / e->chunk;
    e->states = (char *)zeros(n, (size_t)e->state_stride, &error);
    e->steps = (int32_t *)zeros(n, sizeof *e->steps, &error);
    e->pending = (uint8_t *)zeros(n, 1, &error);
    e->place = (int64_t *)zeros(n, sizeof *e->place, &error);
    e->returns = (double *)zeros(rows, sizeof *e->returns, &error);
    e->lengths = (int32_t *)zeros(rows, sizeof *e->lengths, &error);
    e->gone = (uint8_t *)zeros(rows, 1, &error);
    e->jobs = (shoal_job *)zeros((size_t)e->num_blocks, sizeof *e->jobs, &error);
    e->all_ended = (uint64_t *)zeros((size_t)e->num_blocks, sizeof *e->all_ended, &error);
    e->num_ended = (uint64_t *)zeros((size_t)e->num_blocks, sizeof *e->num_ended, &error);
    e->scratch = (shoal_scratch *)zeros((size_t)e->num_threads + 1, sizeof *e->scratch, &error);
    e->threads = (pthread_t *)zeros((size_t)e->num_threads + 1, sizeof *e->threads, &error);
#ifdef SHOAL_CHECKS
    e->stage = (_Atomic uint8_t *)zeros(n, 1, &error);
#endif
    for (int64_t i = 0; !error && i < e->num_blocks; i++) {
        e->jobs[i].shares =
            (shoal_share *)zeros((size_t)e->num_threads + 1, sizeof(shoal_share), &error);
        e->jobs[i].first_place = i * e->batch_size;
        e->jobs[i].env_list = (int64_t *)zeros((size_t)e->batch_size, 8, &error);
        e->jobs[i].op_list = (int32_t *)zeros((size_t)e->batch_size, 4, &error);
    }
    for (int32_t i = 0; !error && i <= e->num_threads; i++) {
        shoal_scratch *t = &e->scratch[i];
        const size_t guarded = e->debug ? (size_t)lay_parts(e, NULL, parts) : 0;
        t->rewards = (float *)zeros(most, sizeof(float), &error);
        t->respawned = (uint8_t *)zeros(most, 1, &error);
        t->spare = (uint8_t *)zeros((size_t)e->agents, sizeof(float) + 5, &error);
        t->guarded = (char *)zeros(guarded, 1, &error);
        t->first = (char *)zeros(guarded, 1, &error);
    }
    pthread_mutex_init(&e->mutex, NULL);
    init_condition(&e->wake);
    init_condition(&e->finished);
    if (error)
        shoal_engine_close(e, 0);
    else
        memset(e->pending, 1, n);
    return error;
}

void shoal_engine_init(void *engine) {
    shoal_engine *e = (shoal_engine *)engine;
    for (int64_t i = 0; i < e->num_envs; i++)
        e->table->init(state_of(e, i), e->params);
}

int shoal_engine_start(shoal_engine *e) {
    int error = 0;
    for (; e->started < e->num_threads && !error; e->started += !error)
        error = start_thread(e, e->started);
    return error;
}

void shoal_engine_stop(shoal_engine *e) {
    atomic_store(&e->closed, 1);
    pthread_mutex_lock(&e->mutex);
    pthread_cond_broadcast(&e->wake);
    pthread_cond_broadcast(&e->finished);
    pthread_mutex_unlock(&e->mutex);
}

int shoal_engine_close(shoal_engine *e, int64_t nanoseconds) {
    const int64_t start = clock_ns();
    shoal_engine_stop(e);
    while (atomic_load(&e->alive)) {
        const struct timespec nap = {0, 200 * 1000};
        if (clock_ns() - start > nanoseconds)
            return EBUSY;
        nanosleep(&nap, NULL);
    }
    for (int32_t i = 0; i < e->started; i++)
        pthread_join(e->threads[i], NULL);
    for (int64_t i = 0; e->jobs && i < e->num_blocks; i++) {
        free(e->jobs[i].shares);
        free(e->jobs[i].env_list);
        free(e->jobs[i].op_list);
    }
    for (int32_t i = 0; e->scratch && i <= e->num_threads; i++) {
        free(e->scratch[i].rewards);
        free(e->scratch[i].respawned);
        free(e->scratch[i].spare);
        free(e->scratch[i].guarded);
        free(e->scratch[i].first);
    }
    void *all[] = {e->states, e->steps, e->pending, e->place,     e->returns,   e->lengths,
                   e->gone,   e->jobs,  e->scratch, e->all_ended, e->num_ended, e->threads};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        free(all[i]);
#ifdef SHOAL_CHECKS
    free((void *)e->stage);
#endif
    pthread_mutex_destroy(&e->mutex);
    pthread_cond_destroy(&e->wake);
    pthread_cond_destroy(&e->finished);
    return 0;
}
