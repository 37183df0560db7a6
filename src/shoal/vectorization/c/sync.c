/* Invariants and memory orders: sync.h. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* sched_getcpu, syscall */
#endif
#include "sync.h"
#include "../../c/assert.h"
#include "../../c/clock.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

/* Without futexes (macOS, or where asked for) a sleeper polls its word; wake-ups send nothing. */
#if !defined(__linux__) || !defined(__LP64__)
#define SHOAL_NO_FUTEX
#endif
#ifdef __linux__
#include <sys/prctl.h>
#endif
#ifndef SHOAL_NO_FUTEX
#include <linux/futex.h>
#include <sys/syscall.h>
#endif

/* The tests put random delays and deaths at these points between two steps of a protocol. */
#ifndef SHOAL_POINT
#define SHOAL_POINT()
#endif

#ifdef __cplusplus
using namespace std;
#endif

/* Every access names its order; the reasons are in sync.h. */
#define LOAD(word, order) atomic_load_explicit(word, memory_order_##order)
#define STORE(word, value, order) atomic_store_explicit(word, value, memory_order_##order)
#define ADD(word, value, order) atomic_fetch_add_explicit(word, value, memory_order_##order)
#define SUB(word, value, order) atomic_fetch_sub_explicit(word, value, memory_order_##order)
#define OR(word, value, order) atomic_fetch_or_explicit(word, value, memory_order_##order)
#define AND(word, value, order) atomic_fetch_and_explicit(word, value, memory_order_##order)
#define SWAP(word, value, order) atomic_exchange_explicit(word, value, memory_order_##order)
#define REPLACE(word, expected, value)                                                             \
    atomic_compare_exchange_strong_explicit(word, expected, value, memory_order_seq_cst,           \
                                            memory_order_acquire)

#define MILLISECOND INT64_C(1000000)
#define SPIN_LIMIT (50 * 1000) /* what waking a sleeping core costs under a hypervisor, in ns */
#define CROWDED 64             /* waits that find a worker on the parent's core, until it leaves */
#ifndef SLICE_MIN              /* the tests have their own */
#define SLICE_MIN (100 * MILLISECOND)
#define SLICE_MAX (500 * MILLISECOND)
#define WORKER_SLICE (1000 * MILLISECOND)
#define CHECK_PERIOD (250 * MILLISECOND)
#endif
#define SHOAL_ANY UINT32_MAX
#define WORDS(num_workers) (((num_workers) + 63) / 64)

#if ATOMIC_INT_LOCK_FREE != 2 || ATOMIC_LLONG_LOCK_FREE != 2
#error "atomics that are shared between processes must be free of locks"
#endif

/* ---- time, sleeping, waking ------------------------------------------------------------------ */

int64_t shoal_clock(void) {
    return clock_ns();
}

/* The core that the caller runs on; -1 where there is no way to know. */
static int32_t current_cpu(void) {
#ifdef __linux__
    return sched_getcpu();
#else
    return -1;
#endif
}

/* Have the scheduler take the caller to another core, if there is one that it may use. */
static void leave_core(int32_t cpu) {
#ifdef __linux__
    cpu_set_t all, others;
    if (sched_getaffinity(0, sizeof all, &all) != 0)
        return;
    others = all;
    CPU_CLR((size_t)cpu, &others);
    if (CPU_COUNT(&others) > 0 && sched_setaffinity(0, sizeof others, &others) == 0)
        sched_setaffinity(0, sizeof all, &all);
#else
    (void)cpu;
#endif
}

/* Sleep while *word == value: OK (woken, or the word has changed), INTERRUPTED by a signal, or
 * TIMEOUT at `until`. `bits`: which wake-ups to hear. */
static int sleep_on(shoal_word *word, uint32_t value, uint32_t bits, int64_t until) {
    SHOAL_POINT();
#ifdef SHOAL_NO_FUTEX
    /* macOS has no semaphore that processes can share without a name, so: poll, at intervals that
     * are a sixteenth of the time waited so far, from 50 us to 5 ms. */
    (void)bits;
    int64_t start = shoal_clock(), now = start;
    while (LOAD(word, seq_cst) == value) {
        if (now >= until)
            return SHOAL_TIMEOUT;
        int64_t nap = (now - start) / 16;
        nap = nap < 50 * 1000 ? 50 * 1000 : nap > 5 * MILLISECOND ? 5 * MILLISECOND : nap;
        struct timespec time = {0, (long)(nap < until - now ? nap : until - now)};
        if (nanosleep(&time, NULL) < 0 && errno == EINTR)
            return SHOAL_INTERRUPTED;
        now = shoal_clock();
    }
    return SHOAL_OK;
#else
    struct timespec time = {(time_t)(until / 1000000000), (long)(until % 1000000000)};
    if (syscall(SYS_futex, word, FUTEX_WAIT_BITSET, value, &time, NULL, bits) == 0)
        return SHOAL_OK;
    return errno == EINTR ? SHOAL_INTERRUPTED : errno == ETIMEDOUT ? SHOAL_TIMEOUT : SHOAL_OK;
#endif
}

