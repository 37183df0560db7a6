/* The engine's threads under ThreadSanitizer: batches and half batches, with sleeps between, so
 * that workers are met spinning, asleep and at work; and the same sum as without threads.
 *
 *   ./threads           that, and an engine that is stopped while it is waited for
 *   ./threads twice     post an environment in two jobs: a broken invariant
 *   ./threads block     post to a block that has not been received: another one
 *   ./threads asleep    a sleeper too many: another one */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* nanosleep */
#endif
#include "../../src/shoal/ocean_c/environments/squared.c"

#include "../../src/shoal/ocean_c/c/engine.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { ENVS = 96, CELLS = 121 };

static void *array(size_t count, size_t size) {
    void *made = calloc(count, size);
    if (!made)
        abort();
    return made;
}

static int64_t envs[ENVS], actions[ENVS];

static shoal_engine *opened(int num_threads, int64_t batch) {
    const int64_t blocks = ENVS / batch + 2, places = blocks * batch;
    shoal_engine *e = (shoal_engine *)array(1, sizeof *e);
    e->table = &shoal_env_table;
    e->params[0] = 11;
    e->num_envs = ENVS, e->agents = 1, e->num_logs = 2, e->num_masked = 5;
    e->observation_size = CELLS, e->action_size = 8;
    e->state_size = sizeof(State), e->state_stride = 64, e->max_steps = 44;
    e->batch_size = batch, e->num_blocks = blocks;
    e->num_threads = num_threads, e->spin_ns = 2000;
    if (shoal_engine_open(e))
        abort();
    shoal_engine_init(e);
    if (shoal_engine_start(e))
        abort();
    e->rows.actions = batch == ENVS ? (char *)array(ENVS, 8) : (char *)actions;
    e->rows.observations = (char *)array((size_t)places, CELLS);
    e->rows.final_observations = (char *)array((size_t)places, CELLS);
    e->rows.rewards = (double *)array((size_t)places, 8);
    e->rows.episode_returns = (double *)array((size_t)places, 8);
    e->rows.episode_lengths = (int64_t *)array((size_t)places, 8);
    e->rows.occupants = (int64_t *)array((size_t)places, 8);
    e->rows.terminations = (uint8_t *)array((size_t)places, 1);
    e->rows.truncations = (uint8_t *)array((size_t)places, 1);
    e->rows.masks = (uint8_t *)array((size_t)places, 1);
    e->rows.acting = (uint8_t *)array((size_t)places, 1);
    e->rows.action_masks = (uint8_t *)array((size_t)places, 5);
    e->rows.finals = (uint8_t *)array((size_t)places, 1);
    e->logs = (float *)array((size_t)places, 8);
    for (int64_t i = 0; i < ENVS; i++) {
        shoal_engine_seed(e, i, (uint64_t)i);
        envs[i] = i;
        actions[i] = 0;
    }
    return e;
}

static double run(int num_threads, int64_t batch, int steps) {
    shoal_engine *e = opened(num_threads, batch);
    double sum = 0;
    for (int64_t first = 0; first < ENVS; first += batch)
        shoal_engine_post(e, SHOAL_RESET, envs + first, NULL, NULL);
    for (int64_t step = 0; step < steps * (ENVS / batch); step++) {
        const int64_t first = step % (ENVS / batch) * batch;
        int64_t block;
        while (shoal_engine_wait(e, step % 3 != 0, 100000000, &block) == SHOAL_NOT_YET) {
        }
        sum += (double)e->num_ended[block] * (double)(1 + step % 5);
        for (int64_t i = 0; i < batch; i++) {
            sum += e->rows.rewards[block * batch + i] * (double)(1 + (first + i) % 7);
            for (int k = 0; k < CELLS; k += 11)
                sum += e->rows.observations[(block * batch + i) * CELLS + k] * 1e-3;
            actions[first + i] = (step + first + i) % 5;
        }
        if (step % 50 == 0) {
            const struct timespec nap = {0, 300000};
            nanosleep(&nap, NULL);
        }
        if (batch == ENVS) /* the threads themselves copy the actions to the rows */
            shoal_engine_post(e, SHOAL_STEP, NULL, NULL, (char *)actions);
        else
            shoal_engine_post(e, SHOAL_STEP, envs + first, NULL, NULL);
    }
    /* What is still on its way is finished by the threads, or never begun; the rows stay. */
    shoal_engine_close(e, INT64_MAX);
    return sum;
}

/* One thread waits, as the interpreter's does, while another one stops the engine. */
static void *wait_until_closed(void *engine) {
    shoal_engine *e = (shoal_engine *)engine;
    int64_t block;
    int code;
    do {
        shoal_engine_post(e, SHOAL_RESET, NULL, NULL, NULL);
        code = shoal_engine_wait(e, e->received % 2 == 0, INT64_MAX, &block);
    } while (code == SHOAL_DONE);
    if (code != SHOAL_CLOSED)
        abort();
    return NULL;
}

static void stop_while_waiting(int num_threads) {
    const struct timespec nap = {0, 3000000};
    shoal_engine *e = opened(num_threads, ENVS);
    pthread_t waiter;
    if (pthread_create(&waiter, NULL, wait_until_closed, e))
        abort();
    nanosleep(&nap, NULL);
    shoal_engine_stop(e);
    pthread_join(waiter, NULL);
    if (shoal_engine_close(e, INT64_MAX))
        abort();
}

static void refuse_sizes(void) {
    const int64_t large[][3] = {/* environments, state, observation */
                                {INT64_C(1) << 30, INT64_C(1) << 35, 1},
                                {INT64_C(1) << 30, 64, INT64_C(1) << 35},
                                {2, INT64_MAX & ~INT64_C(63), 1}};
    for (size_t i = 0; i < sizeof large / sizeof *large; i++) {
        shoal_engine *e = (shoal_engine *)array(1, sizeof *e);
        e->table = &shoal_env_table;
        e->num_envs = e->batch_size = large[i][0], e->agents = 2, e->num_blocks = 2;
        e->state_size = e->state_stride = large[i][1], e->observation_size = large[i][2];
        if (shoal_engine_open(e) != ENOMEM)
            abort();
        free(e);
    }
}

int main(int argc, char **argv) {
    if (argc > 1) {
        const int twice = argv[1][0] == 't';
        if (argv[1][0] == 'a') {
            const struct timespec nap = {10, 0};
            shoal_engine *e = opened(2, ENVS);
            atomic_fetch_add(&e->sleepers, 2);
            shoal_engine_post(e, SHOAL_RESET, envs, NULL,
                              NULL); /* wakes those that sleep already */
            nanosleep(&nap, NULL);   /* until the threads go to sleep, and find out */
            return 0;
        }
        shoal_engine *e = opened(0, ENVS / 2);
        e->num_blocks = twice ? e->num_blocks : 1;
        for (int i = 0; i < 2; i++)
            shoal_engine_post(e, SHOAL_RESET, envs + (twice ? i : i * ENVS / 2), NULL, NULL);
        return 0;
    }
    refuse_sizes();
    for (int i = 0; i < 8; i++)
        stop_while_waiting(i % 4);
    for (int half = 0; half < 2; half++) {
        const int64_t batch = half ? ENVS / 2 : ENVS;
        const double expected = run(0, batch, 400);
        for (int threads = 1; threads <= 4; threads++) {
            const double found = run(threads, batch, 400);
            if (found != expected) {
                printf("%d threads, batches of %d: %g instead of %g\n", threads, (int)batch, found,
                       expected);
                return 1;
            }
        }
    }
    puts("the same with every number of threads");
    return 0;
}
