/* Synchronisation between one parent and its workers over one block of shared memory.
 *
 * The parent posts environment indices, the workers step those environments and place each result
 * in a row of a batch block, and the parent receives whole blocks, in order. This file knows
 * nothing of Python, spaces or bytes of observations: it hands out places and says when they are
 * filled. Parent and workers are processes that map the same memory (or threads, in the tests).
 *
 *     parent                                   worker w
 *     shoal_post(envs) ──── ring of w ───────► shoal_wait_work, shoal_next  -> entry
 *                                              step the environment
 *                                              shoal_claim(entry)           -> place
 *                                              write row `place`
 *     shoal_wait_block ◄─── remaining[block] ─ shoal_complete(place)
 *
 * WORDS
 *   place   a row: block * batch_size + slot.
 *   group   FIXED mode: environments g * batch_size ... (g + 1) * batch_size - 1.
 *   lap     how often (mod 2^32) the row of blocks has been gone through.
 *
 * MODES
 *   SHOAL_FIXED  Environment e lands in slot e % batch_size of its group's next block, and the
 *                groups are received in turn. batch_size divides num_envs. With batch_size ==
 *                num_envs this is the synchronous step. A worker reports the rows of a block
 *                together, so that a batch costs one atomic addition per worker.
 *   SHOAL_FIRST  The result that is ready first takes the next free place, so that a block holds
 *                whichever environments were quickest.
 *
 * INVARIANTS (checked by SHOAL_ASSERT in sanitizer and test builds)
 *   I1  An environment is in flight from its post until the block that holds its result has been
 *       received. It is posted only when not in flight (shoal_post refuses otherwise), so at most
 *       num_envs results are in flight. Each post gives exactly one row.
 *   I2  Each ring has one producer (the parent) and one consumer (its worker); entries before
 *       `head` are done, from `head` to `tail` outstanding. A worker takes its entries in order,
 *       so at most one of them has claimed a place without having completed it.
 *   I3  In FIRST mode slots[place] changes hands by one compare-and-swap, which both takes the
 *       place and writes down who took it: at no instant can a process die and leave a place
 *       taken by nobody. `cursor` is only a hint that never runs ahead of the first free place.
 *   I4  remaining[block] counts the rows still missing. A worker subtracts before it moves `head`:
 *       whoever sees the head past an entry knows that its subtraction has happened. The one that
 *       takes it to zero wakes the parent; the parent puts it back to batch_size on receiving the
 *       block, when nobody else can touch it.
 *   I5  A block that was received stays untouched until the second receive after it is called, if
 *       num_blocks >= shoal_num_blocks(num_envs, batch_size) = ceil(num_envs / batch_size) + 2.
 *       Proof. Number the blocks in the order of receiving. When the call for block s + 2 starts,
 *       blocks below s + 2 have been received. FIRST: places are taken without gaps, and those in
 *       later blocks than s + 1 belong to different environments in flight, at most num_envs (I1),
 *       so none lies beyond block s + 1 + ceil(num_envs / batch_size). FIXED: a group is posted
 *       again only once received, so the blocks in use are among the num_envs / batch_size ones
 *       that follow s + 1. Either way the block that reuses the memory of block s, number
 *       s + num_blocks, is not among them.
 *   I6  After a worker's death remaining[] may be wrong by what the worker was just subtracting.
 *       Until every block has been received once more (`recovering`), the parent trusts the heads
 *       instead: a row is there when its owner's head is past its entry (or the parent filled it
 *       itself), and each block received puts its counter right again (I4).
 *
 * MEMORY ORDER of each shared word. Every pair that hands over data is release/acquire; seq_cst
 * stands only where a store must not be overtaken by a later load of another word.
 *   ring entries   plain; published by `tail`, given back by `head`.
 *   tail           parent: release store. Worker: acquire load. Hands over actions and entries.
 *   head           worker: seq_cst store (see remaining). Parent: acquire load before an entry is
 *                  overwritten, seq_cst load while recovering.
 *   current        relaxed; only names the environment of a worker that is stuck.
 *   sleepers       one bit per worker. Worker before sleeping: fetch_or, then loads tail. Parent
 *                  after storing tail: fetch_and. Both acq_rel, on one word, so one comes second
 *                  and sees what the first did before: either the worker sees the tail, or the
 *                  parent sees the bit and wakes it. No wake-up is lost, and none is sent in vain.
 *   bell           the word that workers sleep on. Worker: acquire load, before it sets its bit.
 *                  Parent: fetch_add (release) once it has taken a bit, then futex wake. So a bit
 *                  is never taken without the bell ringing after the worker has read it, and then
 *                  the wait ends, or does not begin, the word having changed.
 *   remaining      worker: fetch_sub, seq_cst. Parent: seq_cst load (see waiting); relaxed store on
 *                  receiving, published by the next tail.
 *   waiting        0: the parent is awake; b + 1: it sleeps until block b; SHOAL_ANY: until any
 *                  row. The word that the parent sleeps on. Parent: seq_cst store, then seq_cst
 *                  load of remaining (recovering: heads) and errors. Worker: seq_cst change of
 *                  those, then seq_cst load of waiting. In the single total order of these four
 *                  either the worker sees that the parent sleeps or the parent sees the change
 *                  (Dekker). The worker takes the word back to 0 before it wakes the parent, so a
 *                  parent that is only just falling asleep does not.
 *   recovering     parent: seq_cst store before waiting. Worker: seq_cst load after head.
 *   errors         epoch. Worker: seq_cst fetch_add after its error code (release). Parent:
 *                  seq_cst load before sleeping.
 *   slots, cursor  FIXED mode: the parent's own. FIRST: seq_cst swaps, acquire loads. The chain of
 *                  swaps carries what the parent did before a post (its reads of an old block,
 *                  the reset of remaining) to whoever takes the place that this post made room
 *                  for, be it another worker (I5).
 *   closing        parent: release store before it takes the bits. Worker: acquire load before
 *                  each entry, and after setting its bit.
 *   parent_cpu     relaxed; a hint for spinning.
 * Rings, epochs and laps wrap around at 2^32 and are only compared by difference or equality.
 *
 * WAITING. A short spin, then sleep in the kernel, in slices. A waiter spins only while that takes
 * the core from nobody: the parent, if there is a core for it besides the workers'; a worker, while
 * no more workers are awake than there are cores, and not on the core that the parent is awake on
 * or being woken on. So the worker that finishes first keeps its core warm (waking an idle core
 * costs more than all the rest), and the one that shares the parent's core hands it over at once.
 * A worker that keeps finding itself on the parent's core although another is free moves away. The
 * spin is given up where it does not pay (spin_next). After each slice the waiter looks whether its
 * peer is alive, so that nothing waits for a dead process.
 *
 * One thread at a time uses a shoal_parent, and one a shoal_worker. C11 that is also C++.
 */