static void wake(shoal_word *word, uint32_t bits) {
    SHOAL_POINT();
#ifdef SHOAL_NO_FUTEX
    (void)word, (void)bits;
#else
    syscall(SYS_futex, word, FUTEX_WAKE_BITSET, INT_MAX, NULL, NULL, bits);
#endif
}

/* How long to spin next time: the limit while waits are short enough for spinning to pay, else
 * half as long after each wait that was not, down to next to nothing. */
static int64_t spin_next(int64_t spin, int64_t waited) {
    if (waited <= 2 * SPIN_LIMIT)
        return SPIN_LIMIT;
    return spin / 2 > SPIN_LIMIT / 64 ? spin / 2 : SPIN_LIMIT / 64;
}

/* ---- layout ---------------------------------------------------------------------------------- */

static uint32_t ring_size(const shoal_config *config) {
    /* Twice the worker's environments, so that commands can never take the room of a post. */
    uint32_t most = config->num_envs / config->num_workers + 1, size = 1;
    while (size < 2 * most + SHOAL_SPARE)
        size *= 2;
    return size;
}

/* The addresses of all parts, for a control block at `memory`; returns the bytes it takes. */
static size_t lay_out(shoal_sync *sync, void *memory, const shoal_config *config) {
    size_t at = 0, ring = ring_size(config);
    char *base = (char *)memory;
    size_t places = (size_t)config->num_blocks * config->batch_size;
    sync->config = *config;
    sync->ring_mask = (uint32_t)ring - 1;
    sync->header = (shoal_header *)(base + at);
    at += sizeof(shoal_header);
    sync->lines = (shoal_line *)(base + at);
    at += sizeof(shoal_line) * config->num_workers;
    sync->blocks = (shoal_block *)(base + at);
    at += sizeof(shoal_block) * config->num_blocks;
    sync->slots = (shoal_long_word *)(base + at);
    at += (sizeof(shoal_long_word) * places + 127) / 128 * 128;
    sync->rings = (uint64_t *)(base + at);
    at += (sizeof(uint64_t) * ring * config->num_workers + 127) / 128 * 128;
    sync->envs = (shoal_env *)(base + at);
    at += sizeof(shoal_env) * config->num_envs;
    sync->peers = (shoal_peer *)(base + at);
    at += sizeof(shoal_peer) * config->num_workers;
    return (at + 127) / 128 * 128;
}

size_t shoal_size(const shoal_config *config) {
    const shoal_config *c = config;
    if (c->num_workers < 1 || c->num_workers > SHOAL_MAX_WORKERS || c->num_envs < c->num_workers ||
        c->num_envs >= SHOAL_NO_ENV || c->batch_size < 1 || c->batch_size > c->num_envs)
        return 0;
    if (c->mode != SHOAL_FIXED && c->mode != SHOAL_FIRST)
        return 0;
    if (c->mode == SHOAL_FIXED && c->num_envs % c->batch_size != 0)
        return 0;
    if (c->num_blocks < shoal_num_blocks(c->num_envs, c->batch_size) ||
        (uint64_t)c->num_blocks * c->batch_size >= UINT32_MAX)
        return 0;
    shoal_sync sync;
    return lay_out(&sync, NULL, config);
}

void shoal_init(void *memory, const shoal_config *config) {
    shoal_sync sync;
    uint32_t epoch = config->epoch;
    memset(memory, 0, lay_out(&sync, memory, config));
    sync.header->config = *config;
    atomic_init(&sync.header->parent_cpu, UINT32_MAX);
    atomic_init(&sync.header->bell, epoch);
    atomic_init(&sync.header->errors, epoch);
    atomic_init(&sync.header->cursor, (uint64_t)epoch << 32);
    for (uint32_t b = 0; b < config->num_blocks; b++)
        atomic_init(&sync.blocks[b].remaining, config->batch_size);
    for (uint32_t i = 0; i < config->num_blocks * config->batch_size; i++)
        atomic_init(&sync.slots[i], (uint64_t)(epoch - 1) << 32 | SHOAL_NO_ENV);
    for (uint32_t w = 0; w < config->num_workers; w++) {
        atomic_init(&sync.lines[w].tail, epoch);
        atomic_init(&sync.lines[w].head, epoch);
        atomic_init(&sync.lines[w].current, epoch);
        sync.peers[w].tail = sync.peers[w].head = epoch;
        sync.peers[w].pidfd = -1;
        for (uint32_t e = shoal_first_env(config, w); e < shoal_first_env(config, w + 1); e++) {
            sync.envs[e].worker = (uint16_t)w;
            sync.envs[e].place = e; /* FIXED: group g's first block is number g */
        }
    }
}

