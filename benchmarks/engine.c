/* Round trips of empty and busy steps between forked processes; compiled and run by engine.py.
 *
 * Prints for each case the time from posting a batch to having the next one (median, 90th and 99th
 * percentile), the processor time of all processes per batch, and how much of the time that the
 * steps themselves take on all cores the whole run makes use of.
 */
#include "../src/shoal/vectorization/c/sync.c"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/resource.h>

static double draw(uint64_t *state) { /* xorshift64*, uniform in (0, 1] */
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return ((*state * UINT64_C(0x2545F4914F6CDD1D) >> 11) + 1) * 0x1p-53;
}

static void be_busy(int64_t nanoseconds) {
    for (int64_t end = shoal_clock() + nanoseconds; nanoseconds && shoal_clock() < end;)
        ;
}

/* A worker whose steps take `mean` ns: always, or exponentially distributed. */
static void work(void *memory, uint32_t id, int64_t mean, int random) {
    shoal_worker worker;
    uint64_t entry, state = id + 1;
    int result = SHOAL_OK;
    shoal_worker_attach(&worker, memory, id);
    while (result != SHOAL_CLOSED && result != SHOAL_DEAD) {
        result = shoal_wait_work(&worker);
        while (result == SHOAL_OK && (result = shoal_next(&worker, &entry)) == SHOAL_OK) {
            be_busy(random ? (int64_t)(-log(draw(&state)) * (double)mean) : mean);
            shoal_complete(&worker, shoal_claim(&worker, entry));
        }
    }
    _exit(0);
}

static int compare(const void *a, const void *b) {
    return (*(const int64_t *)a > *(const int64_t *)b) -
           (*(const int64_t *)a < *(const int64_t *)b);
}

static double cpu_seconds(int who) {
    struct rusage usage;
    getrusage(who, &usage);
    return usage.ru_utime.tv_sec + usage.ru_stime.tv_sec +
           (usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) * 1e-6;
}

static void run(uint32_t cores, uint32_t workers, uint32_t envs, uint32_t batch, int64_t mean,
                int random, int64_t gap) {
    shoal_config config = {workers,
                           envs,
                           batch,
                           shoal_num_blocks(envs, batch),
                           batch == envs ? SHOAL_FIXED : SHOAL_FIRST,
                           cores,
                           getpid(),
                           0};
    size_t size = shoal_size(&config);
    void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    shoal_parent parent;
    pid_t pids[64];
    int64_t *ids = (int64_t *)malloc(envs * sizeof *ids);
    int count = mean > 50000 ? 4000 : 20000;
    int64_t *times = (int64_t *)malloc(count * sizeof *times);
    uint32_t block;
    double cpu = cpu_seconds(RUSAGE_CHILDREN) + cpu_seconds(RUSAGE_SELF);
    shoal_init(memory, &config);
    shoal_parent_attach(&parent, memory);
    for (uint32_t w = 0; w < workers; w++)
        if (!(pids[w] = fork()))
            work(memory, w, mean, random);
    shoal_post(&parent, NULL, envs, 0);
    int64_t begin = shoal_clock();
    for (int i = -500; i < count; i++) {
        int64_t start = shoal_clock();
        if (i == 0)
            begin = start;
        while (shoal_wait_block(&parent, INT64_MAX, &block) != SHOAL_OK)
            ;
        if (i >= 0)
            times[i] = shoal_clock() - start;
        be_busy(gap);
        start = shoal_clock();
        shoal_block_envs(&parent, block, ids);
        shoal_post(&parent, ids, batch, 0);
        if (i >= 0)
            times[i] += shoal_clock() - start;
    }
    double total = (double)(shoal_clock() - begin);
    shoal_close(&parent);
    for (uint32_t w = 0; w < workers; w++)
        waitpid(pids[w], NULL, 0);
    cpu = cpu_seconds(RUSAGE_CHILDREN) + cpu_seconds(RUSAGE_SELF) - cpu;
    qsort(times, count, sizeof *times, compare);
    printf("%2u workers, %3u envs, batch %3u, step %6.1f us%s, parent %3.0f us: "
           "%8.2f %8.2f %8.2f us, cpu %7.2f us",
           workers, envs, batch, mean / 1e3, random ? " exp." : "     ", gap / 1e3,
           times[count / 2] / 1e3, times[count * 9 / 10] / 1e3, times[count * 99 / 100] / 1e3,
           cpu * 1e6 / (count + 500));
    if (mean)
        printf(", %5.1f %% of ideal",
               100.0 * batch * mean * count / (workers < cores ? workers : cores) / total);
    printf("\n");
    fflush(stdout);
    munmap(memory, size);
    free(ids);
    free(times);
}

int main(int argc, char **argv) {
    uint32_t cores = argc > 1 ? (uint32_t)atoi(argv[1]) : (uint32_t)sysconf(_SC_NPROCESSORS_ONLN);
    run(cores, 1, 8, 8, 0, 0, 0);
    run(cores, 2, 8, 8, 0, 0, 0);
    run(cores, 4, 8, 8, 0, 0, 0);
    run(cores, 2, 64, 64, 0, 0, 0);
    run(cores, 2, 256, 256, 0, 0, 0);
    run(cores, 2, 8, 8, 0, 0, 20000);
    run(cores, 2, 8, 8, 0, 0, 500000);
    run(cores, 2, 8, 8, 1000, 0, 0);
    run(cores, 2, 64, 64, 1000, 0, 0);
    run(cores, 2, 256, 256, 1000, 0, 0);
    run(cores, 2, 8, 8, 10000, 0, 20000);
    run(cores, 2, 8, 4, 1000, 0, 0);
    run(cores, 2, 64, 32, 1000, 0, 0);
    run(cores, 2, 64, 64, 100000, 1, 0);
    run(cores, 2, 64, 32, 100000, 1, 0);
    run(cores, 2, 8, 4, 1000000, 1, 0);
    return 0;
}
