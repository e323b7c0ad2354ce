/* The filters of the dense CRF on values that lie beside each other; part of lattice.c.
 *
 * Sums of up to BLOCK channels stay in registers. What is compiled twice, for AVX2 and for any
 * processor, has the same bits: no step is fused.
 */

enum { BLOCK = 24, AHEAD = 8 };

#if defined(__x86_64__)
#define WIDE __attribute__((target("avx2")))
static int is_wide(void) { return __builtin_cpu_supports("avx2"); }
#else
#define WIDE
static int is_wide(void) { return 0; }
#endif
#define INLINE static inline __attribute__((always_inline))

/* name(...) for channels from `at` on, as many as the compiler knows. */
#define EACH_BLOCK(name)                                                              \
    for (int32_t at = 0; at < f->channels; at += BLOCK)                               \
        switch (f->channels - at < BLOCK ? f->channels - at : BLOCK) {                \
        case 4: name(f, room, first, last, at, 4); break;                             \
        case 8: name(f, room, first, last, at, 8); break;                             \
        case 12: name(f, room, first, last, at, 12); break;                           \
        case 16: name(f, room, first, last, at, 16); break;                           \
        case 20: name(f, room, first, last, at, 20); break;                           \
        default: name(f, room, first, last, at, BLOCK);                               \
        }

#define IN_BLOCKS(name)                                                               \
    static void name##_c(void *f_, void *room, int64_t first, int64_t last)           \
    {                                                                                 \
        const Filter *f = f_;                                                         \
        EACH_BLOCK(name)                                                              \
    }                                                                                 \
    WIDE static void name##_wide(void *f_, void *room, int64_t first, int64_t last)   \
    {                                                                                 \
        const Filter *f = f_;                                                         \
        EACH_BLOCK(name)                                                              \
    }
#define BY(name) (is_wide() ? name##_wide : name##_c)

/* Of the lattice's filter: `now` and `next` are (count + 1, channels); their last row, of vertices that
 * are not there, is zero. */
typedef struct {
    const int32_t *corners, *neighbours, *members;
    const int64_t *starts;
    const float *shares, *parts, *taps, *values, *norm;
    float *now, *next, *sums;
    int64_t pixels, count, height, width;
    int32_t axes, channels, radius;
    float weight;
} Filter;

INLINE void add(float *sums, const float *from, float by, int32_t n)
{
    for (int32_t c = 0; c < n; c++)
        sums[c] += by * from[c];
}

/* A row that is read soon. */
INLINE void fetch_row(const float *row, int32_t n)
{
    __builtin_prefetch(row);
    __builtin_prefetch(row + n - 1);
}

/* Vertices: what the pixels around each give it. */
INLINE void splat(const Filter *f, void *room, int64_t first, int64_t last, int32_t at, int32_t n)
{
    const int64_t all = f->starts[f->count];
    (void)room;
    for (int64_t v = first; v < last; v++) {
        float sums[BLOCK] = {0};
        for (int64_t k = f->starts[v]; k < f->starts[v + 1]; k++) {
            const int64_t p = f->members[k];
            const int64_t soon = f->members[k + AHEAD < all ? k + AHEAD : k];
            fetch_row(f->values + soon * f->channels + at, n);
            add(sums, f->values + p * f->channels + at, f->norm[p] * f->parts[k], n);
        }
        memcpy(f->now + v * f->channels + at, sums, (size_t)n * sizeof *sums);
    }
}
IN_BLOCKS(splat)

/* Vertices: each is mixed with its neighbours along an axis, whose `neighbours` those are. */
INLINE void blur(const Filter *f, void *room, int64_t first, int64_t last, int32_t at, int32_t n)
{
    (void)room;
    for (int64_t v = first; v < last; v++) {
        const int64_t ahead = 2 * (v + AHEAD < f->count ? v + AHEAD : v);
        for (int32_t side = 0; side < 2; side++)
            fetch_row(f->now + (int64_t)f->neighbours[ahead + side] * f->channels + at, n);
        const float *here = f->now + v * f->channels + at;
        const float *before = f->now + (int64_t)f->neighbours[2 * v] * f->channels + at;
        const float *behind = f->now + (int64_t)f->neighbours[2 * v + 1] * f->channels + at;
        float *out = f->next + v * f->channels + at;
        for (int32_t c = 0; c < n; c++)
            out[c] = 0.5f * here[c] + 0.25f * (before[c] + behind[c]);
    }
}
IN_BLOCKS(blur)

/* Pixels: what the vertices around each give it. */
INLINE void slice(const Filter *f, void *room, int64_t first, int64_t last, int32_t at, int32_t n)
{
    const int32_t each = f->axes + 1;
    const int64_t all = f->pixels * each;
    (void)room;
    for (int64_t p = first; p < last; p++) {
        float sums[BLOCK], scale = f->weight * f->norm[p];
        memcpy(sums, f->sums + p * f->channels + at, (size_t)n * sizeof *sums);
        for (int64_t r = p * each; r < (p + 1) * each; r++) {
            const int64_t soon = f->corners[r + 2 * each < all ? r + 2 * each : r];
            fetch_row(f->now + soon * f->channels + at, n);
            add(sums, f->now + (int64_t)f->corners[r] * f->channels + at, scale * f->shares[r], n);
        }
        memcpy(f->sums + p * f->channels + at, sums, (size_t)n * sizeof *sums);
    }
}
IN_BLOCKS(slice)