static void attach(shoal_sync *sync, void *memory) {
    shoal_config config = ((shoal_header *)memory)->config;
    lay_out(sync, memory, &config);
}

/* ---- both sides ------------------------------------------------------------------------------ */

static uint32_t count_bits(uint64_t bits) {
    return (uint32_t)__builtin_popcountll(bits);
}

static uint32_t awake_workers(const shoal_sync *sync) {
    uint32_t asleep = 0;
    for (uint32_t i = 0; i < WORDS(sync->config.num_workers); i++)
        asleep += count_bits(LOAD(&sync->header->sleepers[i], relaxed));
    return sync->config.num_workers - asleep;
}

/* How many laps after `lap` a place was taken whose word is `slot`. */
static int32_t since(uint64_t slot, uint32_t lap) {
    return (int32_t)((uint32_t)(slot >> 32) - lap);
}

/* Take the next free place for this environment (FIRST). A place is free in this lap when its
 * word carries the lap before. Whoever finds the cursor behind moves it on, for itself or for a
 * taker that has not come to it yet. */
static uint32_t take_place(shoal_sync *sync, uint32_t env) {
    uint32_t places = sync->config.num_blocks * sync->config.batch_size;
    uint64_t cursor = LOAD(&sync->header->cursor, acquire);
    for (;;) {
        uint32_t lap = (uint32_t)(cursor >> 32), place = (uint32_t)cursor;
        uint64_t next = place + 1 < places ? cursor + 1 : (uint64_t)(lap + 1) << 32;
        uint64_t slot = LOAD(&sync->slots[place], acquire);
        int taken = 0;
        SHOAL_ASSERT(since(slot, lap - 1) >= 0); /* I3: nobody has passed the place by */
        SHOAL_POINT();
        if ((uint32_t)(slot >> 32) == lap - 1)
            taken = REPLACE(&sync->slots[place], &slot, (uint64_t)lap << 32 | env);
        SHOAL_POINT();
        if (REPLACE(&sync->header->cursor, &cursor, next)) {
            SHOAL_ASSERT(since(LOAD(&sync->slots[place], acquire), lap) >= 0); /* I3 */
            cursor = next;
        }
        if (taken)
            return place;
    }
}

/* ---- the parent ------------------------------------------------------------------------------ */

void shoal_parent_attach(shoal_parent *parent, void *memory) {
    memset(parent, 0, sizeof *parent);
    attach(&parent->sync, memory);
    parent->lap = parent->errors = parent->sync.config.epoch;
    parent->spin = SPIN_LIMIT;
    parent->slice = SLICE_MIN;
    parent->checked = shoal_clock();
}

void shoal_set_peer(shoal_parent *parent, uint32_t worker, int32_t pid, int32_t pidfd) {
    parent->sync.peers[worker].pid = pid;
    parent->sync.peers[worker].pidfd = pidfd;
}

static void note_parent_cpu(shoal_sync *sync) {
    uint32_t cpu = (uint32_t)current_cpu();
    if (LOAD(&sync->header->parent_cpu, relaxed) != cpu)
        STORE(&sync->header->parent_cpu, cpu, relaxed);
}

/* Wake those of the workers in `given` (a bit each) that sleep, all with one call. */
static void ring_bell(shoal_sync *sync, const uint64_t *given) {
    uint32_t bits = 0;
    for (uint32_t i = 0; i < WORDS(sync->config.num_workers); i++) {
        if (!given[i])
            continue;
        uint64_t asleep = given[i] & AND(&sync->header->sleepers[i], ~given[i], acq_rel);
        bits |= (uint32_t)(asleep | asleep >> 32);
    }
    if (!bits)
        return;
    SHOAL_POINT();
    ADD(&sync->header->bell, 1, release);
    wake(&sync->header->bell, bits);
}

