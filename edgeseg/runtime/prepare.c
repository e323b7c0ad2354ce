/* A camera's frame -> the network's input, uint8, in one pass: colours, crop, resize, padding.
 *
 * frame.py is the specification, and the bytes are the same on every machine: rows are mixed first,
 * (sum + 64) >> 7 in 16 bits, and then columns, (sum + 2^20) >> 21; shares sum up to 2^14. A row
 * that has to be turned into three channels first is turned once. Nothing full-size is written.
 *
 * No Python in here: prepare_native.py calls edgeseg_prepare through ctypes.
 */

#include <stdint.h>
#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#include "prepare_arithmetic.h"
#include "strips.h"

#define EXPORT __attribute__((visibility("default")))

/* As in prepare_native.py, all of them. */
enum { PLAIN_C = 1, NEON = 2, AVX2 = 4 };
enum { DONE, NO_MEMORY };
enum { SLACK = 64, STRIPS = 4 };

/* Strides count bytes. `row_first` and `row_weights` (h, row_taps) are taps of rows; of columns they
 * are (w,) and (pairs, w, 2). `top`, `left`, `height` and `width` are the part of the frame that is
 * seen; h x w at `to_top`, `to_left` of the network_h x network_w image are written by it. */
typedef struct {
    const uint8_t *frame, *chroma;
    const int32_t *row_first, *column_first;
    const int16_t *row_weights, *column_weights;
    uint8_t *out;
    int64_t row_stride, column_stride, channel_stride, chroma_stride;
    int32_t top, left, height, width;
    int32_t to_top, to_left, h, w, network_h, network_w;
    int32_t row_taps, pairs, format, swap, isa, threads;
    int32_t fill[3];
} Preparation;

/* What one thread works in. */
typedef struct {
    const uint8_t **rows; /* those that are mixed into one */
    uint8_t *lines; /* row_taps rows of three channels */
    int64_t line;
    int32_t *held; /* which row each of them is */
    int16_t *mixed;
    uint8_t *row;
} Room;

/* `height` rows of the network's input that one thread does at a time. */
typedef struct {
    const Preparation *job;
    int height;
} Strip;

/* ---- one row as three channels --------------------------------------------------------------- */

#include "prepare_colours.h"

/* FAST(f, ...) does what f_c does many at a time, by what this processor has; how many it has done. */
#if defined(__x86_64__)
enum { FASTEST = AVX2 };
#define FAST(f, ...) (f##_avx2(__VA_ARGS__))
#elif defined(__aarch64__)
#include "prepare_neon.h"
enum { FASTEST = NEON };
#define FAST(f, ...) (f##_neon(__VA_ARGS__))
#else
enum { FASTEST = PLAIN_C };
#define FAST(f, ...) 0
#endif

/* The part of row y of the frame that is seen, three channels beside each other: the frame's own
 * memory where it lies like that, else `to`. */
static const uint8_t *line_of(const Preparation *job, int y, uint8_t *to)
{
    const uint8_t *row = job->frame + (int64_t)y * job->row_stride;
    const int odd = job->left & 1, even = job->left - odd, width = job->width + odd;
    const int fast = job->isa == FASTEST;
    int done = 0;
    switch (job->format) {
    case NV12: {
        const uint8_t *uv = job->chroma + (int64_t)(y / 2) * job->chroma_stride + even;
        if (fast) done = FAST(nv12, row + even, uv, width, to);
        nv12_c(row + even, uv, done, width, to);
        return to + 3 * odd;
    }
    case YUYV:
        if (fast) done = FAST(yuyv, row + 2 * even, width, to);
        yuyv_c(row + 2 * even, done, width, to);
        return to + 3 * odd;
    case GREY:
        row += job->left * job->column_stride;
        if (fast && job->column_stride == 1) done = FAST(grey, row, job->width, to);
        grey_c(row, job->column_stride, done, job->width, to);
        return to;
    default:
        row += job->left * job->column_stride;
        if (job->column_stride == 3 && job->channel_stride == 1) return row;
        for (int x = 0; x < job->width; x++)
            for (int c = 0; c < 3; c++)
                to[3 * x + c] = row[x * job->column_stride + c * job->channel_stride];
        return to;
    }
}

/* ---- rows: bytes -> 128ths in 16 bits --------------------------------------------------------- */

