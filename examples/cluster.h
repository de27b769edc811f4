/* cluster.h - the processes of one training run, on one machine or many: who does which share, and the few
 * things that they do together. With LENSNET_MPI they are the ranks of MPI_COMM_WORLD; without it there is
 * one process, everything is its share, and the same calls do nothing.
 *
 * Every rank runs the same program on the same numbers. Rank 0 alone is seen: the others print nothing
 * (their sentence at the end excepted) and write no file, and what they read through cluster_host() comes
 * from rank 0. What can fail on one rank alone is followed by cluster_meet(), where all hear of it. Between it
 * and the call that then shares something, nothing may fail. A rank that fails elsewhere goes to its next
 * cluster_meet(), which is where the others are. Only the gradient is shared while something may fail: who fails
 * then takes part in it with nonsense, and all hear of it afterwards.
 *
 * Include system.h, lensnet.h and dataset.h first. */
#ifndef CLUSTER_H
#define CLUSTER_H

#include "shards.h"

#ifdef LENSNET_MPI
#include <mpi.h>
#endif

/* There is one of it, as there is one set of ranks. */
typedef struct cluster_state {
    int rank, ranks;
    int ended;         /* the sentence that ends the run is known to all */
    lensnet_error end; /* that sentence */
    int voice; /* where the sentences of a rank that is not seen go: a descriptor of stderr */
    lensnet_host host; /* what cluster_host() replaced */
} cluster_state;

static cluster_state cluster = {0, 1, 0, {LENSNET_OK, ""}, 2, {0}};

SHARDS_API int cluster_leads(void) { return cluster.rank == 0; }

/* This rank's share of `count` things that are dealt out in order. */
SHARDS_API void cluster_share(size_t *first, size_t *end, size_t count)
{
    *first = shards_first(count, (size_t)cluster.rank, (size_t)cluster.ranks);
    *end = shards_first(count, (size_t)cluster.rank + 1, (size_t)cluster.ranks);
}

/* The sum that is under way: see cluster_begin_sum(). */
typedef struct cluster_summing {
    float *total, *room;
    shards_sum *mine;
    size_t shards, shard, count;
    int blocks, begun, added, failed;
} cluster_summing;

static cluster_summing cluster_sum;

static int cluster_blocks(size_t count);

/* The gradient of the whole batch is going to be `total`, `count` values, which hold the gradient of this
 * process's last shard when that is computed; `mine` has its other shards, `room` is that of cluster_room().
 * All must have met: from here to cluster_end_sum() every rank must come. Between, cluster_complete() may be told
 * what of the gradient is complete, and it is sent then. */
SHARDS_API void cluster_begin_sum(float *total, shards_sum *mine, float *room, size_t shards,
                                  size_t shard, size_t count)
{
    memset(&cluster_sum, 0, sizeof cluster_sum);
    cluster_sum.total = total;
    cluster_sum.room = room;
    cluster_sum.mine = mine;
    cluster_sum.shards = shards;
    cluster_sum.shard = shard;
    cluster_sum.count = count;
    cluster_sum.blocks = cluster_blocks(count);
}

#ifndef LENSNET_MPI