static void push(shoal_sync *sync, uint32_t worker, uint64_t entry) {
    shoal_peer *peer = &sync->peers[worker];
    if (peer->tail - peer->head > sync->ring_mask) /* the entry's old content must be done with */
        peer->head = LOAD(&sync->lines[worker].head, acquire);
    SHOAL_ASSERT(peer->tail - peer->head <= sync->ring_mask); /* I2: the ring has room */
    sync->rings[(size_t)worker * (sync->ring_mask + 1) + (peer->tail & sync->ring_mask)] = entry;
    peer->tail++;
}

int shoal_post(shoal_parent *parent, const int64_t *envs, uint32_t count, uint32_t op) {
    shoal_sync *sync = &parent->sync;
    const shoal_config *config = &sync->config;
    for (uint32_t i = 0; i < count; i++) {
        uint64_t e = envs ? (uint64_t)envs[i] : i;
        int wrong = SHOAL_OK;
        parent->culprit = e < UINT32_MAX ? (uint32_t)e : UINT32_MAX;
        if (e >= config->num_envs) {
            wrong = SHOAL_RANGE;
        } else if (sync->envs[e].state != SHOAL_IDLE) {
            wrong = SHOAL_BUSY;
        } else if (sync->peers[sync->envs[e].worker].dead) {
            wrong = SHOAL_DEAD;
            parent->culprit = sync->envs[e].worker;
        }
        if (wrong) {
            while (i--)
                sync->envs[envs ? (uint64_t)envs[i] : i].state = SHOAL_IDLE;
            return wrong;
        }
        sync->envs[e].state = SHOAL_IN_FLIGHT;
    }
    uint64_t given[SHOAL_MAX_WORKERS / 64];
    memset(given, 0, WORDS(config->num_workers) * sizeof given[0]);
    uint32_t places = config->num_blocks * config->batch_size;
    for (uint32_t i = 0; i < count; i++) {
        uint32_t e = envs ? (uint32_t)envs[i] : i;
        shoal_env *env = &sync->envs[e];
        env->position = sync->peers[env->worker].tail;
        push(sync, env->worker, (uint64_t)env->place << 32 | op << 24 | e);
        if (config->mode == SHOAL_FIXED) { /* its group's next turn is num_envs places on */
            uint32_t lap = parent->lap + (env->place < parent->next * config->batch_size);
            STORE(&sync->slots[env->place], (uint64_t)lap << 32 | e, relaxed);
            env->place += config->num_envs;
            env->place -= env->place >= places ? places : 0;
        }
        given[env->worker / 64] |= UINT64_C(1) << env->worker % 64;
    }
    parent->in_flight += count;
    note_parent_cpu(sync);
    for (uint32_t i = 0; i < WORDS(config->num_workers); i++)
        for (uint64_t bits = given[i]; bits; bits &= bits - 1) {
            uint32_t worker = i * 64 + (uint32_t)__builtin_ctzll(bits);
            STORE(&sync->lines[worker].tail, sync->peers[worker].tail, release);
            SHOAL_POINT();
        }
    ring_bell(sync, given);
    return SHOAL_OK;
}

int shoal_command(shoal_parent *parent, uint32_t worker, uint32_t command, uint32_t argument) {
    shoal_sync *sync = &parent->sync;
    shoal_peer *peer = &sync->peers[worker];
    uint32_t num_envs = sync->config.num_envs / sync->config.num_workers + 1;
    parent->culprit = worker;
    if (peer->dead)
        return SHOAL_DEAD;
    peer->head = LOAD(&sync->lines[worker].head, acquire);
    if (peer->tail - peer->head >= num_envs + SHOAL_SPARE)
        return SHOAL_FULL;
    push(sync, worker, (uint64_t)(SHOAL_COMMAND | command) << 24 | argument);
    uint64_t given[SHOAL_MAX_WORKERS / 64] = {0};
    given[worker / 64] = UINT64_C(1) << worker % 64;
    STORE(&sync->lines[worker].tail, peer->tail, release);
    ring_bell(sync, given);
    return SHOAL_OK;
}

int shoal_drained(shoal_parent *parent, uint32_t worker) {
    shoal_peer *peer = &parent->sync.peers[worker];
    return LOAD(&parent->sync.lines[worker].head, acquire) == peer->tail;
}

uint32_t shoal_num_done(const shoal_parent *parent, uint32_t worker) {
    return LOAD(&parent->sync.lines[worker].head, acquire);
}

void shoal_close(shoal_parent *parent) {
    uint64_t given[SHOAL_MAX_WORKERS / 64];
    memset(given, 0xff, sizeof given);
    STORE(&parent->sync.header->closing, 1, release);
    ring_bell(&parent->sync, given);
}