static inline __attribute__((always_inline)) void mix_some(const uint8_t *const *rows,
                                                           const int16_t *weights, int taps,
                                                           int from, int count, int16_t *to)
{
    for (int x = from; x < count; x++) {
        int32_t sum = HALF_FINE;
        for (int k = 0; k < taps; k++) sum += weights[k] * rows[k][x];
        to[x] = (int16_t)(sum >> FINE);
    }
}

/* How many rows there are is known to the compiler for few of them. */
static void mix_rows_c(const uint8_t *const *rows, const int16_t *weights, int taps, int from,
                       int count, int16_t *to)
{
    switch (taps) {
    case 1: mix_some(rows, weights, 1, from, count, to); break;
    case 2: mix_some(rows, weights, 2, from, count, to); break;
    case 3: mix_some(rows, weights, 3, from, count, to); break;
    case 4: mix_some(rows, weights, 4, from, count, to); break;
    default: mix_some(rows, weights, taps, from, count, to);
    }
}

#if defined(__x86_64__)
INLINE __m256i pair_of(int low, int high)
{
    return _mm256_set1_epi32((int)((uint32_t)(uint16_t)low | (uint32_t)high << 16));
}

/* 16 columns; how many rows there are is known to the compiler for few of them. */
INLINE void mix_16(const uint8_t *const *rows, const int16_t *weights, int taps, int x, int16_t *to)
{
    __m256i low = _mm256_set1_epi32(HALF_FINE), high = low;
    for (int k = 0; k < taps; k += 2) {
        const int last = k + 1 == taps;
        const __m128i a = _mm_loadu_si128((const __m128i *)(rows[k] + x));
        const __m128i b = last ? a : _mm_loadu_si128((const __m128i *)(rows[k + 1] + x));
        const __m256i w = pair_of(weights[k], last ? 0 : weights[k + 1]);
        const __m256i ab = _mm256_cvtepu8_epi16(_mm_unpacklo_epi8(a, b));
        const __m256i cd = _mm256_cvtepu8_epi16(_mm_unpackhi_epi8(a, b));
        low = _mm256_add_epi32(low, _mm256_madd_epi16(ab, w));
        high = _mm256_add_epi32(high, _mm256_madd_epi16(cd, w));
    }
    const __m256i words = _mm256_packs_epi32(_mm256_srai_epi32(low, FINE),
                                             _mm256_srai_epi32(high, FINE));
    _mm256_storeu_si256((__m256i *)(to + x), _mm256_permute4x64_epi64(words, 0xd8));
}

TARGET static int mix_rows_avx2(const uint8_t *const *rows, const int16_t *weights, int taps,
                                int count, int16_t *to)
{
    int x = 0;
    switch (taps) {
    case 1:
        for (; x + 16 <= count; x += 16) mix_16(rows, weights, 1, x, to);
        break;
    case 2:
        for (; x + 16 <= count; x += 16) mix_16(rows, weights, 2, x, to);
        break;
    case 3:
        for (; x + 16 <= count; x += 16) mix_16(rows, weights, 3, x, to);
        break;
    case 4:
        for (; x + 16 <= count; x += 16) mix_16(rows, weights, 4, x, to);
        break;
    default:
        for (; x + 16 <= count; x += 16) mix_16(rows, weights, taps, x, to);
    }
    return x;
}
#endif

/* ---- columns: 128ths -> bytes ----------------------------------------------------------------- */

static void mix_columns_c(const Preparation *job, const int16_t *mixed, int from, uint8_t *to)
{
    const int red = job->swap ? 2 : 0;
    for (int x = from; x < job->w; x++) {
        int32_t sums[3] = {HALF_REST, HALF_REST, HALF_REST};
        for (int p = 0; p < job->pairs; p++) {
            const int16_t *weights = job->column_weights + 2 * ((int64_t)p * job->w + x);
            const int16_t *pixels = mixed + 3 * (job->column_first[x] + 2 * p);
            for (int c = 0; c < 3; c++) sums[c] += weights[0] * pixels[c] + weights[1] * pixels[c + 3];
        }
        to[3 * x] = (uint8_t)(sums[red] >> REST);
        to[3 * x + 1] = (uint8_t)(sums[1] >> REST);
        to[3 * x + 2] = (uint8_t)(sums[2 - red] >> REST);
    }
}