SHARDS_API void cluster_open(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
}
SHARDS_API void cluster_close(int good, const lensnet_error *error)
{
    (void)good;
    (void)error;
}
SHARDS_API int cluster_meet(int good, int *stop, lensnet_error *error)
{
    (void)stop;
    (void)error;
    return good;
}
SHARDS_API int cluster_agree(uint64_t value, const char *what, lensnet_error *error)
{
    (void)value;
    (void)what;
    (void)error;
    return 1;
}
SHARDS_API void cluster_count(uint64_t *number) { (void)number; }
SHARDS_API void cluster_gather(void *items, size_t bytes, size_t count)
{
    (void)items;
    (void)bytes;
    (void)count;
}
SHARDS_API void cluster_gather_blocks(void *items, size_t bytes, size_t block, size_t count)
{
    (void)items;
    (void)bytes;
    (void)block;
    (void)count;
}
SHARDS_API void cluster_host(lensnet_host *host) { (void)host; }
static int cluster_blocks(size_t count)
{
    (void)count;
    return 1;
}
SHARDS_API float *cluster_room(size_t shards, size_t count)
{
    (void)shards;
    (void)count;
    return (float *)malloc(sizeof(float));
}
SHARDS_API void cluster_complete(size_t first, void *user)
{
    (void)first;
    (void)user;
}
SHARDS_API void cluster_end_sum(int good)
{
    shards_sum *mine = cluster_sum.mine;
    if (!good) return;
    shards_push(mine, cluster_sum.shard, cluster_sum.total, cluster_sum.count);
    shards_fold(mine, cluster_sum.count, 1);
    memcpy(cluster_sum.total, mine->nodes[0].values, cluster_sum.count * sizeof *cluster_sum.total);
}

#else

static MPI_Request *cluster_requests; /* of one sum */
static size_t cluster_others,
    cluster_request_count; /* nodes of the other ranks; requests of a block */

/* ---- beginning and end --------------------------------------------------------------------------- */

/* Says a sentence though this rank is not seen. */
static void cluster_say(const char *kind, const char *text)
{
    char line[700];
    int length = snprintf(line, sizeof line, "%s: rank %d of %d: %s\n", kind, cluster.rank,
                          cluster.ranks, text);
    if (length > (int)sizeof line - 1) length = (int)sizeof line - 1;
    if (write(cluster.voice, line, (size_t)length) < 0) return; /* nobody listens */
}

/* MPI itself has failed: there is no way to tell the others but to end them. */
static void cluster_check(int code)
{
    char reason[MPI_MAX_ERROR_STRING + 1] = "", text[600];
    int length = 0;
    if (code == MPI_SUCCESS) return;
    MPI_Error_string(code, reason, &length);
    snprintf(text, sizeof text,
             "MPI cannot go on (%.300s): has a rank died? All ranks end; go on with --resume",
             reason);
    cluster_say("error", text);
    MPI_Abort(MPI_COMM_WORLD, 1);
}

/* A launcher ends the ranks that are left when one has died; each says so. */
static void cluster_on_end(int signal_number)
{
    static char line[160];
    const int before = errno;
    if (signal_number == SIGTERM) {
        size_t length;
        if (!line[0])
            snprintf(line, sizeof line,
                     "error: rank %d of %d: told to end: another rank has died, or the run was "
                     "cancelled; go on with --resume\n",
                     cluster.rank, cluster.ranks);
        length = strlen(line);
        if (write(cluster.voice, line, length) < 0) errno = before;
    }
    system_on_signal(signal_number);
    errno = before;
}

static void cluster_leave(void)
{
    int finalized = 0;
    MPI_Finalized(&finalized);
    if (!finalized) MPI_Finalize();
}

/* Takes MPI's own words off the command line; ranks but 0 fall silent. Call it after
 * system_catch_interrupts(). SIGUSR1 then stops a run as Ctrl-C does one of a single process. */
SHARDS_API void cluster_open(int *argc, char ***argv)
{
    struct sigaction action;
    int provided;
    if (MPI_Init_thread(argc, argv, MPI_THREAD_FUNNELED, &provided) != MPI_SUCCESS) exit(1);
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
    MPI_Comm_rank(MPI_COMM_WORLD, &cluster.rank);
    MPI_Comm_size(MPI_COMM_WORLD, &cluster.ranks);
    atexit(cluster_leave);
    cluster.voice = dup(STDERR_FILENO);
    if (!cluster_leads() &&
        (!freopen("/dev/null", "w", stdout) || !freopen("/dev/null", "w", stderr)))
        cluster_say("warning", "/dev/null cannot be opened");
    memset(&action, 0, sizeof action);
    sigemptyset(&action.sa_mask);
    action.sa_flags = SA_RESTART;
    action.sa_handler = cluster_on_end;
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGUSR1, &action, NULL);
}

