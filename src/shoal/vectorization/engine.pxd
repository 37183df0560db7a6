from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t


cdef extern from "c/sync.h" nogil:
    enum:
        SHOAL_FIXED
        SHOAL_FIRST
        SHOAL_COMMAND
        SHOAL_OK
        SHOAL_INTERRUPTED
        SHOAL_TIMEOUT
        SHOAL_DEAD
        SHOAL_FAILED
        SHOAL_CLOSED
        SHOAL_NO_PLACE
        SHOAL_BUSY
        SHOAL_FULL
        SHOAL_NO_ENV

    ctypedef struct shoal_config:
        uint32_t num_workers, num_envs, batch_size, num_blocks
        uint32_t mode, cores
        int32_t parent_pid
        uint32_t epoch

    ctypedef struct shoal_parent:
        uint32_t culprit, error

    ctypedef struct shoal_worker:
        pass

    uint32_t shoal_entry_env(uint64_t entry)
    uint32_t shoal_entry_op(uint64_t entry)
    uint32_t shoal_num_blocks(uint32_t num_envs, uint32_t batch_size)
    size_t shoal_size(const shoal_config* config)
    void shoal_init(void* memory, const shoal_config* config)
    void shoal_parent_attach(shoal_parent* parent, void* memory)
    void shoal_set_peer(shoal_parent* parent, uint32_t worker, int32_t pid, int32_t pidfd)
    int shoal_post(shoal_parent* parent, const int32_t* envs, uint32_t count, uint32_t op)
    int shoal_command(shoal_parent* parent, uint32_t worker, uint32_t command, uint32_t argument)
    void shoal_close(shoal_parent* parent)
    int shoal_wait_block(shoal_parent* parent, int64_t deadline, uint32_t* block)
    void shoal_block_envs(const shoal_parent* parent, uint32_t block, int32_t* envs)
    uint32_t shoal_current_env(const shoal_parent* parent, uint32_t worker)
    void shoal_bury(shoal_parent* parent, uint32_t worker)
    uint32_t shoal_outstanding(const shoal_parent* parent, uint32_t worker, int32_t* envs)
    uint32_t shoal_place_of(shoal_parent* parent, uint32_t env)
    void shoal_complete_for(shoal_parent* parent, uint32_t env)
    int shoal_revive(shoal_parent* parent, uint32_t worker, int32_t pid, int32_t pidfd)
    void shoal_worker_attach(shoal_worker* worker, void* memory, uint32_t id)
    int shoal_wait_work(shoal_worker* worker)
    int shoal_next(shoal_worker* worker, uint64_t* entry)
    uint32_t shoal_claim(shoal_worker* worker, uint64_t entry)
    void shoal_complete(shoal_worker* worker, uint32_t place)
    void shoal_finish(shoal_worker* worker)
    void shoal_fail(shoal_worker* worker, uint32_t code)
    int64_t shoal_clock()
    int shoal_die_with_parent(int signal_number)
