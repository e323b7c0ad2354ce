/* The filters of the dense CRF: a Gaussian over positions and colours on the permutohedral lattice
 * (Adams, Baek and Davis 2010), one over positions alone, row by row and column by column, and the
 * softmax behind them.
 *
 * crf_numpy.py is the specification. Values are (pixels, channels) float32, channels a multiple of
 * FOUR. Both filters add `weight * norm[i] * sum over j of k(i, j) norm[j] values[j]` to `sums`.
 *
 * No Python in here: crf_native.py calls the functions through ctypes.
 */

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))

enum { NO_MEMORY = -1, FOUR = 4, MOST_AXES = 8, FIRST_SLOTS = 1 << 15 };

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
    size_t bytes = (size_t)table->axes * sizeof *key;
    uint64_t at = slot_of(table, key);
    while (table->slots[at]) {
        if (!memcmp(table->keys + (int64_t)(table->slots[at] - 1) * table->axes, key, bytes))
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

static int place(Table *table, const float *features, int64_t pixels, int32_t *corners, float *shares)
{
    int32_t d = table->axes, key[MOST_AXES];
    double scale[MOST_AXES];
    for (int32_t i = 0; i < d; i++)
        scale[i] = (d + 1) * sqrt(2.0 / 3) / sqrt((i + 1.0) * (i + 2.0));
    Simplex s;
    for (int64_t p = 0; p < pixels; p++) {
        enclose(features + p * d, scale, d, &s);
        for (int32_t r = 0; r <= d; r++) {
            for (int32_t i = 0; i < d; i++)
                key[i] = s.base[i] + r - (s.rank[i] > d - r ? d + 1 : 0);
            int32_t found = vertex(table, key);
            if (found < 0)
                return 0;
            corners[p * (d + 1) + r] = found;
            shares[p * (d + 1) + r] = (float)s.share[r];
        }
    }
    return 1;
}

/* neighbours (d + 1, count, 2): the vertices before and behind each along each axis; `count`, the
 * row that stays zero, where there is none. */
static void join(const Table *table, int32_t *neighbours)
{
    int32_t d = table->axes, key[MOST_AXES];
    for (int32_t axis = 0; axis <= d; axis++)
        for (int64_t v = 0; v < table->count; v++)
            for (int32_t side = 0; side < 2; side++) {
                int32_t sign = side ? 1 : -1;
                for (int32_t i = 0; i < d; i++)
                    key[i] = table->keys[v * d + i] + (i == axis ? -sign * d : sign);
                int32_t found = table->slots[find(table, key)];
                *neighbours++ = found ? found - 1 : (int32_t)table->count;
            }
}

/* features (pixels, axes), in units of their sigma -> corners and shares (pixels, axes + 1), and
 * neighbours, which has room for pixels * (axes + 1) vertices. The number of vertices, or NO_MEMORY.
 */
EXPORT int64_t edgeseg_lattice(
    const float *features, int64_t pixels, int32_t axes,
    int32_t *corners, float *shares, int32_t *neighbours)
{
    Table table = {.axes = axes};
    int64_t count = NO_MEMORY;
    if (grow(&table) && place(&table, features, pixels, corners, shares)) {
        join(&table, neighbours);
        count = table.count;
    }
    free(table.keys);
    free(table.slots);
    return count;
}

/* ---- filters --------------------------------------------------------------------------------- */

static inline void add(float *to, const float *from, float share, int32_t channels)
{
    for (int32_t c = 0; c < channels; c += FOUR)
        for (int32_t k = 0; k < FOUR; k++)
            to[c + k] += share * from[c + k];
}

static void blur(const float *from, const int32_t *neighbours, int64_t count, int32_t channels, float *to)
{
    for (int64_t v = 0; v < count; v++, neighbours += 2) {
        const float *here = from + v * channels;
        const float *before = from + (int64_t)neighbours[0] * channels;
        const float *behind = from + (int64_t)neighbours[1] * channels;
        float *out = to + v * channels;
        for (int32_t c = 0; c < channels; c += FOUR)
            for (int32_t k = 0; k < FOUR; k++)
                out[c + k] = 0.5f * here[c + k] + 0.25f * (before[c + k] + behind[c + k]);
    }
}

/* Both sums of a lattice: splat, blur along each of its axes, slice. 0, or NO_MEMORY. */
EXPORT int32_t edgeseg_lattice_filter(
    const int32_t *corners, const float *shares, const int32_t *neighbours,
    int64_t pixels, int64_t count, int32_t axes, int32_t channels,
    const float *values, const float *norm, float weight, float *sums)
{
    int64_t rows = (count + 1) * channels, each = axes + 1;
    float *now = calloc((size_t)rows, sizeof *now), *next = calloc((size_t)rows, sizeof *next);
    if (!now || !next) {
        free(now);
        free(next);
        return NO_MEMORY;
    }
    for (int64_t p = 0; p < pixels; p++)
        for (int64_t r = p * each; r < (p + 1) * each; r++)
            add(now + (int64_t)corners[r] * channels, values + p * channels, norm[p] * shares[r],
                channels);
    for (int64_t axis = 0; axis < each; axis++) {
        blur(now, neighbours + axis * count * 2, count, channels, next);
        float *held = now;
        now = next;
        next = held;
    }
    for (int64_t p = 0; p < pixels; p++)
        for (int64_t r = p * each; r < (p + 1) * each; r++)
            add(sums + p * channels, now + (int64_t)corners[r] * channels,
                weight * norm[p] * shares[r], channels);
    free(now);
    free(next);
    return 0;
}

/* taps (radius + 1): the weight of a pixel that far away. Nothing lies outside of the image.
 * 0, or NO_MEMORY. */
EXPORT int32_t edgeseg_gauss_filter(
    const float *taps, int32_t radius, int64_t height, int64_t width, int32_t channels,
    const float *values, const float *norm, float weight, float *sums)
{
    int64_t line = width * channels;
    float *mixed = calloc((size_t)(height * line), sizeof *mixed);
    if (!mixed)
        return NO_MEMORY;
    for (int64_t y = 0; y < height; y++)
        for (int64_t dy = -radius; dy <= radius; dy++) {
            if (y + dy < 0 || y + dy >= height)
                continue;
            const float *from = values + (y + dy) * line, *scale = norm + (y + dy) * width;
            for (int64_t x = 0; x < width; x++)
                add(mixed + y * line + x * channels, from + x * channels,
                    taps[dy < 0 ? -dy : dy] * scale[x], channels);
        }
    for (int64_t y = 0; y < height; y++)
        for (int64_t x = 0; x < width; x++) {
            float *to = sums + y * line + x * channels, scale = weight * norm[y * width + x];
            for (int64_t dx = -radius; dx <= radius; dx++)
                if (x + dx >= 0 && x + dx < width)
                    add(to, mixed + y * line + (x + dx) * channels,
                        taps[dx < 0 ? -dx : dx] * scale, channels);
        }
    free(mixed);
    return 0;
}

/* (pixels, channels) -> the softmax of each pixel, in place. */
EXPORT void edgeseg_softmax(float *values, int64_t pixels, int32_t channels)
{
    for (int64_t p = 0; p < pixels; p++, values += channels) {
        float most = values[0], sum = 0;
        for (int32_t c = 1; c < channels; c++)
            most = values[c] > most ? values[c] : most;
        for (int32_t c = 0; c < channels; c++) {
            values[c] = expf(values[c] - most);
            sum += values[c];
        }
        float share = 1 / sum;
        for (int32_t c = 0; c < channels; c++)
            values[c] *= share;
    }
}