#if defined(__x86_64__)
/* The sums of two output pixels, three channels and one more in each half. */
INLINE __m256i two_pixels(const Preparation *job, const int16_t *mixed, int pairs, int x, __m256i order)
{
    const __m256i spread = _mm256_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1);
    const int16_t *one = mixed + 3 * job->column_first[x], *two = mixed + 3 * job->column_first[x + 1];
    __m256i sum = _mm256_set1_epi32(HALF_REST);
    for (int p = 0; p < pairs; p++) {
        const int16_t *weights = job->column_weights + 2 * ((int64_t)p * job->w + x);
        __m256i pixels = _mm256_castsi128_si256(_mm_loadu_si128((const __m128i *)(one + 6 * p)));
        pixels = _mm256_inserti128_si256(pixels, _mm_loadu_si128((const __m128i *)(two + 6 * p)), 1);
        pixels = _mm256_shuffle_epi8(pixels, order);
        __m256i w = _mm256_castsi128_si256(_mm_loadl_epi64((const __m128i *)weights));
        w = _mm256_permutevar8x32_epi32(w, spread);
        sum = _mm256_add_epi32(sum, _mm256_madd_epi16(pixels, w));
    }
    return _mm256_srai_epi32(sum, REST);
}

INLINE int columns(const Preparation *job, const int16_t *mixed, int pairs, uint8_t *to)
{
    /* Channel c of two pixels side by side. */
    const __m128i as_is = _mm_setr_epi8(0, 1, 6, 7, 2, 3, 8, 9, 4, 5, 10, 11, -1, -1, -1, -1);
    const __m128i swapped = _mm_setr_epi8(4, 5, 10, 11, 2, 3, 8, 9, 0, 1, 6, 7, -1, -1, -1, -1);
    const __m256i order = _mm256_broadcastsi128_si256(job->swap ? swapped : as_is);
    const __m128i close = _mm_setr_epi8(0, 1, 2, 8, 9, 10, 4, 5, 6, 12, 13, 14, -1, -1, -1, -1);
    int x = 0;
    for (; x + 4 <= job->w; x += 4) {
        const __m256i words = _mm256_packs_epi32(two_pixels(job, mixed, pairs, x, order),
                                                 two_pixels(job, mixed, pairs, x + 2, order));
        /* Halves: pixels 0 and 2, pixels 1 and 3. */
        const __m128i all = _mm_packus_epi16(_mm256_castsi256_si128(words),
                                             _mm256_extracti128_si256(words, 1));
        _mm_storeu_si128((__m128i *)(to + 3 * x), _mm_shuffle_epi8(all, close));
    }
    return x;
}

TARGET static int mix_columns_avx2(const Preparation *job, const int16_t *mixed, uint8_t *to)
{
    switch (job->pairs) {
    case 1: return columns(job, mixed, 1, to);
    case 2: return columns(job, mixed, 2, to);
    default: return columns(job, mixed, job->pairs, to);
    }
}
#endif

/* ---- rows of the right size already ------------------------------------------------------------ */

#if defined(__x86_64__)
TARGET static int swap_avx2(const uint8_t *from, int width, uint8_t *to)
{
    const __m128i order = _mm_setr_epi8(2, 1, 0, 5, 4, 3, 8, 7, 6, 11, 10, 9, 14, 13, 12, 15);
    int x = 0;
    for (; x + 6 <= width; x += 5)
        _mm_storeu_si128((__m128i *)(to + 3 * x),
                         _mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)(from + 3 * x)), order));
    return x;
}
#endif

static void copy_row(const Preparation *job, const uint8_t *from, uint8_t *to)
{
    int x = 0;
    if (!job->swap) {
        memcpy(to, from, (size_t)job->w * 3);
        return;
    }
    if (job->isa == FASTEST) x = FAST(swap, from, job->w, to);
    for (; x < job->w; x++)
        for (int c = 0; c < 3; c++) to[3 * x + c] = from[3 * x + 2 - c];
}

/* ---- all of it -------------------------------------------------------------------------------- */

static void fill_row(const Preparation *job, int y, int from, int to)
{
    uint8_t *row = job->out + (int64_t)y * job->network_w * 3;
    for (int x = from; x < to; x++)
        for (int c = 0; c < 3; c++) row[3 * x + c] = (uint8_t)job->fill[c];
}