/* Is the result of this environment, which is in flight, in its place? Exact even after a death
 * (I6). */
static int is_done(const shoal_sync *sync, uint32_t e) {
    const shoal_env *env = &sync->envs[e];
    uint32_t head = LOAD(&sync->lines[env->worker].head, seq_cst);
    return env->state == SHOAL_FILLED || (int32_t)(head - env->position) > 0;
}

static int is_outstanding(const shoal_sync *sync, uint32_t e) {
    return sync->envs[e].state == SHOAL_IN_FLIGHT && !is_done(sync, e);
}

/* Is the next block complete? */
static int is_ready(shoal_parent *parent) {
    shoal_sync *sync = &parent->sync;
    uint32_t size = sync->config.batch_size;
    if (!parent->recovering)
        return LOAD(&sync->blocks[parent->next].remaining, seq_cst) == 0;
    for (uint32_t place = parent->next * size; place < (parent->next + 1) * size; place++) {
        uint64_t slot = LOAD(&sync->slots[place], seq_cst);
        if (slot >> 32 != parent->lap || !is_done(sync, (uint32_t)slot))
            return 0;
    }
    return 1;
}

/* Has everything been posted that the next block needs? If not, it would never be complete. */
static int is_posted(const shoal_parent *parent) {
    const shoal_sync *sync = &parent->sync;
    uint32_t size = sync->config.batch_size;
    if (sync->config.mode == SHOAL_FIRST)
        return parent->in_flight >= size;
    for (uint32_t place = parent->next * size; place < (parent->next + 1) * size; place++)
        if (LOAD(&sync->slots[place], relaxed) >> 32 != parent->lap)
            return 0;
    return 1;
}

/* Has a worker failed since the last report? Takes its code. */
static int has_failed(shoal_parent *parent) {
    shoal_sync *sync = &parent->sync;
    uint32_t errors = LOAD(&sync->header->errors, seq_cst);
    if (errors == parent->errors)
        return 0;
    for (uint32_t w = 0; w < sync->config.num_workers; w++) {
        uint32_t code = SWAP(&sync->lines[w].error, 0, acquire);
        if (code) {
            parent->culprit = w;
            parent->error = code;
            return 1;
        }
    }
    parent->errors = errors;
    return 0;
}

/* The next block is complete: hand it over, and make it ready for its next lap. */
static int receive(shoal_parent *parent, uint32_t *block) {
    shoal_sync *sync = &parent->sync;
    uint32_t size = sync->config.batch_size, b = parent->next;
    if (has_failed(parent))
        return SHOAL_FAILED;
    SHOAL_ASSERT(parent->in_flight >= size && parent->in_flight <= sync->config.num_envs); /* I1 */
    SHOAL_ASSERT(parent->recovering || LOAD(&sync->blocks[b].remaining, seq_cst) == 0);    /* I4 */
    for (uint32_t place = b * size; place < (b + 1) * size; place++) {
        uint64_t slot = LOAD(&sync->slots[place], relaxed);
        SHOAL_ASSERT(slot >> 32 == parent->lap); /* I5: taken in this lap, not in another */
        SHOAL_ASSERT(sync->envs[(uint32_t)slot].state != SHOAL_IDLE);       /* I1: one row a post */
        SHOAL_ASSERT(!parent->recovering || is_done(sync, (uint32_t)slot)); /* I6: by the heads */
        sync->envs[(uint32_t)slot].state = SHOAL_IDLE;
    }
    STORE(&sync->blocks[b].remaining, size, relaxed);
    parent->in_flight -= size;
    if (parent->recovering && --parent->recovering == 0) {
        for (uint32_t i = 0; i < sync->config.num_blocks; i++)
            SHOAL_ASSERT(LOAD(&sync->blocks[i].remaining, relaxed) <= size); /* I6: right again */
        STORE(&sync->header->recovering, 0, seq_cst);
    }
    if (++parent->next == sync->config.num_blocks) {
        parent->next = 0;
        parent->lap++;
    }
    parent->slice = SLICE_MIN;
    *block = b;
    return SHOAL_OK;
}

static int is_alive(const shoal_peer *peer) {
    if (peer->pidfd >= 0) {
        struct pollfd poll_fd = {peer->pidfd, POLLIN, 0};
        return poll(&poll_fd, 1, 0) != 1;
    }
    if (peer->pid > 0) { /* a child that nobody has waited for is still found by kill() */
        siginfo_t info;
        info.si_pid = 0;
        if (waitid(P_PID, (id_t)peer->pid, &info, WEXITED | WNOHANG | WNOWAIT) == 0)
            return info.si_pid == 0;
        return kill(peer->pid, 0) == 0 || errno != ESRCH;
    }
    return 1;
}

