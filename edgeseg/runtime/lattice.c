/* The filters of the dense CRF: a Gaussian over positions and colours on the permutohedral lattice
 * (Adams, Baek and Davis 2010), one over positions alone, row by row and column by column, and the
 * softmax behind them.
 *
 * crf_numpy.py is the specification. Values are (pixels, channels) float32, channels a multiple of
 * FOUR. Both filters add `weight * norm[i] * sum over j of k(i, j) norm[j] values[j]` to `sums`.
 * Threads share pixels, vertices and rows; every sum is made by one of them, in one order, so that
 * the bits are the same on one thread and on many.
 *
 * No Python in here: crf_native.py calls the functions through ctypes.
 */

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "strips.h"

#define EXPORT __attribute__((visibility("default")))

enum { NO_MEMORY = -1, FOUR = 4, MOST_AXES = 8, FIRST_SLOTS = 1 << 15, PIECES = 8, TOGETHER = 48 };

/* ---- threads --------------------------------------------------------------------------------- */

/* Units from `first` to before `last` of a job. */
typedef void Part(void *job, void *room, int64_t first, int64_t last);

typedef struct {
    void *job;
    Part *part;
    int64_t units, length;
} Parts;

static void do_part(const void *argument, void *room, int64_t number)
{
    const Parts *all = argument;
    const int64_t first = number * all->length, last = first + all->length;
    all->part(all->job, room, first, last < all->units ? last : all->units);
}

/* All units of a job by so many threads, each with `room` bytes of its own; 0, or NO_MEMORY. */
static int share(void *job, Part *part, int64_t units, int32_t threads, int64_t room)
{
    const int64_t pieces = threads == 1 ? 1 : PIECES * threads;
    const Parts all = {job, part, units, units / pieces + 1};
    const Strips strips = {
        .job = &all, .piece = do_part, .threads = threads, .room = room,
        .pieces = (units + all.length - 1) / all.length,
    };
    return do_strips(&strips) == STRIPS_DONE ? 0 : NO_MEMORY;
}

/* ---- the lattice's vertices, by their coordinates -------------------------------------------- */

typedef struct {
    int32_t *keys;  /* (room, axes): vertex after vertex, in the order they were met */
    int32_t *slots; /* vertex + 1; 0 where there is none */
    int64_t count, room, mask;
    int32_t axes;
} Table;

static uint64_t slot_of(const Table *table, const int32_t *key)
{
    uint64_t mixed = 0;
    for (int32_t k = 0; k < table->axes; k++)
        mixed = (mixed + (uint32_t)key[k]) * UINT64_C(0x9E3779B97F4A7C15);
    return (mixed >> 20) & (uint64_t)table->mask;
}

/* The slot that holds `key`, or the free one where it belongs. */
static int64_t find(const Table *table, const int32_t *key)
{
    uint64_t at = slot_of(table, key);
    while (table->slots[at]) {
        const int32_t *held = table->keys + (int64_t)(table->slots[at] - 1) * table->axes;
        int32_t k = 0;
        while (k < table->axes && held[k] == key[k])
            k++;
        if (k == table->axes)
            break;
        at = (at + 1) & (uint64_t)table->mask;
    }
    return (int64_t)at;
}

static int grow(Table *table)
{
    int64_t slots = table->mask ? 2 * (table->mask + 1) : FIRST_SLOTS;
    int32_t *wider = calloc((size_t)slots, sizeof *wider);
    int32_t *keys = realloc(table->keys, (size_t)(slots / 2 * table->axes) * sizeof *keys);
    if (keys)
        table->keys = keys;
    if (!wider || !keys) {
        free(wider);
        return 0;
    }
    free(table->slots);
    table->slots = wider;
    table->mask = slots - 1;
    table->room = slots / 2;
    for (int64_t v = 0; v < table->count; v++)
        table->slots[find(table, table->keys + v * table->axes)] = (int32_t)v + 1;
    return 1;
}

static int32_t vertex(Table *table, const int32_t *key)
{
    if (table->count == table->room && !grow(table))
        return NO_MEMORY;
    int64_t at = find(table, key);
    if (!table->slots[at]) {
        memcpy(table->keys + table->count * table->axes, key, (size_t)table->axes * sizeof *key);
        table->slots[at] = (int32_t)++table->count;
    }
    return table->slots[at] - 1;
}