/* ---- together ------------------------------------------------------------------------------------ */

/* Everybody says whether all is `good`, and whether he wishes to `stop` (NULL: no), and hears whether all are
 * good, and whether one wishes it. 0 for all if it is 0 for one; `error` is then that one's for all. */
SHARDS_API int cluster_meet(int good, int *stop, lensnet_error *error)
{
    int said[2], heard[2];
    if (cluster.ended) {
        *error = cluster.end;
        return 0;
    }
    said[0] = good ? 0 : cluster.ranks - cluster.rank; /* of several the first */
    said[1] = stop && *stop;
    cluster_check(MPI_Allreduce(said, heard, 2, MPI_INT, MPI_MAX, MPI_COMM_WORLD));
    if (stop) *stop = heard[1];
    if (!heard[0]) return 1;
    cluster.ended = 1;
    cluster.end = *error;
    cluster_check(MPI_Bcast(&cluster.end, (int)sizeof cluster.end, MPI_BYTE,
                            cluster.ranks - heard[0], MPI_COMM_WORLD));
    *error = cluster.end;
    return 0;
}

/* Is a value the same on all ranks? `what` it is, for the sentence. */
SHARDS_API int cluster_agree(uint64_t value, const char *what, lensnet_error *error)
{
    uint64_t first = value;
    cluster_check(MPI_Bcast(&first, 8, MPI_BYTE, 0, MPI_COMM_WORLD));
    return cluster_meet(first == value ||
                            dataset_fail(error,
                                         "%s differ from those of rank 0; every machine "
                                         "must see the same files",
                                         what),
                        NULL, error);
}

/* A number of every rank's share becomes that of the whole. */
SHARDS_API void cluster_count(uint64_t *number)
{
    cluster_check(MPI_Allreduce(MPI_IN_PLACE, number, 1, MPI_UINT64_T, MPI_SUM, MPI_COMM_WORLD));
}

/* Of `count` items of `bytes` each, which were dealt out in blocks of `block`, every rank has made its
 * cluster_share() of the blocks where they belong; now all have all. Without memory for two small tables the
 * run ends. */
SHARDS_API void cluster_gather_blocks(void *items, size_t bytes, size_t block, size_t count)
{
    const size_t blocks = (count + block - 1) / block;
    int *counts = (int *)malloc(2 * (size_t)cluster.ranks * sizeof *counts), k;
    MPI_Datatype item;
    if (!counts) cluster_check(MPI_ERR_NO_MEM);
    for (k = 0; k < cluster.ranks; k++) {
        const size_t first = block * shards_first(blocks, (size_t)k, (size_t)cluster.ranks);
        const size_t end = block * shards_first(blocks, (size_t)k + 1, (size_t)cluster.ranks);
        counts[cluster.ranks + k] = (int)(first < count ? first : count);
        counts[k] = (int)(end < count ? end : count) - counts[cluster.ranks + k];
    }
    MPI_Type_contiguous((int)bytes, MPI_BYTE, &item);
    MPI_Type_commit(&item);
    cluster_check(MPI_Allgatherv(MPI_IN_PLACE, 0, item, items, counts, counts + cluster.ranks, item,
                                 MPI_COMM_WORLD));
    MPI_Type_free(&item);
    free(counts);
}

/* The same for items that were dealt out one by one. */
SHARDS_API void cluster_gather(void *items, size_t bytes, size_t count)
{
    cluster_gather_blocks(items, bytes, 1, count);
}

/* ---- files --------------------------------------------------------------------------------------- */

/* A file as the ranks have it: rank 0 the file, the others its size. */
typedef struct cluster_file {
    void *file; /* NULL but on rank 0 */
    uint64_t size;
    int writing;
} cluster_file;