void shoal_bury(shoal_parent *parent, uint32_t worker) {
    shoal_sync *sync = &parent->sync;
    if (sync->peers[worker].dead)
        return;
    sync->peers[worker].dead = 1;
    parent->num_dead++;
    /* Asleep for ever, so that others may spin on its core. */
    OR(&sync->header->sleepers[worker / 64], UINT64_C(1) << worker % 64, acq_rel);
    /* From now on remaining[] may be wrong, until every block has been received once (I6). */
    parent->recovering = sync->config.num_blocks;
    STORE(&sync->header->recovering, 1, seq_cst);
}

/* DEAD and the worker in `culprit`, or OK. */
static int check_peers(shoal_parent *parent, int64_t now) {
    shoal_sync *sync = &parent->sync;
    for (uint32_t w = 0; w < sync->config.num_workers; w++) {
        if (!sync->peers[w].dead) {
            if (is_alive(&sync->peers[w]))
                continue;
            shoal_bury(parent, w);
        }
        parent->culprit = w; /* there may be more: the next wait looks again at once */
        return SHOAL_DEAD;
    }
    parent->checked = now;
    return SHOAL_OK;
}

int shoal_wait_block(shoal_parent *parent, int64_t deadline, uint32_t *block) {
    shoal_sync *sync = &parent->sync;
    shoal_word *waiting = &sync->header->waiting;
    int64_t start = shoal_clock(), now = start;
    if (parent->num_dead || now - parent->checked >= CHECK_PERIOD)
        if (check_peers(parent, now))
            return SHOAL_DEAD;
    if (is_ready(parent))
        return receive(parent, block);
    if (!is_posted(parent))
        return SHOAL_STARVED;
    if (sync->config.cores > sync->config.num_workers) { /* a core is left for the parent */
        int64_t end = now + parent->spin < deadline ? now + parent->spin : deadline;
        for (uint32_t i = 1; i % 16 || shoal_clock() < end; i++) {
            pause_core();
            if (is_ready(parent)) {
                parent->spin = SPIN_LIMIT;
                return receive(parent, block);
            }
        }
    }
    for (;;) {
        uint32_t awaited = parent->recovering ? SHOAL_ANY : parent->next + 1;
        int64_t until = now + parent->slice < deadline ? now + parent->slice : deadline;
        int result = SHOAL_OK, ready, failed;
        STORE(waiting, awaited, seq_cst);
        SHOAL_POINT();
        ready = is_ready(parent);
        failed = has_failed(parent);
        if (!ready && !failed)
            result = now < deadline ? sleep_on(waiting, awaited, UINT32_MAX, until) : SHOAL_TIMEOUT;
        STORE(waiting, 0, relaxed);
        note_parent_cpu(sync);
        if (failed)
            return SHOAL_FAILED;
        now = shoal_clock();
        if (ready) {
            parent->spin = spin_next(parent->spin, now - start);
            return receive(parent, block);
        }
        if (result == SHOAL_OK)
            continue;
        parent->spin = spin_next(parent->spin, INT64_MAX);
        if (result == SHOAL_TIMEOUT) {
            parent->slice = parent->slice * 2 < SLICE_MAX ? parent->slice * 2 : SLICE_MAX;
            if (check_peers(parent, now))
                return SHOAL_DEAD;
            if (now >= deadline)
                return SHOAL_TIMEOUT;
        }
        return SHOAL_INTERRUPTED;
    }
}

void shoal_block_envs(const shoal_parent *parent, uint32_t block, int64_t *envs) {
    uint32_t size = parent->sync.config.batch_size;
    for (uint32_t i = 0; i < size; i++)
        envs[i] = (uint32_t)LOAD(&parent->sync.slots[block * size + i], relaxed);
}

uint32_t shoal_current_env(const shoal_parent *parent, uint32_t worker) {
    const shoal_sync *sync = &parent->sync;
    const shoal_line *line = &sync->lines[worker];
    uint32_t head = LOAD(&line->head, acquire);
    uint32_t current = LOAD(&line->current, relaxed);
    if ((int32_t)(current - head) < 0) /* the entry at the head has not been begun */
        current = head;
    if (current == sync->peers[worker].tail)
        return SHOAL_NO_ENV;
    uint64_t entry =
        sync->rings[(size_t)worker * (sync->ring_mask + 1) + (current & sync->ring_mask)];
    return shoal_entry_op(entry) < SHOAL_COMMAND ? shoal_entry_env(entry) : (uint32_t)SHOAL_NO_ENV;
}

