/* cluster.h - the processes of one training run, on one machine or many: who does which share, and the few
 * things that they do together. With LENSNET_MPI they are the ranks of MPI_COMM_WORLD; without it there is
 * one process, everything is its share, and the same calls do nothing.
 *
 * Every rank runs the same program on the same numbers. Rank 0 alone is seen: the others print nothing
 * (their sentence at the end excepted) and write no file, and what they read through cluster_host() comes
 * from rank 0. What can fail on one rank alone is followed by cluster_meet(), where all hear of it. Between it
 * and the call that then shares something, nothing may fail. A rank that fails elsewhere goes to its next
 * cluster_meet(), which is where the others are.
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
SHARDS_API float *cluster_room(size_t shards, size_t count)
{
    (void)shards;
    (void)count;
    return (float *)malloc(sizeof(float));
}
SHARDS_API void cluster_sum(float *total, shards_sum *mine, float *room, size_t shards,
                            size_t count)
{
    (void)room;
    (void)shards;
    shards_fold(mine, count, 1);
    memcpy(total, mine->nodes[0].values, count * sizeof *total);
}

#else

static MPI_Request *cluster_requests; /* of one exchange */

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
    cluster_requests =
        (MPI_Request *)malloc(2 * SHARDS_NODES * (size_t)cluster.ranks * sizeof *cluster_requests);
    if (!cluster_requests) cluster_check(MPI_ERR_NO_MEM);
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

/* ---- the sum over shards ------------------------------------------------------------------------- */

/* The nodes that a rank comes to. */
static void cluster_nodes(shards_sum *nodes, size_t shards, int rank)
{
    int most;
    shards_plan(nodes, &most, shards_first(shards, (size_t)rank, (size_t)cluster.ranks),
                shards_first(shards, (size_t)rank + 1, (size_t)cluster.ranks));
}

/* Values of a slice, at most: every rank adds one slice of the gradient. */
static size_t cluster_slice(size_t count) { return count / (size_t)cluster.ranks + 1; }

/* Room for cluster_sum(): a slice of every node of the other ranks. NULL: no memory. */
SHARDS_API float *cluster_room(size_t shards, size_t count)
{
    shards_sum nodes;
    size_t others = 0;
    int k;
    for (k = 0; k < cluster.ranks; k++) {
        cluster_nodes(&nodes, shards, k);
        if (k != cluster.rank) others += (size_t)nodes.used;
    }
    return (float *)malloc((others * cluster_slice(count) + 1) * sizeof(float));
}

/* One slice of every node, from whoever has it, goes to the rank that adds this slice. Messages between two
 * ranks arrive in the order of their nodes. */
static void cluster_exchange(shards_sum *mine, float *room, size_t shards, size_t count)
{
    MPI_Request *requests = cluster_requests;
    int rank, n, sent = 0;
    for (rank = 0; rank < cluster.ranks; rank++) {
        shards_sum nodes;
        const int mine_too = rank == cluster.rank;
        const size_t slice = shards_first(count, (size_t)cluster.rank, (size_t)cluster.ranks);
        const size_t end = shards_first(count, (size_t)cluster.rank + 1, (size_t)cluster.ranks);
        cluster_nodes(&nodes, shards, rank);
        for (n = 0; !mine_too && n < nodes.used; n++, room += cluster_slice(count))
            cluster_check(MPI_Irecv(room, (int)(end - slice), MPI_FLOAT, rank, 0, MPI_COMM_WORLD,
                                    &requests[sent++]));
    }
    for (rank = 0; rank < cluster.ranks; rank++) {
        const size_t slice = shards_first(count, (size_t)rank, (size_t)cluster.ranks);
        const size_t end = shards_first(count, (size_t)rank + 1, (size_t)cluster.ranks);
        for (n = 0; rank != cluster.rank && n < mine->used; n++)
            cluster_check(MPI_Isend(mine->nodes[n].values + slice, (int)(end - slice), MPI_FLOAT,
                                    rank, 0, MPI_COMM_WORLD, &requests[sent++]));
    }
    for (n = 0; n < sent; n++) cluster_check(MPI_Wait(&requests[n], MPI_STATUS_IGNORE));
}

/* Adds the nodes of all ranks, in order, over this rank's slice; the sum's first node holds it then. */
static void cluster_add(shards_sum *sum, const shards_sum *mine, float *room, size_t shards,
                        size_t count)
{
    const size_t slice = shards_first(count, (size_t)cluster.rank, (size_t)cluster.ranks);
    const size_t size =
        shards_first(count, (size_t)cluster.rank + 1, (size_t)cluster.ranks) - slice;
    shards_sum nodes;
    int rank, n;
    sum->used = 0;
    for (rank = 0; rank < cluster.ranks; rank++) {
        cluster_nodes(&nodes, shards, rank);
        for (n = 0; n < nodes.used; n++) {
            shards_node *next = &sum->nodes[sum->used++];
            *next = nodes.nodes[n];
            next->values = rank == cluster.rank ? mine->nodes[n].values + slice : room;
            if (rank != cluster.rank) room += cluster_slice(count);
            shards_fold(sum, size, 0);
        }
    }
    shards_fold(sum, size, 1);
}

/* The gradient of the whole batch, from what every rank has of its own shards. `total` has `count` values. */
SHARDS_API void cluster_sum(float *total, shards_sum *mine, float *room, size_t shards,
                            size_t count)
{
    const size_t slice = shards_first(count, (size_t)cluster.rank, (size_t)cluster.ranks);
    const size_t end = shards_first(count, (size_t)cluster.rank + 1, (size_t)cluster.ranks);
    shards_sum sum;
    cluster_exchange(mine, room, shards, count);
    cluster_add(&sum, mine, room, shards, count);
    memcpy(total + slice, sum.nodes[0].values, (end - slice) * sizeof *total);
    cluster_gather(total, sizeof *total, count);
}

/* All is over: every rank says why, if it was no good end. */
SHARDS_API void cluster_close(int good, const lensnet_error *error)
{
    if (!good && !cluster_leads()) cluster_say("error", error->text);
    cluster_leave();
}

#endif
#endif