static void *cluster_file_open(const char *path, int writing, void *user)
{
    cluster_file *f = (cluster_file *)calloc(1, sizeof *f);
    lensnet_error none;
    uint64_t answer[2] = {0, 0}; /* it is open; its size */
    memset(&none, 0, sizeof none);
    if (f && cluster_leads()) f->file = cluster.host.file_open(path, writing, user);
    if (writing) {
        if (f && (f->file || !cluster_leads())) {
            f->writing = 1;
            return f;
        }
        free(f);
        return NULL;
    }
    dataset_fail(&none, "%.400s: no memory", path);
    if (!cluster_meet(f != NULL, NULL, &none)) {
        if (f && f->file) cluster.host.file_close(f->file, 0, user);
        free(f);
        return NULL;
    }
    if (f->file) {
        answer[0] = 1;
        answer[1] = cluster.host.file_size(f->file, user);
    }
    cluster_check(MPI_Bcast(answer, sizeof answer, MPI_BYTE, 0, MPI_COMM_WORLD));
    f->size = answer[1];
    if (answer[0]) return f;
    free(f);
    return NULL;
}

static uint64_t cluster_file_size(void *file, void *user)
{
    (void)user;
    return ((const cluster_file *)file)->size;
}

/* All ranks read the same, and get it from rank 0. */
static int cluster_file_read(void *file, uint64_t offset, void *bytes, size_t count, void *user)
{
    const cluster_file *f = (const cluster_file *)file;
    lensnet_error none;
    int failed = 0;
    if (!cluster_meet(1, NULL, &none)) return 1;
    if (f->file) failed = cluster.host.file_read(f->file, offset, bytes, count, user);
    cluster_check(MPI_Bcast(&failed, 1, MPI_INT, 0, MPI_COMM_WORLD));
    for (; !failed && count; count -= offset, bytes = (char *)bytes + offset) {
        offset = count < ((size_t)1 << 30) ? count : (size_t)1 << 30;
        cluster_check(MPI_Bcast(bytes, (int)offset, MPI_BYTE, 0, MPI_COMM_WORLD));
    }
    return failed;
}

static int cluster_file_write(void *file, const void *bytes, size_t count, void *user)
{
    const cluster_file *f = (const cluster_file *)file;
    return f->file ? cluster.host.file_write(f->file, bytes, count, user) : 0;
}

static int cluster_file_close(void *file, int commit, void *user)
{
    cluster_file *f = (cluster_file *)file;
    const int failed = f->file ? cluster.host.file_close(f->file, commit, user) : 0;
    free(f);
    return failed;
}

/* From now on rank 0 alone has files; the others read what it reads, and what they write is nothing. */
SHARDS_API void cluster_host(lensnet_host *host)
{
    cluster.host = *host;
    host->file_open = cluster_file_open;
    host->file_size = cluster_file_size;
    host->file_read = cluster_file_read;
    host->file_write = cluster_file_write;
    host->file_close = cluster_file_close;
}

/* ---- the sum over shards -------------------------------------------------------------------------
 * The gradient is cut into blocks, from its end, which is complete first. Of every block each rank adds one
 * slice: it gets that slice of all nodes of the other ranks, and sends them the sum. */

enum {
    CLUSTER_BLOCKS = 16,
    CLUSTER_LEAST = 32768 /* values of a message, unless all is one block */
};

typedef struct cluster_block {
    size_t first, count; /* values of the gradient */
    shards_sum mine;     /* what this rank has of them */
    float *room;         /* a slice of every node of the other ranks */
    MPI_Request *requests;
    int arrived, exchanged,
        sent; /* requests: of nodes those that are done, and all; all of the block */
} cluster_block;

static cluster_block cluster_block_list[CLUSTER_BLOCKS];

/* Blocks of a gradient: so few that messages are no smaller than pays. */
static int cluster_blocks(size_t count)
{
    const size_t most = count / ((size_t)CLUSTER_LEAST * (size_t)cluster.ranks);
    return most < 1 ? 1 : most > CLUSTER_BLOCKS ? CLUSTER_BLOCKS : (int)most;
}

/* The nodes that a rank comes to. */
static void cluster_nodes(shards_sum *nodes, size_t shards, int rank)
{
    int most;
    shards_plan(nodes, &most, shards_first(shards, (size_t)rank, (size_t)cluster.ranks),
                shards_first(shards, (size_t)rank + 1, (size_t)cluster.ranks));
}

