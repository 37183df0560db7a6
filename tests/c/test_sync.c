/* Stress test of src/shoal/vectorization/c/sync.c.
 *
 *     test_sync threads|fork|crash|wakes|orphans SEED ROWS
 *
 * threads  workers are threads, so that ThreadSanitizer sees both sides; ROWS results in all
 * fork     workers are processes
 * crash    workers are processes that kill themselves at random points of the protocol, or are
 *          killed at random instants
 * wakes    wake-ups that the others would not miss
 * orphans  the parent is killed; its workers must notice
 *
 * The first three go through random configurations, in which the points between two steps of a
 * protocol (SHOAL_POINT) take random time. No sleep ends by itself, save in `crash`: a lost wake-up
 * is a hang, which the alarm turns into a failure. What holds of every run:
 *   - each post gives exactly one row, which shows the action of that post (memory is handed over);
 *   - blocks come in order; in FIXED mode with the right environments in the right slots;
 *   - a block received is intact until the second wait after it;
 *   - commands arrive once each, in order; failures are reported no later than their row;
 *   - counters may start anywhere: most runs start them just before they wrap around.
 */
#define _GNU_SOURCE
#include <stdint.h>
static int64_t slice = INT64_MAX / 4;
#define SLICE_MIN slice
#define SLICE_MAX slice
#define WORKER_SLICE slice
#define CHECK_PERIOD slice
static void interfere(void);
#define SHOAL_POINT() interfere()
#include "../../src/shoal/vectorization/c/sync.c"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#define MAX_WORKERS 12
#define MAX_ENVS 40

static _Thread_local uint64_t random_state;
static _Thread_local uint32_t delay_chance, crash_chance; /* one in ... of the points; 0: never */

static uint32_t draw(uint32_t below) { /* xorshift64* */
    random_state ^= random_state >> 12;
    random_state ^= random_state << 25;
    random_state ^= random_state >> 27;
    return (uint32_t)((random_state * UINT64_C(0x2545F4914F6CDD1D)) >> 33) % below;
}

static void seed_with(uint64_t seed) {
    random_state = (seed + 1) * UINT64_C(0x9E3779B97F4A7C15);
    draw(2);
}

static int one_in(uint32_t chance) {
    return chance && draw(chance) == 0;
}

static void interfere(void) {
    if (one_in(crash_chance))
        raise(SIGKILL);
    if (!one_in(delay_chance))
        return;
    switch (draw(4)) {
    case 0: {
        struct timespec time = {0, (long)draw(50000)};
        nanosleep(&time, NULL);
        break;
    }
    case 1:
        sched_yield();
        break;
    default:
        for (uint32_t i = draw(2000); i--;)
            pause_core();
    }
}

#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);                        \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

/* What parent and workers exchange. None of it is atomic: the engine has to hand it over. */
typedef struct {
    uint32_t env, action, op, failures, lost;
} row;

typedef struct {
    shoal_config config;
    int processes, crash, pidfds;
    uint32_t delay_chance, crash_chance;
    uint64_t seed;
    void *memory;
    uint32_t action[MAX_ENVS]; /* written by the parent before each post */
    struct {
        _Alignas(128) uint32_t failures, commands;
    } of_worker[MAX_WORKERS];
    row rows[];
} world;

static void work(world *w, uint32_t id) {
    shoal_worker worker;
    uint32_t next[MAX_ENVS] = {0};
    int result = SHOAL_OK;
    uint64_t entry;
    shoal_worker_attach(&worker, w->memory, id);
    while (result != SHOAL_CLOSED) {
        result = shoal_wait_work(&worker);
        CHECK(result != SHOAL_DEAD);
        while (result == SHOAL_OK && (result = shoal_next(&worker, &entry)) == SHOAL_OK) {
            uint32_t e = shoal_entry_env(entry), op = shoal_entry_op(entry);
            if (op >= SHOAL_COMMAND) {
                CHECK(op == (SHOAL_COMMAND | 5));
                CHECK(w->crash || e == w->of_worker[id].commands);
                w->of_worker[id].commands = e + 1;
                shoal_finish(&worker);
                continue;
            }
            CHECK(e >= shoal_first_env(&w->config, id));
            CHECK(e < shoal_first_env(&w->config, id + 1));
            CHECK(w->crash || w->action[e] == next[e]);
            next[e] = w->action[e] + 1;
            if (one_in(w->delay_chance))
                interfere();
            uint32_t place = shoal_claim(&worker, entry);
            row *r = &w->rows[place];
            r->failures = 0;
            if (one_in(500)) {
                r->failures = ++w->of_worker[id].failures;
                shoal_fail(&worker, r->failures);
            }
            r->env = e;
            r->action = w->action[e];
            r->op = op;
            r->lost = 0;
            interfere();
            shoal_complete(&worker, place);
        }
    }
}

