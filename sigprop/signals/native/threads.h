/* Work in pieces, done by the threads that PyTorch computes with: they are awake already. A piece
   depends on nothing but its index, so that numbers are the same with any number of threads. */

enum { GRAIN = 32768 }; /* elements below which waking a thread costs more than it saves */

/* How GNU OpenMP, and what is compatible with it, runs a function in several threads. */
typedef void run_parallel(void (*work)(void *), void *data, unsigned threads, unsigned flags);

static run_parallel *thread_pool;

void sigprop_set_thread_pool(run_parallel *found) {
    thread_pool = found;
}

struct job {
    void (*piece)(const void *what, int64_t index);
    const void *what;
    int64_t pieces, next;
};

static void work(void *data) {
    struct job *job = data;
    for (int64_t i; (i = __atomic_fetch_add(&job->next, 1, __ATOMIC_RELAXED)) < job->pieces;)
        job->piece(job->what, i);
}

/* Do all pieces; it returns when they are done. */
static void share(int threads, int64_t elements, int64_t pieces,
                  void (*piece)(const void *what, int64_t index), const void *what) {
    struct job job = {piece, what, pieces, 0};
    if (thread_pool && threads > 1 && pieces > 1 && elements >= GRAIN)
        thread_pool(work, &job, pieces < threads ? (unsigned)pieces : (unsigned)threads, 0);
    else
        work(&job);
}