static void prepare_row(const Preparation *job, const Room *room, int y)
{
    const int first = job->row_first[y], count = 3 * job->width;
    const int16_t *weights = job->row_weights + (int64_t)y * job->row_taps;
    const uint8_t **rows = room->rows;
    const int64_t at = ((int64_t)(job->to_top + y) * job->network_w + job->to_left) * 3;
    if (job->width == job->w && job->height == job->h) {
        copy_row(job, line_of(job, job->top + y, room->lines), job->out + at);
        return;
    }
    for (int k = 0; k < job->row_taps; k++) {
        const int row = first + k, slot = row % job->row_taps;
        if (!weights[k]) { /* it may not even have been turned */
            rows[k] = room->lines + slot * room->line;
            continue;
        }
        uint8_t *line = room->lines + slot * room->line;
        if (job->format == THREE && job->column_stride == 3 && job->channel_stride == 1) {
            rows[k] = line_of(job, job->top + row, line);
            continue;
        }
        if (room->held[slot] != row) line_of(job, job->top + row, line);
        room->held[slot] = row;
        rows[k] = line + (job->format == NV12 || job->format == YUYV ? 3 * (job->left & 1) : 0);
    }
    int done = 0;
    if (job->isa == FASTEST) done = FAST(mix_rows, rows, weights, job->row_taps, count, room->mixed);
    mix_rows_c(rows, weights, job->row_taps, done, count, room->mixed);
    done = 0;
    if (job->isa == FASTEST) done = FAST(mix_columns, job, room->mixed, room->row);
    mix_columns_c(job, room->mixed, done, room->row);
    memcpy(job->out + at, room->row, (size_t)job->w * 3);
}

/* What one thread works in: lay out its block, which begins with the Room; how many bytes it has. */
static int64_t lay_out_room(const Preparation *job, char *memory)
{
    const int64_t line = ((int64_t)job->width * 3 + 2 * SLACK) / SLACK * SLACK;
    const int64_t row = ((int64_t)job->w * 3 + 2 * SLACK) / SLACK * SLACK;
    const int64_t head = up(sizeof(Room), 8) + job->row_taps * 16;
    if (memory) {
        Room *room = (Room *)memory;
        room->rows = (const uint8_t **)(memory + up(sizeof(Room), 8));
        room->held = (int32_t *)(room->rows + job->row_taps);
        room->mixed = (int16_t *)(memory + head);
        room->lines = (uint8_t *)(room->mixed + line + 2 * SLACK);
        room->line = line;
        room->row = room->lines + job->row_taps * line;
        memset(room->mixed, 0, 2 * (line + 2 * SLACK));
        for (int k = 0; k < job->row_taps; k++) room->held[k] = -1;
    }
    return head + 2 * (line + 2 * SLACK) + job->row_taps * line + row;
}

static void make_ready(const void *argument, void *room)
{
    const Strip *strip = argument;
    lay_out_room(strip->job, room);
}

static void do_strip(const void *argument, void *room, int64_t number)
{
    const Strip *strip = argument;
    const Preparation *job = strip->job;
    const int first = (int)number * strip->height, last = first + strip->height;
    for (int y = first; y < last && y < job->network_h; y++) {
        if (y < job->to_top || y >= job->to_top + job->h) {
            fill_row(job, y, 0, job->network_w);
            continue;
        }
        fill_row(job, y, 0, job->to_left);
        prepare_row(job, room, y - job->to_top);
        fill_row(job, y, job->to_left + job->w, job->network_w);
    }
}

/* Prepare a frame; DONE or NO_MEMORY. `threads` counts the caller, who works too. */
EXPORT int edgeseg_prepare(const Preparation *job)
{
    /* Small strips, as a thread may lose its core; each turns some rows of the frame once more. */
    const int strips = job->threads == 1 ? 1 : STRIPS * job->threads;
    const int height = job->network_h / strips > 1 ? job->network_h / strips : 1;
    const Strip strip = {job, height};
    const Strips all = {
        .job = &strip, .start = make_ready, .piece = do_strip, .threads = job->threads,
        .pieces = (job->network_h + height - 1) / height, .room = lay_out_room(job, NULL),
    };
    return do_strips(&all) == STRIPS_DONE ? DONE : NO_MEMORY;
}

/* out[y][x] = labels[rows[y]][columns[x]]; rows of both may lie apart. */
EXPORT void edgeseg_take(const uint8_t *labels, int64_t stride, const int32_t *rows,
                         const int32_t *columns, int32_t height, int32_t width, uint8_t *out,
                         int64_t out_stride)
{
    for (int y = 0; y < height; y++, out += out_stride) {
        const uint8_t *row = labels + rows[y] * stride;
        if (y && rows[y] == rows[y - 1])
            memcpy(out, out - out_stride, (size_t)width);
        else
            for (int x = 0; x < width; x++) out[x] = row[columns[x]];
    }
}

EXPORT int64_t edgeseg_preparation_size(void) { return sizeof(Preparation); }