typedef struct {
    world *world;
    uint32_t id, generation;
} start;

static void *work_in_thread(void *argument) {
    start *s = (start *)argument;
    world *w = s->world;
    seed_with(w->seed + s->id + 1000 * s->generation);
    delay_chance = w->delay_chance;
    crash_chance = w->crash_chance;
    work(w, s->id);
    return NULL;
}

static pid_t fork_worker(world *w, uint32_t id, uint32_t generation, int32_t *pidfd) {
    pid_t pid = fork();
    if (!pid) {
        start s = {w, id, generation};
        work_in_thread(&s);
        _exit(0);
    }
    *pidfd = -1;
#ifdef SYS_pidfd_open
    if (w->pidfds)
        *pidfd = (int32_t)syscall(SYS_pidfd_open, pid, 0);
#endif
    return pid;
}

/* The parent. Posts and receives until `num_rows` rows have come; returns the deaths seen. */
static uint32_t conduct(world *w, uint64_t num_rows) {
    const shoal_config *c = &w->config;
    uint32_t posted[MAX_ENVS] = {0}, ops[MAX_ENVS] = {0}, in_flight = 0, deaths = 0;
    uint32_t commands[MAX_WORKERS] = {0}, reported[MAX_WORKERS] = {0};
    uint32_t block, expected = 0, group = 0, num_groups = c->num_envs / c->batch_size;
    int64_t ids[MAX_ENVS], idle[MAX_ENVS];
    int32_t num_idle = 0;
    row held[2][MAX_ENVS];
    uint32_t held_block[2] = {UINT32_MAX, UINT32_MAX};
    pthread_t threads[MAX_WORKERS];
    start starts[MAX_WORKERS];
    pid_t pids[MAX_WORKERS];
    int32_t pidfds[MAX_WORKERS];
    uint64_t received = 0;
    int closing = 0;
    shoal_parent parent;

    shoal_init(w->memory, c);
    shoal_parent_attach(&parent, w->memory);
    for (uint32_t i = 0; i < c->num_workers; i++) {
        starts[i] = (start){w, i, 0};
        if (w->processes) {
            pids[i] = fork_worker(w, i, 0, &pidfds[i]);
            shoal_set_peer(&parent, i, pids[i], pidfds[i]);
        } else {
            CHECK(pthread_create(&threads[i], NULL, work_in_thread, &starts[i]) == 0);
        }
    }
    for (uint32_t e = 0; e < c->num_envs; e++)
        idle[num_idle++] = e;

    while (!closing) {
        /* Post: FIXED, all that is idle; FIRST, at least as much as the next block needs. Some of
         * it apart, in any order. */
        for (int32_t i = num_idle - 1; i > 0; i--) {
            int32_t j = (int32_t)draw((uint32_t)i + 1);
            int64_t swap = idle[i];
            idle[i] = idle[j];
            idle[j] = swap;
        }
        uint32_t least = c->mode == SHOAL_FIXED      ? (uint32_t)num_idle
                         : in_flight < c->batch_size ? c->batch_size - in_flight
                                                     : 0;
        while (least || (num_idle && draw(2))) {
            uint32_t count = 1 + draw((uint32_t)num_idle), op = draw(3);
            int result;
            for (uint32_t i = 0; i < count; i++) {
                w->action[idle[num_idle - 1 - (int32_t)i]] =
                    posted[idle[num_idle - 1 - (int32_t)i]];
                ops[idle[num_idle - 1 - (int32_t)i]] = op;
            }
            result = shoal_post(&parent, idle + num_idle - count, count, op);
            CHECK(result == SHOAL_OK);
            num_idle -= (int32_t)count;
            in_flight += count;
            least -= least < count ? least : count;
            for (uint32_t i = 0; i < count; i++)
                posted[idle[num_idle + (int32_t)i]]++;
            if (one_in(50)) { /* what is in flight cannot be posted, and nothing else is then */
                int64_t twice[2] = {num_idle ? idle[0] : -1, idle[num_idle]};
                CHECK(shoal_post(&parent, twice, 2, 0) == (num_idle ? SHOAL_BUSY : SHOAL_RANGE));
            }
        }
        if (one_in(20)) {
            uint32_t worker = draw(c->num_workers);
            int result = shoal_command(&parent, worker, 5, commands[worker]);
            CHECK(result == SHOAL_OK || result == SHOAL_FULL);
            if (result == SHOAL_OK)
                commands[worker]++;
        }

        if (w->crash && one_in(300)) /* at any instant, not only at the points */
            kill(pids[draw(c->num_workers)], SIGKILL);
        for (uint32_t h = 0; h < 2; h++) /* both blocks held are as they were */
            if (held_block[h] != UINT32_MAX)
                CHECK(!memcmp(held[h], &w->rows[held_block[h] * c->batch_size],
                              c->batch_size * sizeof(row)));

        int64_t deadline = one_in(10) ? shoal_clock() + draw(100000) : INT64_MAX;
        int result = shoal_wait_block(&parent, deadline, &block);
        if (result == SHOAL_INTERRUPTED || result == SHOAL_TIMEOUT)
            continue;
        if (result == SHOAL_FAILED) {
            reported[parent.culprit] = parent.error;
            continue;
        }
        if (result == SHOAL_DEAD) {
            uint32_t dead = parent.culprit;
            int64_t lost[MAX_ENVS];
            int status;
            CHECK(w->crash);
            CHECK(waitpid(pids[dead], &status, 0) == pids[dead] && WIFSIGNALED(status));
            CHECK(shoal_wait_block(&parent, INT64_MAX, &block) == SHOAL_DEAD);
            uint32_t count = shoal_outstanding(&parent, dead, lost);
            if (count)
                CHECK(shoal_revive(&parent, dead, 0, -1) == SHOAL_BUSY);
            for (uint32_t i = 0; i < count; i++) {
                uint32_t place = shoal_place_of(&parent, (uint32_t)lost[i]);
                CHECK(shoal_place_of(&parent, (uint32_t)lost[i]) == place || c->mode);
                w->rows[place] = (row){(uint32_t)lost[i], 0, 0, 0, 1};
                shoal_complete_for(&parent, (uint32_t)lost[i]);
            }
            if (pidfds[dead] >= 0)
                close(pidfds[dead]);
            CHECK(shoal_revive(&parent, dead, 0, -1) == SHOAL_OK);
            commands[dead] = 0;
            deaths++;
            pids[dead] = fork_worker(w, dead, deaths, &pidfds[dead]);
            shoal_set_peer(&parent, dead, pids[dead], pidfds[dead]);
            continue;
        }
        CHECK(result == SHOAL_OK);
        CHECK(block == expected);
        expected = (expected + 1) % c->num_blocks;
        shoal_block_envs(&parent, block, ids);
        for (uint32_t i = 0; i < c->batch_size; i++) {
            row *r = &w->rows[block * c->batch_size + i];
            uint32_t e = (uint32_t)ids[i];
            CHECK(e < c->num_envs);
            CHECK(r->env == e);
            CHECK(c->mode == SHOAL_FIRST || e == group * c->batch_size + i);
            for (int32_t j = 0; j < num_idle; j++)
                CHECK(idle[j] != ids[i]);
            if (!r->lost) {
                uint32_t worker = 0;
                while (e >= shoal_first_env(c, worker + 1))
                    worker++;
                CHECK(r->action == posted[e] - 1);
                CHECK(r->op == ops[e]);
                CHECK(w->crash || r->failures <= reported[worker]);
            } else {
                CHECK(w->crash);
            }
            idle[num_idle++] = ids[i];
        }
        in_flight -= c->batch_size;
        group = (group + 1) % (num_groups ? num_groups : 1);
        held_block[1] = held_block[0];
        memcpy(held[1], held[0], sizeof held[0]);
        held_block[0] = block;
        memcpy(held[0], &w->rows[block * c->batch_size], c->batch_size * sizeof(row));
        received += c->batch_size;
        closing = received >= num_rows;
        if (one_in(delay_chance))
            interfere();
    }
    if (!w->crash) /* all commands arrive, unless closing comes first */
        for (uint32_t i = 0; i < c->num_workers; i++)
            while (!shoal_drained(&parent, i))
                sched_yield();
    shoal_close(&parent);
    for (uint32_t i = 0; i < c->num_workers; i++) {
        if (w->processes) {
            int status;
            CHECK(waitpid(pids[i], &status, 0) == pids[i]);
            CHECK(status == 0 || (w->crash && WTERMSIG(status) == SIGKILL));
            if (pidfds[i] >= 0)
                close(pidfds[i]);
        } else {
            pthread_join(threads[i], NULL);
        }
        if (!w->crash)
            CHECK(w->of_worker[i].commands == commands[i]);
    }
    return deaths;
}