/* Values of a slice, at most. */
static size_t cluster_slice(size_t count) { return count / (size_t)cluster.ranks + 1; }

/* Room to add in. NULL: no memory. */
SHARDS_API float *cluster_room(size_t shards, size_t count)
{
    const size_t ranks = (size_t)cluster.ranks, blocks = (size_t)cluster_blocks(count);
    shards_sum nodes;
    size_t mine = 0;
    int k;
    cluster_others = 0;
    for (k = 0; k < cluster.ranks; k++) {
        cluster_nodes(&nodes, shards, k);
        *(k == cluster.rank ? &mine : &cluster_others) += (size_t)nodes.used;
    }
    cluster_request_count = cluster_others + (mine + 2) * ranks;
    free(cluster_requests);
    cluster_requests =
        (MPI_Request *)malloc(blocks * cluster_request_count * sizeof *cluster_requests);
    if (!cluster_requests) return NULL;
    return (float *)malloc((cluster_others * (cluster_slice(count) + blocks) + 1) * sizeof(float));
}

/* Where the slice of a rank is in a block, and its values. */
static size_t cluster_slice_of(size_t *count, const cluster_block *b, int rank)
{
    const size_t first = shards_first(b->count, (size_t)rank, (size_t)cluster.ranks);
    *count = shards_first(b->count, (size_t)rank + 1, (size_t)cluster.ranks) - first;
    return first;
}

/* Messages of one kind between two ranks arrive in the order of their nodes and blocks. */
enum { CLUSTER_NODE, CLUSTER_TOTAL };

static void cluster_receive(cluster_block *b, float *values, size_t count, int rank, int tag)
{
    cluster_check(MPI_Irecv(values, (int)count, MPI_FLOAT, rank, tag, MPI_COMM_WORLD,
                            &b->requests[b->sent++]));
}

static void cluster_send(cluster_block *b, const float *values, size_t count, int rank, int tag)
{
    cluster_check(MPI_Isend(values, (int)count, MPI_FLOAT, rank, tag, MPI_COMM_WORLD,
                            &b->requests[b->sent++]));
}

/* One slice of every node, from whoever has it, goes to the rank that adds this slice. */
static void cluster_exchange(cluster_block *b)
{
    float *room = b->room, *total = cluster_sum.total + b->first;
    shards_sum nodes;
    size_t first, count;
    int rank, n;
    cluster_slice_of(&count, b, cluster.rank);
    for (rank = 0; rank < cluster.ranks; rank++) {
        cluster_nodes(&nodes, cluster_sum.shards, rank);
        for (n = 0; rank != cluster.rank && n < nodes.used; n++, room += cluster_slice(b->count))
            cluster_receive(b, room, count, rank, CLUSTER_NODE);
    }
    for (rank = 0; rank < cluster.ranks; rank++) {
        first = cluster_slice_of(&count, b, rank);
        for (n = 0; rank != cluster.rank && n < b->mine.used; n++)
            cluster_send(b, b->mine.nodes[n].values + first, count, rank, CLUSTER_NODE);
    }
    b->exchanged = b->sent;
    for (rank = 0; rank < cluster.ranks; rank++) {
        first = cluster_slice_of(&count, b, rank);
        if (rank != cluster.rank) cluster_receive(b, total + first, count, rank, CLUSTER_TOTAL);
    }
}

