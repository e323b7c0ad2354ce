/* Scores at low resolution -> labels at full resolution: the last linear upsampling and argmax.
 *
 * decode.py is the specification: the same arithmetic, in float32, in the same order. Bilinear
 * labels are equal to it bit by bit; sums of the deconvolution start with the bias and go over the
 * channels in order, each step rounded once (fused), so that every instruction set gives the same
 * labels. Compile with -ffp-contract=off and without -ffast-math.
 *
 * No Python in here: decode_native.py calls edgeseg_decode through ctypes. Nothing full-size is
 * written but labels. Work is cut into strips of rows that threads take in turn.
 */

#include <math.h>
#include <stdint.h>
#include <string.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "labels are packed into words, lowest byte first"
#endif
#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#ifndef EDGESEG_SOURCE
#define EDGESEG_SOURCE "by hand"
#endif
#define EXPORT __attribute__((visibility("default")))

#include "decode_scores.h"
#include "strips.h"

/* As in decode_native.py, too. */
enum { PLAIN_C = 1, NEON = 2, AVX2 = 4, AVX512 = 8 };
enum { DONE, NO_MEMORY, NO_SUCH_ISA };

/* Strides of scores count elements, those of labels and confidence bytes. Units are runs of label
 * rows (columns) that lie in one cell: unit u starts at row_start[u] and ends where the next one
 * starts; `longest` is the length of the longest unit of columns; units of columns from `alike` to
 * before `alike_end` have the same shares. `rows` and `columns`, if given,
 * are the label row (column) that each row (column) of the output takes; rows never decrease. */
typedef struct {
    const void *scores;
    const float *weight, *bias; /* (r * r, channels, classes), (classes,) */
    const int32_t *row_low, *row_start, *column_low, *column_start;
    const float *row_share, *column_share; /* of each label row (column) */
    const int32_t *rows, *columns;
    uint8_t *labels, *confidence;
    int64_t frame_stride, channel_stride, row_stride, column_stride;
    int64_t labels_frame, labels_row, confidence_frame, confidence_row;
    int32_t frames, channels, height, width;
    int32_t classes, factor, row_units, column_units, longest, alike, alike_end;
    int32_t out_height, out_width;
    int32_t kind, type, isa, measure, threads;
} Job;

/* Scores of one row of cells, (channels, step) float32: the caller's, or converted in `copy`; and the
 * row's settled classes. */
typedef struct {
    const float *scores;
    float *copy;
    int32_t *sure;
    int64_t step, copy_step;
    int frame, y;
} Row;

enum { LANES = 16, TILE = 32 }; /* the widest W and the largest P * W */

/* What one thread works in. */
typedef struct {
    Row rows[2];
    float *corners, *shares, *values;
    int32_t *units, *classes;
    uint8_t *lines, *sure_lines, *planes, *sure_planes, *wanted;
    int64_t line, plane, corners_size;
    int shares_alike; /* the shares at hand are those of the units that are alike */
    int first, last;  /* output rows of the label rows at hand */
} Scratch;

/* ---- scores ---------------------------------------------------------------------------------- */

/* The first cell of row y, channel 0. */
static inline const char *cell_of(const Job *job, int frame, int y)
{
    int64_t at = frame * job->frame_stride + y * job->row_stride;
    return (const char *)job->scores + at * size_of(job->type);
}

/* ---- labels ---------------------------------------------------------------------------------- */

