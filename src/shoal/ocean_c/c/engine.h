/* Steps many environments of one table (shoal_env.h), on one thread or several.
 *
 * Environments are posted as jobs: a job is one batch, whose results go to one block of rows. Jobs
 * are finished in the order in which they were posted.
 *
 * Invariants ("checked": by SHOAL_ASSERT in sanitizer and test builds):
 * - An environment is in at most one job that is not received; a block belongs to at most one.
 *   So no two threads ever touch the same environment, the same rows or the same counters, and
 *   no result depends on which thread steps an environment. (Checked: `stage`.)
 * - A job is cut into chunks, and each thread (the caller is one) has a share of the chunks: always
 *   the same environments, which stay in the cache of the thread's core. `ticket` holds the end of
 *   a share and its next chunk: adding 1 takes a chunk, or reports that none is left. A thread that
 *   has finished its own share takes chunks of the others' shares. (Checked: each chunk is taken
 *   once, by `stage`.)
 * - Tickets are stored after all of a job has been written (release) and added to with acquire, so
 *   a thread that takes a chunk sees the job of the chunk, even if the thread came to the slot for
 *   an earlier job. A share's `number` is stored after its ticket (release): its thread, which
 *   waits for the number (acquire), finds the ticket. (Checked: `stage`.)
 * - `done` counts the chunks that a thread has finished in a slot, over all jobs, and only that
 *   thread writes it (release). Each job of a slot has `num_chunks`, so a job is over when the sum
 *   is a multiple known beforehand; a thread that reads that sum (acquire) sees the results.
 *   (Checked: the sum never exceeds the multiple.)
 * - A slot of the ring is used again only when its job has been received: all its chunks are done.
 *   (Checked when a job is posted.)
 * - What one thread writes in every batch shares no cache line with what another one reads or
 *   writes then: handing over a line takes as long as stepping 40 small environments. Hence the
 *   padding. (Checked when compiled.)
 * - A sleeper announces itself (`sleepers`, `waiting`) before it looks for the last time; a thread
 *   that changes what sleepers look at checks for sleepers after that (all seq_cst, or a fence that
 *   is): no wake-up is lost. (Checked: no more sleep than there are threads, one waits at a time.)
 * - With num_threads == 0 there are no threads, and no atomic operation is contended: jobs run in
 *   the caller, when it waits for them.
 * - Nothing is freed while a thread is in an environment or in a call of this engine: the caller
 *   closes only when its other threads have left; `shoal_engine_stop` makes them leave.
 */
#ifndef SHOAL_ENGINE_H
#define SHOAL_ENGINE_H

#include "../../c/assert.h"
#include "../../rows/rows.h"
#include "../shoal_env.h"

#include <pthread.h>
#include <stdatomic.h>

/* What waiting returns. */
enum { SHOAL_DONE = 0, SHOAL_NOT_YET = 1, SHOAL_FAULTY = 2, SHOAL_CLOSED = 3 };

/* What debugging finds. */
enum {
    SHOAL_FAULT_NONE,
    SHOAL_FAULT_BOUNDS,    /* wrote outside of one of its arrays */
    SHOAL_FAULT_UNWRITTEN, /* left a part of an array as it was */
    SHOAL_FAULT_STATE,     /* wrote behind its state */
    SHOAL_FAULT_CHANCE     /* the same state and actions gave another result */
};

enum { SHOAL_IN_OBSERVATIONS = 1, SHOAL_IN_MASKS, SHOAL_IN_REWARDS, SHOAL_IN_FLAGS };

typedef struct {
    int32_t kind, where, op;
    int64_t env, offset; /* offset: bytes from the first row of the array */
} shoal_fault;

/* A thread's part of a job. The poster writes the first half, the thread itself the second. */
typedef struct {
    _Atomic uint64_t number; /* of the job, from 1 on */
    _Atomic uint64_t ticket; /* end << 32 | next chunk */
    const int64_t *envs;     /* NULL: 0, 1, 2, ... */
    const int32_t *ops;      /* NULL: all `op` */
    const char *actions;     /* of all environments; NULL: they are in the rows */
    int32_t op;
    char pad[128 - 44];
    _Atomic uint64_t done; /* chunks */
    uint64_t num_ended;    /* agents, in these chunks */
    char pad2[128 - 16];
} shoal_share;
SHOAL_STATIC_ASSERT(offsetof(shoal_share, done) == 128 && sizeof(shoal_share) == 256,
                    "poster and thread write to cache lines of their own");

typedef struct {
    shoal_share *shares; /* one for each thread; the last is the caller's */
    int64_t *env_list;   /* room for lists */
    int32_t *op_list;
    int64_t first_place;
} shoal_job; /* one for each block */

/* One thread's own memory. */
typedef struct {
    float *rewards;     /* of a chunk's rows */
    uint8_t *respawned; /* of a chunk's rows */
    uint8_t *spare;     /* all but observations of one environment's rows, for a reset */
    char *guarded;      /* debugging: one environment's arrays and state, with guards between */
    char *first;        /* debugging: results of the first of two runs */
} shoal_scratch;