uint32_t shoal_outstanding(const shoal_parent *parent, uint32_t worker, int64_t *envs) {
    const shoal_sync *sync = &parent->sync;
    uint32_t count = 0, end = shoal_first_env(&sync->config, worker + 1);
    for (uint32_t e = shoal_first_env(&sync->config, worker); e < end; e++)
        if (is_outstanding(sync, e))
            envs[count++] = e;
    return count;
}

uint32_t shoal_place_of(shoal_parent *parent, uint32_t env) {
    const shoal_sync *sync = &parent->sync;
    uint32_t places = sync->config.num_blocks * sync->config.batch_size;
    uint32_t place = parent->next * sync->config.batch_size, lap = parent->lap;
    for (uint32_t i = 0; i < places; i++) { /* it may have one already */
        if (LOAD(&sync->slots[place], acquire) == ((uint64_t)lap << 32 | env))
            return place;
        if (++place == places) {
            place = 0;
            lap++;
        }
    }
    return take_place(&parent->sync, env);
}

void shoal_complete_for(shoal_parent *parent, uint32_t env) {
    parent->sync.envs[env].state = SHOAL_FILLED;
}

int shoal_revive(shoal_parent *parent, uint32_t worker, int32_t pid, int32_t pidfd) {
    shoal_sync *sync = &parent->sync;
    shoal_line *line = &sync->lines[worker];
    shoal_peer *peer = &sync->peers[worker];
    uint32_t end = shoal_first_env(&sync->config, worker + 1);
    if (!peer->dead)
        return SHOAL_BUSY;
    for (uint32_t e = shoal_first_env(&sync->config, worker); e < end; e++)
        if (is_outstanding(sync, e))
            return SHOAL_BUSY;
    STORE(&line->error, 0, relaxed);
    STORE(&line->current, peer->tail, relaxed);
    STORE(&line->head, peer->tail, release); /* its commands are dropped */
    AND(&sync->header->sleepers[worker / 64], ~(UINT64_C(1) << worker % 64), acq_rel);
    peer->dead = 0;
    parent->num_dead--;
    shoal_set_peer(parent, worker, pid, pidfd);
    return SHOAL_OK;
}

/* ---- a worker -------------------------------------------------------------------------------- */

size_t shoal_worker_size(void) {
    return sizeof(shoal_worker);
}

void shoal_worker_attach(shoal_worker *worker, void *memory, uint32_t id) {
    memset(worker, 0, sizeof *worker);
    attach(&worker->sync, memory);
    worker->id = id;
    worker->spin = SPIN_LIMIT;
    worker->parent = getppid();
    worker->next = worker->tail = LOAD(&worker->sync.lines[id].head, acquire);
}

/* With a fork server getppid() is the server's; it ends with the parent, but look at both. */
static int parent_is_alive(const shoal_worker *worker) {
    int32_t pid = worker->sync.config.parent_pid;
    return !pid || (getppid() == worker->parent && (kill(pid, 0) == 0 || errno != ESRCH));
}

/* Is there an entry (OK), an order to close (CLOSED), or nothing (INTERRUPTED)? */
static int look(shoal_worker *worker) {
    shoal_sync *sync = &worker->sync;
    if (LOAD(&sync->header->closing, acquire))
        return SHOAL_CLOSED;
    if (worker->next == worker->tail)
        worker->tail = LOAD(&sync->lines[worker->id].tail, acquire);
    return worker->next != worker->tail ? SHOAL_OK : SHOAL_INTERRUPTED;
}