/* The first index in `rows` whose label row is not before y. */
static int first_row(const Job *job, int y)
{
    if (!job->rows) return y;
    int low = 0, high = job->out_height;
    while (low < high) {
        int middle = low + (high - low) / 2;
        if (job->rows[middle] < y)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* Which of the label rows top .. top + rows - 1 the output takes; 0 if none. */
static int want(const Job *job, Scratch *scratch, int top, int rows)
{
    scratch->first = first_row(job, top);
    scratch->last = first_row(job, top + rows);
    memset(scratch->wanted, job->rows == NULL, rows);
    for (int y = scratch->first; job->rows && y < scratch->last; y++)
        scratch->wanted[job->rows[y] - top] = 1;
    return scratch->first < scratch->last;
}

static void write_rows(const Job *job, const Scratch *scratch, const uint8_t *lines, uint8_t *to,
                       int64_t stride, int top)
{
    for (int y = scratch->first; y < scratch->last; y++) {
        const int row = job->rows ? job->rows[y] : y;
        uint8_t *out = to + y * stride;
        const uint8_t *line = lines + (row - top) * scratch->line;
        if (!job->columns)
            memcpy(out, line, job->out_width);
        else if (y > scratch->first && job->rows[y - 1] == row)
            memcpy(out, out - stride, job->out_width);
        else
            for (int x = 0; x < job->out_width; x++) out[x] = line[job->columns[x]];
    }
}

/* Label rows -> rows of the output. */
static void emit(const Job *job, const Scratch *scratch, int frame, int top)
{
    write_rows(job, scratch, scratch->lines, job->labels + frame * job->labels_frame,
               job->labels_row, top);
    if (job->confidence)
        write_rows(job, scratch, scratch->sure_lines,
                   job->confidence + frame * job->confidence_frame, job->confidence_row, top);
}

/* Bytes t .. t + count - 1 of each unit, as far as it has them. */
static inline void put(const Job *job, uint8_t *line, const int32_t *units, int lanes, int t,
                       int count, const int32_t *words)
{
    for (int i = 0; i < lanes; i++) {
        const int start = job->column_start[units[i]] + t, end = job->column_start[units[i] + 1];
        const int n = end - start < count ? end - start : count;
        if (n == 4)
            memcpy(line + start, &words[i], 4);
        else
            for (int b = 0; b < n; b++) line[start + b] = (uint8_t)((uint32_t)words[i] >> 8 * b);
    }
}

/* A row of labels where all four corners of a cell agree; the other units are listed. */
static int fill_settled(const Job *job, Scratch *scratch, const Row *upper, const Row *lower)
{
    uint8_t *line = scratch->lines;
    int left = 0;
    for (int u = 0; u < job->column_units; u++) {
        const int x = job->column_low[u], next = x + 1 < job->width ? x + 1 : x;
        const int start = job->column_start[u], end = job->column_start[u + 1];
        const int32_t label = upper->sure[x];
        const uint64_t bytes = (uint64_t)(label & 255) * 0x0101010101010101u;
        for (int at = start; at < end; at += 8) memcpy(line + at, &bytes, 8); /* a line has slack */
        scratch->units[left] = u;
        left += label < 0 || upper->sure[next] != label || lower->sure[x] != label ||
                lower->sure[next] != label;
    }
    return left;
}

static int all_units(const Job *job, Scratch *scratch)
{
    for (int u = 0; u < job->column_units; u++) scratch->units[u] = u;
    return job->column_units;
}

/* Planes of the r * r places -> r label rows. */
static void interleave(const Job *job, const Scratch *scratch, const uint8_t *planes, uint8_t *lines)
{
    const int r = job->factor, width = job->width;
    for (int dy = 0; dy < r; dy++) {
        if (!scratch->wanted[dy]) continue;
        const uint8_t *from = planes + (int64_t)dy * r * scratch->plane;
        uint8_t *to = lines + dy * scratch->line;
        if (r == 2) {
            const uint8_t *second = from + scratch->plane;
            for (int x = 0; x < width; x++) {
                to[2 * x] = from[x];
                to[2 * x + 1] = second[x];
            }
            continue;
        }
        for (int x = 0; x < width; x++)
            for (int dx = 0; dx < r; dx++) to[x * r + dx] = from[dx * scratch->plane + x];
    }
}

/* ---- one set of kernels for each instruction set --------------------------------------------- */

typedef void Strip(const Job *, Scratch *, int frame, int unit);

#define ISA_C
#include "decode_isa.h"
#include "decode_kernels.h"
#undef ISA_C
#if defined(__x86_64__)
#define ISA_AVX2
#include "decode_isa.h"
#include "decode_kernels.h"
#undef ISA_AVX2
#define ISA_AVX512
#include "decode_isa.h"
#include "decode_kernels.h"
#undef ISA_AVX512
#elif defined(__aarch64__)
#define ISA_NEON
#include "decode_isa.h"
#include "decode_kernels.h"
#undef ISA_NEON
#endif

/* The instruction sets that this processor has and this library holds, as a sum of bits. */
EXPORT int edgeseg_isas(void)
{
    int found = PLAIN_C;
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) found |= AVX2;
    if (found & AVX2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
        found |= AVX512;
#elif defined(__aarch64__)
    found |= NEON;
#endif
    return found;
}

static Strip *strip_of(const Job *job)
{
    const int bilinear = job->kind == BILINEAR;
    if (!(edgeseg_isas() & job->isa)) return NULL;
    switch (job->isa) {
    case PLAIN_C: return bilinear ? bilinear_c : places_c;
#if defined(__x86_64__)
    case AVX2: return bilinear ? bilinear_avx2 : places_avx2;
    case AVX512: return bilinear ? bilinear_avx512 : places_avx512;
#elif defined(__aarch64__)
    case NEON: return bilinear ? bilinear_neon : places_neon;
#endif
    default: return NULL;
    }
}

/* ---- memory and chunks ----------------------------------------------------------------------- */

/* Cut `bytes` from the block at *at; with memory NULL it only counts. */
static void *cut(char *memory, int64_t *at, int64_t bytes)
{
    char *place = memory ? memory + *at : NULL;
    *at += up(bytes, 64);
    return place;
}

static int64_t lay_out(const Job *job, Scratch *s, char *memory)
{
    const int bilinear = job->kind == BILINEAR;
    int64_t at = 0, tallest = job->factor;
    for (int u = 0; bilinear && u < job->row_units; u++)
        if (job->row_start[u + 1] - job->row_start[u] > tallest)
            tallest = job->row_start[u + 1] - job->row_start[u];
    /* An odd number of cache lines: channels of a row must not all fall on one place of the cache. */
    const int64_t step = (up(job->width, LANES) / LANES | 1) * LANES;
    for (int i = 0; bilinear && i < 2; i++) {
        s->rows[i].frame = s->rows[i].y = -1;
        s->rows[i].copy_step = step;
        s->rows[i].copy = cut(memory, &at, 4 * job->channels * step);
        s->rows[i].sure = cut(memory, &at, 4 * step);
    }
    s->corners_size = 4 * (int64_t)job->channels * (bilinear ? 4 * LANES : TILE);
    s->corners = cut(memory, &at, s->corners_size);
    s->shares = cut(memory, &at, 4 * (bilinear ? 2 * job->longest * LANES : 0));
    s->values = cut(memory, &at, 4 * job->classes * 4 * LANES);
    s->units = cut(memory, &at, 4 * (bilinear ? job->column_units + 1 : 0));
    s->classes = cut(memory, &at, 4 * (bilinear ? job->classes * LANES : 0));
    s->shares_alike = 0;
    s->wanted = cut(memory, &at, tallest);
    s->line = up((int64_t)job->width * job->factor, 64) + 64;
    s->lines = cut(memory, &at, tallest * s->line);
    s->sure_lines = cut(memory, &at, job->confidence ? tallest * s->line : 0);
    s->plane = up(job->width, TILE);
    const int64_t planes = bilinear ? 0 : (int64_t)job->factor * job->factor * s->plane;
    s->planes = cut(memory, &at, planes);
    s->sure_planes = cut(memory, &at, job->confidence ? planes : 0);
    return at;
}

/* One call: `chunks` of so many units of each frame. */
typedef struct {
    const Job *job;
    Strip *strip;
    int units, chunk, chunks;
} Work;

static void make_ready(const void *argument, void *room)
{
    const Work *work = argument;
    Scratch *scratch = room;
    lay_out(work->job, scratch, (char *)room + up(sizeof(Scratch), 64));
    memset(scratch->corners, 0, scratch->corners_size); /* cells beyond the edge are computed too */
}

static void do_chunk(const void *argument, void *room, int64_t number)
{
    const Work *work = argument;
    const int frame = (int)(number / work->chunks);
    const int first = (int)(number % work->chunks) * work->chunk;
    for (int u = first; u < first + work->chunk && u < work->units; u++)
        work->strip(work->job, room, frame, u);
}

/* Decode; DONE or what went wrong. `threads` counts the caller, who works too. */
EXPORT int edgeseg_decode(const Job *job)
{
    Strip *strip = strip_of(job);
    if (!strip) return NO_SUCH_ISA;
    /* Small chunks, as a thread may lose its core; a chunk of bilinear rows reads one row more. */
    const int pieces = job->kind == BILINEAR ? 4 : 16;
    const int strips = job->threads == 1 ? 1 : pieces * job->threads;
    const int units = job->kind == BILINEAR ? job->row_units : job->height;
    const int chunk = units / strips > 1 ? units / strips : 1;
    Scratch measured;
    const Work work = {job, strip, units, chunk, (units + chunk - 1) / chunk};
    const Strips all = {
        .job = &work, .start = make_ready, .piece = do_chunk, .threads = job->threads,
        .pieces = (int64_t)work.chunks * job->frames,
        .room = up(sizeof(Scratch), 64) + lay_out(job, &measured, NULL),
    };
    return do_strips(&all) == STRIPS_DONE ? DONE : NO_MEMORY;
}

EXPORT int64_t edgeseg_job_size(void) { return sizeof(Job); }

/* sha256 of the sources that this library was made from. */
EXPORT const char *edgeseg_source(void) { return EDGESEG_SOURCE; }

EXPORT const char *edgeseg_compiler(void)
{
#if defined(__clang__)
    return __VERSION__;
#else
    return "gcc " __VERSION__;
#endif
}