typedef struct shoal_engine {
    const shoal_table *table;
    double params[SHOAL_MAX_PARAMS + 1];
    int64_t num_envs, agents, num_logs, num_masked;
    int64_t observation_size, action_size; /* bytes of one agent's row */
    int64_t state_size, state_stride, max_steps;
    int32_t mode, debug, writes_masks;
    const float *action_low, *action_high; /* of each element of a row; NULL: discrete */
    /* Of each environment. */
    char *states;
    int32_t *steps;   /* of the episode */
    uint8_t *pending; /* the episode is over, or none has begun */
    int64_t *place;   /* where its last results are */
    /* Of each agent of each environment. */
    double *returns;
    int32_t *lengths;
    uint8_t *gone;
    shoal_rows rows; /* of the blocks; `actions`: of each agent of each environment */
    float *logs;     /* num_logs for each row of the blocks; valid where an episode has ended */
    /* Jobs. */
    int64_t batch_size, num_blocks;
    int64_t chunk, num_chunks; /* of each job; chunk: environments */
    shoal_job *jobs;
    /* Threads. */
    int32_t num_threads, spin_ns;
    int32_t started;
    shoal_scratch *scratch; /* of each thread; the last is the caller's */
    pthread_t *threads;
    pthread_mutex_t mutex;
    pthread_cond_t wake, finished;
    _Atomic int32_t sleepers, waiting, closed, alive, faulty; /* seldom written */
    shoal_fault fault;
    /* The caller's. */
    char pad[128];
    uint64_t posted, received;
    uint64_t *all_ended; /* of each block, over all its jobs: agents */
    uint64_t *num_ended; /* of each block, in the job that was received last: agents */
#ifdef SHOAL_CHECKS
    _Atomic uint8_t *stage; /* of each environment: 0 free, 1 posted, 2 stepped now, 3 done */
#endif
    char pad2[128];
} shoal_engine;

/* Allocate everything for the numbers given in `engine`, which is zero otherwise; 0, or an errno
 * (ENOMEM too where a size does not fit 64 bits), after which nothing is left to close. */
int shoal_engine_open(shoal_engine *engine);
/* Call `init` of every environment. */
void shoal_engine_init(void *engine);
/* Start the threads; 0, or an errno. The rows may follow later. */
int shoal_engine_start(shoal_engine *engine);
/* Make all threads leave soon, callers in `shoal_engine_wait` included. */
void shoal_engine_stop(shoal_engine *engine);
/* Stop, wait for the engine's threads for `nanoseconds`, and free everything. If a thread does not
 * come back from its environment, return EBUSY and leave all that the thread may use. */
int shoal_engine_close(shoal_engine *engine, int64_t nanoseconds);
/* Seed the generator of one environment. */
void shoal_engine_seed(shoal_engine *engine, int64_t env, uint64_t seed);
/* Post a job of `batch_size` environments to the next block. `envs`, `ops`: NULL, or copied.
 * `actions`: NULL, or those of all environments (`envs` is NULL then), which must stay until the
 * job is over: each thread copies the actions of its environments to the rows. */
void shoal_engine_post(shoal_engine *engine, int32_t op, const int64_t *envs, const int32_t *ops,
                       const char *actions);
/* Wait for the oldest job, at most about `nanoseconds`: SHOAL_DONE or SHOAL_FAULTY (the job is over
 * and received, and `block` set), SHOAL_NOT_YET, or SHOAL_CLOSED. With `help` the caller works on
 * the job too, however long that takes; where there are no threads it always does. */
int shoal_engine_wait(shoal_engine *engine, int help, int64_t nanoseconds, int64_t *block);

/* A call on a thread of its own, so that the caller can give up on an environment that does not
 * return. The caller frees `call` when it is over, and leaves it and all that `function` uses for
 * good when it gives up. */
typedef struct shoal_call shoal_call;
/* Start it; 0, or an errno. */
int shoal_call_start(shoal_call **call, void (*function)(void *), void *argument);
/* Wait for at most `nanoseconds`; returns whether the call is over. */
int shoal_call_wait(shoal_call *call, int64_t nanoseconds);
void shoal_call_free(shoal_call *call);

/* Return the first index from `i` on where one of two arrays is not 0; `n` if there is none. */
static inline int64_t shoal_next_set(const uint8_t *one, const uint8_t *other, int64_t i,
                                     int64_t n) {
    while (i < n) {
        if (i + 8 <= n) { /* eight at a time, since most are 0 */
            uint64_t a, b;
            memcpy(&a, one + i, 8);
            memcpy(&b, other + i, 8);
            if ((a |= b))
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
                return i + __builtin_clzll(a) / 8;
#else
                return i + __builtin_ctzll(a) / 8;
#endif
            i += 8;
            continue;
        }
        if (one[i] | other[i])
            return i;
        i++;
    }
    return n;
}

#endif