/* Adds the nodes of all ranks, in order, over this rank's slice, and sends all the sum. */
static void cluster_add(cluster_block *b)
{
    size_t size;
    const size_t slice = cluster_slice_of(&size, b, cluster.rank);
    float *room = b->room, *total = cluster_sum.total + b->first + slice;
    shards_sum sum, nodes;
    int rank, n;
    sum.used = 0;
    for (rank = 0; rank < cluster.ranks; rank++) {
        cluster_nodes(&nodes, cluster_sum.shards, rank);
        for (n = 0; n < nodes.used; n++) {
            shards_node *next = &sum.nodes[sum.used++];
            *next = nodes.nodes[n];
            next->values = rank == cluster.rank ? b->mine.nodes[n].values + slice : room;
            if (rank != cluster.rank) room += cluster_slice(b->count);
            shards_fold(&sum, size, 0);
        }
    }
    shards_fold(&sum, size, 1);
    memcpy(total, sum.nodes[0].values, size * sizeof *total);
    for (rank = 0; rank < cluster.ranks; rank++)
        if (rank != cluster.rank) cluster_send(b, total, size, rank, CLUSTER_TOTAL);
}

/* The first value of the block that is next. */
static size_t cluster_next(void)
{
    return shards_first(cluster_sum.count, (size_t)(cluster_sum.blocks - cluster_sum.begun - 1),
                        (size_t)cluster_sum.blocks);
}

/* Sends the next block. A rank that has failed sends what there is: nobody will use it. */
static void cluster_begin_block(void)
{
    cluster_summing *s = &cluster_sum;
    cluster_block *b = &cluster_block_list[s->begun];
    memset(b, 0, sizeof *b);
    b->first = cluster_next();
    b->count = s->count - b->first;
    b->room = s->room;
    b->requests = cluster_requests + (size_t)s->begun * cluster_request_count;
    if (s->begun) {
        b->count = b[-1].first - b->first;
        b->room = b[-1].room + cluster_others * cluster_slice(b[-1].count);
    }
    shards_part(&b->mine, s->mine, b->first);
    if (s->failed) {
        shards_sum nodes;
        cluster_nodes(&nodes, s->shards, cluster.rank);
        b->mine.used = nodes.used;
    } else {
        shards_push(&b->mine, s->shard, s->total + b->first, b->count);
    }
    cluster_exchange(b);
    s->begun++;
}

/* Have the nodes of the other ranks arrived? Where `wait`, they have when it returns. */
static int cluster_arrived(cluster_block *b, int wait)
{
    for (; b->arrived < b->exchanged; b->arrived++) {
        MPI_Request *request = &b->requests[b->arrived];
        int done = 1;
        if (wait)
            cluster_check(MPI_Wait(request, MPI_STATUS_IGNORE));
        else
            cluster_check(MPI_Test(request, &done, MPI_STATUS_IGNORE));
        if (!done) return 0;
    }
    return 1;
}

/* Adds the blocks that have arrived; where `wait`, all that are under way. */
static void cluster_progress(int wait)
{
    cluster_summing *s = &cluster_sum;
    while (s->added < s->begun && cluster_arrived(&cluster_block_list[s->added], wait))
        cluster_add(&cluster_block_list[s->added++]);
}

/* What lensnet_batch.complete wants: this process's gradient is complete from number `first` on. */
SHARDS_API void cluster_complete(size_t first, void *user)
{
    (void)user;
    if (cluster.ranks == 1) return;
    while (cluster_sum.begun < cluster_sum.blocks && cluster_next() >= first) cluster_begin_block();
    cluster_progress(0);
}

/* Waits for all of the sum. `good`: this rank's gradient is computed; if not, the sum is nonsense, and
 * cluster_meet() has to say so. */
SHARDS_API void cluster_end_sum(int good)
{
    cluster_summing *s = &cluster_sum;
    int k, n;
    s->failed = !good;
    while (s->begun < s->blocks) cluster_begin_block();
    cluster_progress(1);
    for (k = 0; k < s->blocks; k++) {
        cluster_block *b = &cluster_block_list[k];
        for (n = b->exchanged; n < b->sent; n++)
            cluster_check(MPI_Wait(&b->requests[n], MPI_STATUS_IGNORE));
    }
    s->blocks = 0;
}

/* All is over: every rank says why, if it was no good end. */
SHARDS_API void cluster_close(int good, const lensnet_error *error)
{
    if (!good && !cluster_leads()) cluster_say("error", error->text);
    cluster_leave();
}

#endif
#endif