/* Rows of the image: mixed along columns into `room` (width, channels), and that along the row. */
INLINE void spread(const Filter *f, void *room, int64_t first, int64_t last, int32_t at, int32_t n)
{
    float *mixed = room;
    const int64_t line = f->width * f->channels;
    for (int64_t y = first; y < last; y++) {
        const int64_t top = y < f->radius ? -y : -f->radius;
        const int64_t bottom = y + f->radius < f->height ? f->radius : f->height - 1 - y;
        for (int64_t x = 0; x < f->width; x++) {
            float sums[BLOCK] = {0};
            for (int64_t dy = top; dy <= bottom; dy++)
                add(sums, f->values + (y + dy) * line + x * f->channels + at,
                    f->taps[dy < 0 ? -dy : dy] * f->norm[(y + dy) * f->width + x], n);
            memcpy(mixed + x * n, sums, (size_t)n * sizeof *sums);
        }
        for (int64_t x = 0; x < f->width; x++) {
            float sums[BLOCK], *to = f->sums + y * line + x * f->channels + at;
            const float scale = f->weight * f->norm[y * f->width + x];
            const int64_t left = x < f->radius ? -x : -f->radius;
            const int64_t right = x + f->radius < f->width ? f->radius : f->width - 1 - x;
            memcpy(sums, to, (size_t)n * sizeof *sums);
            for (int64_t dx = left; dx <= right; dx++)
                add(sums, mixed + (x + dx) * n, f->taps[dx < 0 ? -dx : dx] * scale, n);
            memcpy(to, sums, (size_t)n * sizeof *sums);
        }
    }
}
IN_BLOCKS(spread)

/* Both sums of a lattice: splat, blur along each of its axes, slice. `held` has room for two times
 * (count + 1, channels). 0, or NO_MEMORY. */
EXPORT int32_t edgeseg_lattice_filter(
    const int32_t *corners, const float *shares, const int32_t *neighbours, const int64_t *starts,
    const int32_t *members, const float *parts, int64_t pixels, int64_t count, int32_t axes,
    int32_t channels, int32_t threads, float *held, const float *values, const float *norm,
    float weight, float *sums)
{
    const int64_t rows = (count + 1) * channels;
    Filter f = {
        .corners = corners, .shares = shares, .starts = starts, .members = members, .parts = parts,
        .pixels = pixels, .count = count, .axes = axes, .channels = channels, .now = held,
        .next = held + rows, .values = values, .norm = norm, .weight = weight, .sums = sums,
    };
    memset(held + rows - channels, 0, (size_t)channels * sizeof *held);
    memset(held + 2 * rows - channels, 0, (size_t)channels * sizeof *held);
    int failed = share(&f, BY(splat), count, threads, 0);
    for (int64_t axis = 0; axis <= axes && !failed; axis++) {
        f.neighbours = neighbours + axis * count * 2;
        failed = share(&f, BY(blur), count, threads, 0);
        float *last = f.now;
        f.now = f.next;
        f.next = last;
    }
    return failed ? failed : share(&f, BY(slice), pixels, threads, 0);
}

/* taps (radius + 1): the weight of a pixel that far away. Nothing lies outside of the image.
 * 0, or NO_MEMORY. */
EXPORT int32_t edgeseg_gauss_filter(
    const float *taps, int32_t radius, int64_t height, int64_t width, int32_t channels,
    int32_t threads, const float *values, const float *norm, float weight, float *sums)
{
    Filter f = {
        .taps = taps, .radius = radius, .height = height, .width = width, .channels = channels,
        .values = values, .norm = norm, .weight = weight, .sums = sums,
    };
    const int64_t room = width * (channels < BLOCK ? channels : BLOCK) * (int64_t)sizeof *sums;
    return share(&f, BY(spread), height, threads, room);
}

typedef struct {
    float *values;
    int32_t channels;
} Softmax;

static void soften(void *job, void *room, int64_t first, int64_t last)
{
    const Softmax *of = job;
    (void)room;
    for (int64_t p = first; p < last; p++) {
        float *values = of->values + p * of->channels;
        float most = values[0], sum = 0;
        for (int32_t c = 1; c < of->channels; c++)
            most = values[c] > most ? values[c] : most;
        for (int32_t c = 0; c < of->channels; c++) {
            const float x = values[c] - most;
            values[c] = x < -104 ? 0 : expf(x); /* which is 0 there, and takes long to say so */
            sum += values[c];
        }
        const float scale = 1 / sum;
        for (int32_t c = 0; c < of->channels; c++)
            values[c] *= scale;
    }
}

/* (pixels, channels) -> the softmax of each pixel, in place. 0, or NO_MEMORY. */
EXPORT int32_t edgeseg_softmax(float *values, int64_t pixels, int32_t channels, int32_t threads)
{
    Softmax job = {values, channels};
    return share(&job, soften, pixels, threads, 0);
}