#ifndef SHOAL_SYNC_H
#define SHOAL_SYNC_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
#include <atomic>
#define SHOAL_ATOMIC(type) std::atomic<type>
#define SHOAL_ALIGNED alignas(128)
extern "C" {
#else
#include <stdatomic.h>
#define SHOAL_ATOMIC(type) _Atomic(type)
#define SHOAL_ALIGNED _Alignas(128)
#endif

enum { SHOAL_FIXED, SHOAL_FIRST };

enum {
    SHOAL_MAX_WORKERS = 1024,
    SHOAL_MAX_ENVS = 1 << 24,
    SHOAL_NO_ENV = SHOAL_MAX_ENVS - 1, /* stands in an entry for "none" */
    SHOAL_SPARE = 8,                   /* commands that fit into a ring beside all its envs */
    SHOAL_COMMAND = 0x80               /* ops from here on are commands: they give no row */
};

/* What functions return; `culprit` of the handle says which worker or environment. */
enum {
    SHOAL_OK,
    SHOAL_INTERRUPTED, /* a signal, or the end of a slice: look at signals, then wait again */
    SHOAL_TIMEOUT,
    SHOAL_DEAD,   /* the peer has died: worker `culprit`, or the worker's parent */
    SHOAL_FAILED, /* worker `culprit` called shoal_fail; the code is in `error` */
    SHOAL_CLOSED, /* the parent is closing */
    SHOAL_RANGE,  /* environment `culprit` is out of range */
    SHOAL_BUSY,   /* environment `culprit` is in flight */
    SHOAL_FULL,   /* the ring of worker `culprit` has no room for another command */
    SHOAL_STARVED /* too little is posted for the next block ever to be complete */
};

typedef struct {
    uint32_t num_workers, num_envs, batch_size, num_blocks;
    uint32_t mode;      /* SHOAL_FIXED or SHOAL_FIRST */
    uint32_t cores;     /* that parent and workers may use; 0: never spin */
    int32_t parent_pid; /* 0: workers do not check that it lives */
    uint32_t epoch;     /* where all counters start; 0 but in tests of wrapping around */
} shoal_config;

typedef SHOAL_ATOMIC(uint32_t) shoal_word;
typedef SHOAL_ATOMIC(uint64_t) shoal_long_word;

/* The memory starts with this; every group of words that is written together has its own line. */
typedef struct {
    SHOAL_ALIGNED shoal_config config; /* constant; with two words that change almost never */
    uint32_t ring_size;
    shoal_word closing, recovering;
    SHOAL_ALIGNED shoal_word waiting;
    shoal_word parent_cpu;
    SHOAL_ALIGNED shoal_word bell;
    SHOAL_ALIGNED shoal_word errors;
    SHOAL_ALIGNED shoal_long_word cursor; /* lap << 32 | place */
    SHOAL_ALIGNED shoal_long_word sleepers[SHOAL_MAX_WORKERS / 64];
} shoal_header;

typedef struct {
    SHOAL_ALIGNED shoal_word tail; /* written by the parent */
    SHOAL_ALIGNED shoal_word head; /* these by the worker */
    shoal_word current;
    shoal_word error;
} shoal_line;

typedef struct {
    SHOAL_ALIGNED shoal_word remaining;
} shoal_block;

/* The parent's own books, in the shared memory only because it is the one allocation. */
typedef struct {
    uint32_t position; /* ring index of its latest entry */
    uint32_t place;    /* FIXED: where its next result goes */
    uint16_t worker;
    uint16_t state; /* SHOAL_IDLE, SHOAL_IN_FLIGHT or SHOAL_FILLED */
} shoal_env;

typedef struct {
    uint32_t tail, head; /* `head` as last seen */
    int32_t pid, pidfd;  /* 0 and -1: unknown */
    int32_t dead;
} shoal_peer;

enum { SHOAL_IDLE, SHOAL_IN_FLIGHT, SHOAL_FILLED };

/* Pointers into the memory as this process maps it. */
typedef struct {
    shoal_config config;
    uint32_t ring_mask;
    shoal_header *header;
    shoal_line *lines;      /* [num_workers] */
    shoal_block *blocks;    /* [num_blocks] */
    shoal_long_word *slots; /* [num_blocks * batch_size], lap << 32 | env */
    uint64_t *rings;        /* [num_workers][ring_size] */
    shoal_env *envs;        /* [num_envs] */
    shoal_peer *peers;      /* [num_workers] */
} shoal_sync;

typedef struct {
    shoal_sync sync;
    uint32_t next, lap;  /* the block to receive next */
    uint32_t in_flight;  /* posted and not received */
    uint32_t errors;     /* epoch up to which errors were reported */
    uint32_t recovering; /* blocks left to receive until remaining[] can be trusted again */
    uint32_t num_dead, culprit, error;
    int64_t spin, slice, checked;
} shoal_parent;

typedef struct {
    shoal_sync sync;
    uint32_t id;
    uint32_t next, tail; /* the entry to take next, the end as last seen */
    uint32_t rows;       /* FIXED: completed and not yet reported */
    int32_t parent;      /* getppid() at the start */
    uint32_t crowded;    /* waits that began on the core of the parent */
    int64_t spin;
} shoal_worker;

/* Entries: place << 32 | op << 24 | environment. */
static inline uint32_t shoal_entry_env(uint64_t entry) {
    return (uint32_t)entry & 0xffffff;
}
static inline uint32_t shoal_entry_op(uint64_t entry) {
    return (uint32_t)entry >> 24;
}

/* Worker w owns environments shoal_first_env(w) ... shoal_first_env(w + 1) - 1. */
static inline uint32_t shoal_first_env(const shoal_config *config, uint32_t worker) {
    return (uint32_t)((uint64_t)worker * config->num_envs / config->num_workers);
}
static inline uint32_t shoal_num_blocks(uint32_t num_envs, uint32_t batch_size) {
    return batch_size ? (num_envs + batch_size - 1) / batch_size + 2 : 0;
}

/* Bytes of the control block, which must start on a 128-byte boundary; 0 for a config that cannot
 * be (counts out of range, too few blocks, or FIXED and batch_size does not divide num_envs). */
size_t shoal_size(const shoal_config *config);
/* Before any process attaches. */
void shoal_init(void *memory, const shoal_config *config);

/* The parent's side. */
void shoal_parent_attach(shoal_parent *parent, void *memory);
/* How to see that a worker lives; without this its death goes unnoticed. */
void shoal_set_peer(shoal_parent *parent, uint32_t worker, int32_t pid, int32_t pidfd);
/* Give environments to their workers with this op (< SHOAL_COMMAND; 0 is a step). `envs` NULL:
 * 0 ... count - 1. On an error nothing has been posted. OK, RANGE, BUSY or DEAD. */
int shoal_post(shoal_parent *parent, const int64_t *envs, uint32_t count, uint32_t op);
/* Give a command (< 128) with an argument (< 2^24) to a worker, behind what it has to do already.
 * OK, FULL or DEAD. */
int shoal_command(shoal_parent *parent, uint32_t worker, uint32_t command, uint32_t argument);
/* Has the worker done everything it was given? */
int shoal_drained(shoal_parent *parent, uint32_t worker);
/* How many entries it has done, mod 2^32; those that shoal_revive drops count too. */
uint32_t shoal_num_done(const shoal_parent *parent, uint32_t worker);
/* Let every worker's next call return SHOAL_CLOSED, whatever it still has to do. */
void shoal_close(shoal_parent *parent);
/* Wait for the next block, at most until `deadline` (shoal_clock; INT64_MAX: for ever). A block
 * stays valid until the second wait after it is called. OK, or INTERRUPTED, TIMEOUT, DEAD, FAILED
 * or STARVED, after any of which it may be called again. */
int shoal_wait_block(shoal_parent *parent, int64_t deadline, uint32_t *block);
/* The environment in each slot of a block that has been received. */
void shoal_block_envs(const shoal_parent *parent, uint32_t block, int64_t *envs);
/* The environment that worker is at, or SHOAL_NO_ENV: to name one that is stuck. */
uint32_t shoal_current_env(const shoal_parent *parent, uint32_t worker);

/* After SHOAL_DEAD (or when the caller knows better: shoal_bury): for each environment that
 * shoal_outstanding lists, get its place, write what the user shall see there, complete it; then
 * start another process and shoal_revive. Until then shoal_wait_block keeps returning DEAD. In
 * FIXED mode the rows that the worker had kept back (shoal_complete) are lost with it. */
void shoal_bury(shoal_parent *parent, uint32_t worker);
uint32_t shoal_outstanding(const shoal_parent *parent, uint32_t worker, int64_t *envs);
uint32_t shoal_place_of(shoal_parent *parent, uint32_t env);
void shoal_complete_for(shoal_parent *parent, uint32_t env);
/* BUSY unless the worker is dead and all its results have been completed. */
int shoal_revive(shoal_parent *parent, uint32_t worker, int32_t pid, int32_t pidfd);

/* The worker's side. */
size_t shoal_worker_size(void); /* for callers that can't see the struct */
void shoal_worker_attach(shoal_worker *worker, void *memory, uint32_t id);
/* Wait until there is an entry. OK, INTERRUPTED, DEAD (the parent) or CLOSED. */
int shoal_wait_work(shoal_worker *worker);
/* Take the next entry: OK; INTERRUPTED when there is none now; CLOSED. */
int shoal_next(shoal_worker *worker, uint64_t *entry);
/* The place for this entry's result; call once per entry that is no command, when the step has
 * returned. */
uint32_t shoal_claim(shoal_worker *worker, uint64_t entry);
/* The row is written. FIXED mode may keep it back until the worker has done the rest of the block
 * that it was given. */
void shoal_complete(shoal_worker *worker, uint32_t place);
/* The command is carried out. */
void shoal_finish(shoal_worker *worker);
/* Make the parent's wait return SHOAL_FAILED with this code (not 0). The entry in hand is still
 * to be completed. */
void shoal_fail(shoal_worker *worker, uint32_t code);

/* CLOCK_MONOTONIC in nanoseconds. */
int64_t shoal_clock(void);
/* Ask the kernel to send this signal when the thread that created this process ends; 0, or -1
 * where that is unknown. */
int shoal_die_with_parent(int signal_number);

#ifdef __cplusplus
}
#endif
#endif