int shoal_wait_work(shoal_worker *worker) {
    shoal_sync *sync = &worker->sync;
    shoal_header *header = sync->header;
    shoal_long_word *sleepers = &header->sleepers[worker->id / 64];
    uint64_t bit = UINT64_C(1) << worker->id % 64;
    int result = look(worker);
    if (result != SHOAL_INTERRUPTED)
        return result;
    int64_t start = shoal_clock(), now = start;
    for (uint32_t i = 1; i % 16 || shoal_clock() - start < worker->spin; i++) {
        uint32_t awake = awake_workers(sync), cores = sync->config.cores;
        int32_t cpu = current_cpu();
        if (awake > cores)
            break; /* another worker needs the core */
        if (cpu >= 0 && LOAD(&header->parent_cpu, relaxed) == (uint32_t)cpu &&
            LOAD(&header->waiting, relaxed) == 0) {
            /* The parent needs it, which is awake or being woken. Some schedulers leave a pair that
             * takes turns on one core although another is idle. */
            if (awake == cores || ++worker->crowded % CROWDED)
                break;
            leave_core(cpu);
        }
        pause_core();
        result = look(worker);
        if (result != SHOAL_INTERRUPTED) {
            worker->spin = SPIN_LIMIT;
            return result;
        }
    }
    for (;;) {
        uint32_t bell = LOAD(&header->bell, acquire), bits = (uint32_t)(bit | bit >> 32);
        int slept = SHOAL_OK;
        SHOAL_POINT();
        OR(sleepers, bit, acq_rel);
        SHOAL_POINT();
        result = look(worker);
        if (result == SHOAL_INTERRUPTED) {
            slept = sleep_on(&header->bell, bell, bits, now + WORKER_SLICE);
            result = look(worker);
        }
        if (LOAD(sleepers, relaxed) & bit)
            AND(sleepers, ~bit, acq_rel);
        now = shoal_clock();
        if (result != SHOAL_INTERRUPTED) {
            worker->spin = spin_next(worker->spin, now - start);
            return result;
        }
        if (slept == SHOAL_OK)
            continue;
        worker->spin = spin_next(worker->spin, INT64_MAX);
        if (slept == SHOAL_TIMEOUT && !parent_is_alive(worker))
            return SHOAL_DEAD;
        return SHOAL_INTERRUPTED;
    }
}

int shoal_next(shoal_worker *worker, uint64_t *entry) {
    shoal_sync *sync = &worker->sync;
    int result = look(worker);
    if (result != SHOAL_OK)
        return result;
    *entry =
        sync->rings[(size_t)worker->id * (sync->ring_mask + 1) + (worker->next & sync->ring_mask)];
    STORE(&sync->lines[worker->id].current, worker->next, relaxed);
    worker->next++;
    return SHOAL_OK;
}

uint32_t shoal_claim(shoal_worker *worker, uint64_t entry) {
    if (worker->sync.config.mode == SHOAL_FIXED)
        return (uint32_t)(entry >> 32);
    return take_place(&worker->sync, shoal_entry_env(entry));
}

/* Take the word back, so that the parent does not fall asleep on it any more, and wake it. */
static void wake_parent(shoal_sync *sync, uint32_t waiting) {
    SHOAL_POINT();
    if (REPLACE(&sync->header->waiting, &waiting, 0))
        wake(&sync->header->waiting, UINT32_MAX);
}

void shoal_complete(shoal_worker *worker, uint32_t place) {
    shoal_sync *sync = &worker->sync;
    shoal_header *header = sync->header;
    uint32_t size = sync->config.batch_size, block = place / size;
    worker->rows++;
    if (sync->config.mode == SHOAL_FIXED && look(worker) == SHOAL_OK) {
        uint64_t next = sync->rings[(size_t)worker->id * (sync->ring_mask + 1) +
                                    (worker->next & sync->ring_mask)];
        if (shoal_entry_op(next) < SHOAL_COMMAND && (uint32_t)(next >> 32) / size == block)
            return;
    }
    uint32_t rows = worker->rows;
    worker->rows = 0;
    SHOAL_POINT();
    SHOAL_ASSERT(block < sync->config.num_blocks);
    uint32_t before = SUB(&sync->blocks[block].remaining, rows, seq_cst);
    SHOAL_ASSERT((before >= rows && before <= size) || LOAD(&header->recovering, seq_cst)); /* I4 */
    SHOAL_POINT();
    STORE(&sync->lines[worker->id].head, worker->next, seq_cst);
    if (before == rows || LOAD(&header->recovering, seq_cst)) {
        uint32_t waiting = LOAD(&header->waiting, seq_cst);
        if (waiting == block + 1 || waiting == SHOAL_ANY)
            wake_parent(sync, waiting);
    }
}

void shoal_finish(shoal_worker *worker) {
    STORE(&worker->sync.lines[worker->id].head, worker->next, release);
}

void shoal_fail(shoal_worker *worker, uint32_t code) {
    shoal_sync *sync = &worker->sync;
    STORE(&sync->lines[worker->id].error, code, release);
    SHOAL_POINT();
    ADD(&sync->header->errors, 1, seq_cst);
    uint32_t waiting = LOAD(&sync->header->waiting, seq_cst);
    if (waiting)
        wake_parent(sync, waiting);
}

int shoal_die_with_parent(int signal_number) {
#ifdef __linux__
    return prctl(PR_SET_PDEATHSIG, (unsigned long)signal_number);
#else
    (void)signal_number;
    return -1;
#endif
}