/* ---- where a pixel lies ---------------------------------------------------------------------- */

typedef struct {
    int32_t base[MOST_AXES + 1], rank[MOST_AXES + 1];
    double share[MOST_AXES + 2];
} Simplex;

/* What the lattice of an image is made of: `homes` (pixels, 2 axes + 1) are base and rank of each. */
typedef struct {
    const float *features;
    int64_t pixels;
    int32_t *homes, *corners, *neighbours, *members;
    int64_t *starts;
    float *shares, *parts;
    Table table;
} Making;

/* The simplex around a feature: its vertex of remainder 0, the order of the rests, and shares. */
static void enclose(const float *feature, const double *scale, int32_t d, Simplex *s)
{
    double high[MOST_AXES + 1], rest[MOST_AXES + 1], sum = 0;
    for (int32_t i = d; i > 0; i--) {
        double x = (double)feature[i - 1] * scale[i - 1];
        high[i] = sum - i * x;
        sum += x;
    }
    high[0] = sum;
    int32_t off = 0;
    for (int32_t i = 0; i <= d; i++) {
        int32_t step = (int32_t)floor(high[i] / (d + 1) + 0.5);
        s->base[i] = step * (d + 1);
        rest[i] = high[i] - s->base[i];
        off += step;
        s->rank[i] = 0;
    }
    for (int32_t i = 0; i < d; i++)
        for (int32_t j = i + 1; j <= d; j++)
            s->rank[rest[i] < rest[j] ? i : j]++;
    memset(s->share, 0, sizeof s->share);
    for (int32_t i = 0; i <= d; i++) {
        s->rank[i] += off;
        int32_t turn = s->rank[i] < 0 ? d + 1 : s->rank[i] > d ? -(d + 1) : 0;
        s->rank[i] += turn;
        s->base[i] += turn;
        double part = (high[i] - s->base[i]) / (d + 1);
        s->share[d - s->rank[i]] += part;
        s->share[d + 1 - s->rank[i]] -= part;
    }
    s->share[0] += 1 + s->share[d + 1];
}

static void place(void *job, void *room, int64_t first, int64_t last)
{
    const Making *making = job;
    const int32_t d = making->table.axes;
    double scale[MOST_AXES];
    (void)room;
    for (int32_t i = 0; i < d; i++)
        scale[i] = (d + 1) * sqrt(2.0 / 3) / sqrt((i + 1.0) * (i + 2.0));
    Simplex s;
    for (int64_t p = first; p < last; p++) {
        int32_t *home = making->homes + p * (2 * d + 1);
        enclose(making->features + p * d, scale, d, &s);
        memcpy(home, s.base, (size_t)d * sizeof *home);
        memcpy(home + d, s.rank, (size_t)(d + 1) * sizeof *home);
        for (int32_t r = 0; r <= d; r++)
            making->shares[p * (d + 1) + r] = (float)s.share[r];
    }
}

/* Coordinates that are looked up together: the memory of all of them is fetched meanwhile. */
typedef struct {
    int32_t keys[TOGETHER][MOST_AXES];
    int32_t count;
} Batch;

static void fetch(const Table *table, const Batch *batch)
{
    uint64_t at[TOGETHER];
    for (int32_t n = 0; n < batch->count; n++)
        __builtin_prefetch(table->slots + (at[n] = slot_of(table, batch->keys[n])));
    for (int32_t n = 0; n < batch->count; n++)
        if (table->slots[at[n]])
            __builtin_prefetch(table->keys + (int64_t)(table->slots[at[n]] - 1) * table->axes);
}

/* Numbers for the vertices around the pixels, in the order they are met: one thread's work. */
static int number(Making *making)
{
    const int32_t d = making->table.axes;
    const int64_t all = making->pixels * (d + 1);
    Batch batch;
    for (int64_t first = 0; first < all; first += batch.count) {
        batch.count = (int32_t)(all - first < TOGETHER ? all - first : TOGETHER);
        for (int32_t n = 0; n < batch.count; n++) {
            const int32_t r = (int32_t)((first + n) % (d + 1));
            const int32_t *base = making->homes + (first + n) / (d + 1) * (2 * d + 1);
            for (int32_t i = 0; i < d; i++)
                batch.keys[n][i] = base[i] + r - (base[d + i] > d - r ? d + 1 : 0);
        }
        fetch(&making->table, &batch);
        for (int32_t n = 0; n < batch.count; n++)
            if ((making->corners[first + n] = vertex(&making->table, batch.keys[n])) < 0)
                return 0;
    }
    return 1;
}

