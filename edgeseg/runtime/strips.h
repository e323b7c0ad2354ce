/* Work in pieces that threads take in turn; part of decode.c, prepare.c and lattice.c.
 *
 * The caller works too. A call is over when all pieces are done, and does not wait for threads that
 * came too late to take one (an engine's idle threads may spin on their core); the last one who holds
 * the structure frees it. `job` is read only by who has taken a piece.
 */

#ifndef EDGESEG_STRIPS_H
#define EDGESEG_STRIPS_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>

enum { STRIPS_DONE, STRIPS_NO_MEMORY };

/* Each thread has `room` bytes of its own, aligned to 64, which `start` (or NULL) makes ready. */
typedef struct {
    const void *job;
    void (*start)(const void *job, void *room);
    void (*piece)(const void *job, void *room, int64_t number);
    int64_t pieces, room;
    int threads;
} Strips;

typedef struct {
    Strips of;
    atomic_llong next, done;
    atomic_int holders, seats; /* seats: how many threads have taken a room */
    pthread_mutex_t lock;
    pthread_cond_t over;
} SharedStrips;

static int64_t up(int64_t n, int64_t step) { return (n + step - 1) / step * step; }

static void let_go(SharedStrips *shared)
{
    if (atomic_fetch_sub(&shared->holders, 1) > 1) return;
    pthread_cond_destroy(&shared->over);
    pthread_mutex_destroy(&shared->lock);
    free(shared);
}

/* The piece `taken` and those after it that nobody else takes; how many were done. */
static int64_t do_pieces(SharedStrips *shared, int64_t taken)
{
    const Strips *of = &shared->of;
    char *room = (char *)up((int64_t)(intptr_t)(shared + 1), 64);
    room += up(of->room, 64) * atomic_fetch_add(&shared->seats, 1);
    if (of->start) of->start(of->job, room);
    int64_t done = 0;
    for (; taken < of->pieces; taken = atomic_fetch_add(&shared->next, 1), done++)
        of->piece(of->job, room, taken);
    return done;
}

static void *help(void *argument)
{
    SharedStrips *shared = argument;
    const int64_t taken = atomic_fetch_add(&shared->next, 1);
    if (taken < shared->of.pieces) {
        const int64_t done = do_pieces(shared, taken);
        pthread_mutex_lock(&shared->lock);
        if (atomic_fetch_add(&shared->done, done) + done == shared->of.pieces)
            pthread_cond_signal(&shared->over);
        pthread_mutex_unlock(&shared->lock);
    }
    let_go(shared);
    return NULL;
}

static void start_helpers(SharedStrips *shared, int helpers)
{
    pthread_attr_t apart;
    if (helpers < 1 || pthread_attr_init(&apart)) return;
    pthread_attr_setdetachstate(&apart, PTHREAD_CREATE_DETACHED);
    for (int i = 0; i < helpers; i++) {
        pthread_t thread;
        atomic_fetch_add(&shared->holders, 1);
        if (pthread_create(&thread, &apart, help, shared)) {
            atomic_fetch_sub(&shared->holders, 1);
            break;
        }
    }
    pthread_attr_destroy(&apart);
}

/* Do all pieces; STRIPS_DONE or STRIPS_NO_MEMORY. `threads` counts the caller. */
static int do_strips(const Strips *asked)
{
    const int threads = asked->threads < asked->pieces ? asked->threads : (int)asked->pieces;
    if (asked->pieces < 1) return STRIPS_DONE;
    SharedStrips *shared = malloc(sizeof(SharedStrips) + 64 + threads * up(asked->room, 64));
    if (!shared) return STRIPS_NO_MEMORY;
    shared->of = *asked;
    atomic_init(&shared->next, 0);
    atomic_init(&shared->done, 0);
    atomic_init(&shared->holders, 1);
    atomic_init(&shared->seats, 0);
    pthread_mutex_init(&shared->lock, NULL);
    pthread_cond_init(&shared->over, NULL);
    start_helpers(shared, threads - 1);
    const int64_t done = do_pieces(shared, atomic_fetch_add(&shared->next, 1));
    atomic_fetch_add(&shared->done, done);
    pthread_mutex_lock(&shared->lock);
    while (atomic_load(&shared->done) < asked->pieces) pthread_cond_wait(&shared->over, &shared->lock);
    pthread_mutex_unlock(&shared->lock);
    let_go(shared);
    return STRIPS_DONE;
}

#endif