static world *make_world(shoal_config config) {
    size_t rows = (size_t)config.num_blocks * config.batch_size * sizeof(row);
    size_t control = shoal_size(&config);
    CHECK(control != 0);
    world *w = (world *)mmap(NULL, sizeof(world) + rows, PROT_READ | PROT_WRITE,
                             MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    void *memory = mmap(NULL, control, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(w != MAP_FAILED && memory != MAP_FAILED);
    w->config = config;
    w->memory = memory;
    return w;
}

static void free_world(world *w) {
    shoal_config config = w->config;
    munmap(w->memory, shoal_size(&config));
    munmap(w, sizeof(world) + (size_t)config.num_blocks * config.batch_size * sizeof(row));
}

static shoal_config random_config(void) {
    static const uint32_t divisors[] = {1, 1, 2, 3, 4};
    shoal_config config = {0};
    config.num_workers = one_in(2) ? 1 + draw(3) : 1 + draw(MAX_WORKERS);
    config.mode = draw(2);
    if (config.mode == SHOAL_FIXED) {
        uint32_t groups = divisors[draw(5)];
        config.batch_size =
            (config.num_workers + groups - 1) / groups + draw(MAX_ENVS / groups / 4);
        config.num_envs = config.batch_size * groups;
    } else {
        config.num_envs = config.num_workers + draw(MAX_ENVS - config.num_workers + 1);
        config.batch_size = 1 + draw(config.num_envs);
    }
    config.num_blocks = shoal_num_blocks(config.num_envs, config.batch_size) + draw(2);
    config.cores = draw(2) ? draw(MAX_WORKERS + 2) : draw(3);
    config.epoch = draw(4) ? 0u - draw(50) : draw(1000);
    return config;
}

static void stress(const char *mode, uint64_t seed, uint64_t num_rows) {
    uint32_t runs = 0, deaths = 0;
    uint64_t left = num_rows;
    int crash = !strcmp(mode, "crash");
    if (crash)
        slice = MILLISECOND;
    while (left) {
        seed_with(seed + runs);
        shoal_config config = random_config();
        uint64_t rows = num_rows / 40 + 1 < left ? num_rows / 40 + 1 : left;
        world *w = make_world(config);
        w->processes = strcmp(mode, "threads") != 0;
        w->crash = crash;
        w->pidfds = (int)draw(2);
        w->seed = seed + runs * 77;
        w->delay_chance = draw(3) ? 1u << (2 + draw(10)) : 0;
        w->crash_chance = crash ? 50 + draw(500) : 0;
        delay_chance = w->delay_chance;
        if (getenv("VERBOSE"))
            fprintf(stderr, "workers %u envs %u batch %u mode %u cores %u epoch %x delay %u\n",
                    config.num_workers, config.num_envs, config.batch_size, config.mode,
                    config.cores, config.epoch, w->delay_chance);
        deaths += conduct(w, rows);
        free_world(w);
        left -= rows;
        runs++;
    }
    CHECK(!crash || deaths > 0);
    printf("%s: %llu rows, %u configurations, %u deaths\n", mode, (unsigned long long)num_rows,
           runs, deaths);
}

static void take(shoal_worker *worker, world *w, uint32_t id, uint64_t *entry) {
    shoal_worker_attach(worker, w->memory, id);
    CHECK(shoal_wait_work(worker) == SHOAL_OK);
    CHECK(shoal_next(worker, entry) == SHOAL_OK);
}

static void *fail_then_wait(void *argument) {
    world *w = (world *)argument;
    shoal_worker worker;
    uint64_t entry, command;
    take(&worker, w, 1, &entry);
    usleep(50000); /* let the parent fall asleep */
    shoal_fail(&worker, 7);
    CHECK(shoal_wait_work(&worker) == SHOAL_OK); /* until it has heard */
    CHECK(shoal_next(&worker, &command) == SHOAL_OK);
    return NULL;
}

static void *complete_late(void *argument) {
    world *w = (world *)argument;
    shoal_worker worker;
    uint64_t entry;
    take(&worker, w, 0, &entry);
    usleep(200000);
    shoal_complete(&worker, shoal_claim(&worker, entry));
    return NULL;
}

/* A failure wakes the parent before the row is complete. Then this worker dies; the parent fills
 * its row and sleeps until the other one completes its own, which is not the last that
 * remaining[] counts. */
static void wakes(void) {
    for (uint32_t mode = SHOAL_FIXED; mode <= SHOAL_FIRST; mode++) {
        shoal_config config = {2, 2, 2, 3, mode, 0, 0, 0};
        world *w = make_world(config);
        shoal_parent parent;
        pthread_t threads[2];
        uint32_t block;
        int64_t lost;
        shoal_init(w->memory, &config);
        shoal_parent_attach(&parent, w->memory);
        CHECK(shoal_wait_block(&parent, INT64_MAX, &block) == SHOAL_STARVED);
        shoal_post(&parent, NULL, 2, 0);
        pthread_create(&threads[0], NULL, complete_late, w);
        pthread_create(&threads[1], NULL, fail_then_wait, w);
        CHECK(shoal_wait_block(&parent, INT64_MAX, &block) == SHOAL_FAILED);
        CHECK(parent.culprit == 1 && parent.error == 7);
        CHECK(shoal_current_env(&parent, 1) == 1);
        CHECK(shoal_command(&parent, 1, 0, 0) == SHOAL_OK);
        pthread_join(threads[1], NULL);
        shoal_bury(&parent, 1);
        CHECK(shoal_wait_block(&parent, INT64_MAX, &block) == SHOAL_DEAD && parent.culprit == 1);
        CHECK(shoal_outstanding(&parent, 1, &lost) == 1 && lost == 1);
        shoal_place_of(&parent, 1);
        shoal_complete_for(&parent, 1);
        CHECK(shoal_revive(&parent, 1, 0, -1) == SHOAL_OK);
        CHECK(shoal_wait_block(&parent, INT64_MAX, &block) == SHOAL_OK && block == 0);
        pthread_join(threads[0], NULL);
        free_world(w);
    }
    printf("wakes: all came\n");
}

/* Workers that wait, and one that is in the middle of a step, notice that the parent is gone. */
static void orphans(void) {
    int ends[2];
    char byte;
    pid_t pid;
    slice = 20 * MILLISECOND;
    CHECK(pipe(ends) == 0);
    pid = fork();
    if (!pid) {
        shoal_config config = {3, 3, 3, 3, SHOAL_FIXED, 2, getpid(), 0};
        world *w = make_world(config);
        shoal_parent parent;
        shoal_init(w->memory, &config);
        shoal_parent_attach(&parent, w->memory);
        shoal_post(&parent, NULL, 3, 0);
        for (uint32_t id = 0; id < 3; id++)
            if (!fork()) {
                shoal_worker worker;
                uint64_t entry;
                int result;
                shoal_worker_attach(&worker, w->memory, id);
                CHECK(shoal_wait_work(&worker) == SHOAL_OK);
                CHECK(shoal_next(&worker, &entry) == SHOAL_OK);
                CHECK(write(ends[1], "x", 1) == 1);
                if (id == 2)
                    usleep(200000);
                shoal_complete(&worker, shoal_claim(&worker, entry));
                do {
                    result = shoal_wait_work(&worker);
                } while (result == SHOAL_INTERRUPTED);
                CHECK(result == SHOAL_DEAD);
                CHECK(write(ends[1], "d", 1) == 1);
                _exit(0);
            }
        for (;;)
            pause();
    }
    close(ends[1]);
    for (int i = 0; i < 3; i++)
        CHECK(read(ends[0], &byte, 1) == 1 && byte == 'x');
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    for (int i = 0; i < 3; i++)
        CHECK(read(ends[0], &byte, 1) == 1 && byte == 'd');
    CHECK(read(ends[0], &byte, 1) == 0);
    printf("orphans: all noticed\n");
}

int main(int argc, char **argv) {
    CHECK(argc == 4);
    alarm(500);
    if (!strcmp(argv[1], "orphans"))
        orphans();
    else if (!strcmp(argv[1], "wakes"))
        wakes();
    else
        stress(argv[1], strtoull(argv[2], NULL, 0), strtoull(argv[3], NULL, 0));
    return 0;
}