static void part_ways(void *job, void *room, int64_t first, int64_t last)
{
    const Making *making = job;
    const int64_t sides = 2 * (making->table.axes + 1);
    (void)room;
    for (int64_t n = first * sides; n < last * sides; n++)
        making->neighbours[n] = (int32_t)making->table.count;
}

/* neighbours (d + 1, count, 2): the vertices before and behind each along each axis; `count` where
 * there is none. Who finds the one before it is the one behind that. */
static void join(void *job, void *room, int64_t first, int64_t last)
{
    const Making *making = job;
    const Table *table = &making->table;
    const int32_t d = table->axes;
    Batch batch;
    (void)room;
    for (int32_t axis = 0; axis <= d; axis++) {
        int32_t *beside = making->neighbours + axis * table->count * 2;
        for (int64_t from = first; from < last; from += batch.count) {
            batch.count = (int32_t)(last - from < TOGETHER ? last - from : TOGETHER);
            for (int32_t n = 0; n < batch.count; n++)
                for (int32_t i = 0; i < d; i++)
                    batch.keys[n][i] = table->keys[(from + n) * d + i] + (i == axis ? d : -1);
            fetch(table, &batch);
            for (int32_t n = 0; n < batch.count; n++) {
                const int32_t found = table->slots[find(table, batch.keys[n])];
                if (!found)
                    continue;
                beside[2 * (from + n)] = found - 1;
                beside[2 * (found - 1) + 1] = (int32_t)(from + n);
            }
        }
    }
}

/* The pixels around each vertex, in their order, and their shares: sums over them need no locks. */
static void turn_round(Making *making)
{
    const int64_t count = making->table.count, all = making->pixels * (making->table.axes + 1);
    int64_t *starts = making->starts;
    memset(starts, 0, (size_t)(count + 1) * sizeof *starts);
    for (int64_t n = 0; n < all; n++)
        starts[making->corners[n] + 1]++;
    for (int64_t v = 0; v < count; v++)
        starts[v + 1] += starts[v];
    for (int64_t p = 0, n = 0; p < making->pixels; p++)
        for (int32_t r = 0; r <= making->table.axes; r++, n++) {
            const int64_t at = starts[making->corners[n]]++;
            making->members[at] = (int32_t)p;
            making->parts[at] = making->shares[n];
        }
    memmove(starts + 1, starts, (size_t)count * sizeof *starts);
    starts[0] = 0;
}

/* features (pixels, axes), in units of their sigma -> corners and shares (pixels, axes + 1);
 * neighbours, which has room for pixels * (axes + 1) vertices, as has `starts` for one more; and
 * members and parts, the pixels around each vertex from its start on, with their shares. The number
 * of vertices, or NO_MEMORY.
 */
EXPORT int64_t edgeseg_lattice(
    const float *features, int64_t pixels, int32_t axes, int32_t threads, int32_t *corners,
    float *shares, int32_t *neighbours, int64_t *starts, int32_t *members, float *parts)
{
    Making making = {
        .features = features, .pixels = pixels, .corners = corners, .shares = shares,
        .neighbours = neighbours, .starts = starts, .members = members, .parts = parts,
        .homes = malloc((size_t)pixels * (2 * (size_t)axes + 1) * sizeof(int32_t)),
        .table = {.axes = axes},
    };
    int64_t count = NO_MEMORY;
    if (making.homes && grow(&making.table) && !share(&making, place, pixels, threads, 0) &&
        number(&making) && !share(&making, part_ways, making.table.count, threads, 0) &&
        !share(&making, join, making.table.count, threads, 0)) {
        turn_round(&making);
        count = making.table.count;
    }
    free(making.homes);
    free(making.table.keys);
    free(making.table.slots);
    return count;
}

#include "lattice_filters.h"
