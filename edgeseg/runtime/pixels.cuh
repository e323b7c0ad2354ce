/* One pixel of the network's input, and one label: what pixels.cu runs a thread for.
 *
 * Plain C as well as CUDA, so that tests compile it without a GPU. Frames are prepared with the arithmetic
 * of prepare.c and the taps of edgeseg/frame.py, labels are decoded with that of decode.c.
 */

#ifndef EDGESEG_PIXELS_CUH
#define EDGESEG_PIXELS_CUH

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "decode_scores.h"
#define ISA_ONE
#include "decode_isa.h"
#include "decode_arithmetic.h"
#include "prepare_arithmetic.h"

#ifdef __CUDACC__
#define KERNEL extern "C" __global__
#else
#define KERNEL
#endif

/* As in pixel_jobs.py. */
enum { LABELS = SHUFFLE + 1 }; /* the network's labels as they are: only taken */

/* A frame -> the network's input. Strides and offsets are bytes. Row y of the target is the sum of rows
 * row_first[y] + k of the source times row_weight[y * row_taps + k]; columns alike. */
typedef struct {
    const uint8_t *frame, *chroma; /* of NV12 luma, and a plane of U and V in turn */
    uint8_t *image;                /* (network_height, network_width, 3) */
    const int32_t *row_first, *column_first;
    const int16_t *row_weight, *column_weight;
    int32_t frame_stride, chroma_stride, format, swap;
    int32_t source_top, source_left; /* in the frame */
    int32_t top, left, height, width; /* of the target in the network's input */
    int32_t network_height, network_width;
    int32_t row_taps, column_taps;
    uint8_t fill[4];
} PrepareJob;

/* Scores -> labels. Strides count scores. `rows` and `columns`, if given, are the label row (column)
 * that each row (column) of the output takes. */
typedef struct {
    const void *scores;
    const float *weight, *bias; /* (r * r, channels, classes), (classes,) */
    const int32_t *row_low, *column_low;
    const float *row_share, *column_share; /* of each label row (column) */
    const int32_t *rows, *columns;
    uint8_t *labels, *confidence; /* (frames, out_height, out_width); confidence may be none */
    int32_t channels, height, width, classes, factor;
    int32_t out_height, out_width, kind, type, measure;
} DecodeJob;

/* ---- frames ---------------------------------------------------------------------------------- */

/* The three channels of a pixel of the frame: red, green, blue, or as they lie in the frame. */
DEVICE static inline void read_pixel(const PrepareJob *job, int y, int x, uint8_t *pixel)
{
    const uint8_t *row = job->frame + (int64_t)y * job->frame_stride;
    switch (job->format) {
    case NV12: nv12_pixel(row, job->chroma + (int64_t)(y / 2) * job->chroma_stride, x, pixel); return;
    case YUYV: yuyv_pixel(row, x, pixel); return;
    case GREY: pixel[0] = pixel[1] = pixel[2] = row[x]; return;
    default:
        for (int c = 0; c < 3; c++) pixel[c] = row[3 * x + c];
    }
}

/* Pixel (y, x) of the network's input: rows are mixed first, then columns. */
DEVICE static inline void prepare_pixel(const PrepareJob *job, int y, int x)
{
    uint8_t *to = job->image + 3 * ((int64_t)y * job->network_width + x);
    const int row = y - job->top, column = x - job->left;
    if (row < 0 || row >= job->height || column < 0 || column >= job->width) {
        for (int c = 0; c < 3; c++) to[c] = job->fill[c];
        return;
    }
    const int16_t *row_weight = job->row_weight + (int64_t)row * job->row_taps;
    const int16_t *column_weight = job->column_weight + (int64_t)column * job->column_taps;
    const int from_y = job->source_top + job->row_first[row];
    const int from_x = job->source_left + job->column_first[column];
    int32_t sums[3] = {HALF_REST, HALF_REST, HALF_REST};
    for (int i = 0; i < job->column_taps; i++) {
        const int weight = column_weight[i];
        if (!weight) continue;
        int32_t mixed[3] = {HALF_FINE, HALF_FINE, HALF_FINE};
        for (int k = 0; k < job->row_taps; k++) {
            uint8_t pixel[3];
            read_pixel(job, from_y + k, from_x + i, pixel);
            for (int c = 0; c < 3; c++) mixed[c] += row_weight[k] * pixel[c];
        }
        for (int c = 0; c < 3; c++) sums[c] += weight * (mixed[c] >> FINE);
    }
    for (int c = 0; c < 3; c++) to[job->swap ? 2 - c : c] = (uint8_t)(sums[c] >> REST);
}

/* ---- labels ---------------------------------------------------------------------------------- */

/* Score number `at` of any type, as a float. */
DEVICE static inline float score(const DecodeJob *job, int64_t at)
{
    switch (job->type) {
    case FLOAT32: return ((const float *)job->scores)[at];
    case FLOAT16: return half(((const uint16_t *)job->scores)[at]);
    case BFLOAT16: return brain(((const uint16_t *)job->scores)[at]);
    default: return (float)((const int8_t *)job->scores)[at];
    }
}

/* What one label needs: where its scores lie, and how they are mixed. */
typedef struct {
    int64_t corners[4], step; /* bilinear: of class 0, upper left and right, lower left and right */
    float above, below, left, right;
    const float *weight; /* deconvolution: of the label's place in its cell */
} Mix;

DEVICE static inline Mix find_mix(const DecodeJob *job, int frame, int y, int x)
{
    Mix mix = {{0, 0, 0, 0}, (int64_t)job->height * job->width, 0, 0, 0, 0, NULL};
    const int64_t first = (int64_t)frame * job->channels * mix.step;
    if (job->kind == BILINEAR) {
        const int up = job->row_low[y], down = up + 1 < job->height ? up + 1 : up;
        const int near_x = job->column_low[x], far_x = near_x + 1 < job->width ? near_x + 1 : near_x;
        mix.corners[0] = first + (int64_t)up * job->width + near_x;
        mix.corners[1] = first + (int64_t)up * job->width + far_x;
        mix.corners[2] = first + (int64_t)down * job->width + near_x;
        mix.corners[3] = first + (int64_t)down * job->width + far_x;
        mix.below = job->row_share[y];
        mix.right = job->column_share[x];
        mix.above = SUB(1.0f, mix.below);
        mix.left = SUB(1.0f, mix.right);
        return mix;
    }
    const int r = job->factor, place = y % r * r + x % r;
    mix.corners[0] = first + (int64_t)(y / r) * job->width + x / r;
    if (job->kind == DECONVOLUTION)
        mix.weight = job->weight + (int64_t)place * job->channels * job->classes;
    else
        mix.corners[0] += place * mix.step;
    return mix;
}

enum { TOGETHER = 8 }; /* classes whose sums are in registers at once */

/* Scores of `count` classes from `first` on, at full size. */
DEVICE static inline void full_scores(const DecodeJob *job, const Mix *mix, int first, int count,
                                      float *to)
{
    if (job->kind == DECONVOLUTION) {
        for (int j = 0; j < TOGETHER; j++) to[j] = j < count ? job->bias[first + j] : 0.0f;
        for (int c = 0; c < job->channels; c++) {
            const float cell = score(job, mix->corners[0] + c * mix->step);
            const float *weight = mix->weight + (int64_t)c * job->classes + first;
            for (int j = 0; j < TOGETHER; j++)
                if (j < count) to[j] = add_share_one(to[j], weight[j], cell);
        }
        return;
    }
    const int planes = job->kind == SHUFFLE ? job->factor * job->factor : 1;
    for (int j = 0; j < count; j++) {
        const int64_t at = (int64_t)(first + j) * planes * mix->step;
        if (job->kind == SHUFFLE) {
            to[j] = score(job, mix->corners[0] + at);
            continue;
        }
        const float a = score(job, mix->corners[0] + at), b = score(job, mix->corners[1] + at);
        const float d = score(job, mix->corners[2] + at), e = score(job, mix->corners[3] + at);
        to[j] = between_one(between_one(a, mix->above, d, mix->below), mix->left,
                            between_one(b, mix->above, e, mix->below), mix->right);
    }
}

/* Pixel (y, x) of the output: its label, and its confidence if that is asked for. */
DEVICE static inline void decode_pixel(const DecodeJob *job, int frame, int y, int x)
{
    const int64_t to = ((int64_t)frame * job->out_height + y) * job->out_width + x;
    const int row = job->rows ? job->rows[y] : y, column = job->columns ? job->columns[x] : x;
    if (job->kind == LABELS) {
        const uint8_t *labels = (const uint8_t *)job->scores;
        job->labels[to] = labels[((int64_t)frame * job->height + row) * job->width + column];
        return;
    }
    const Mix mix = find_mix(job, frame, row, column);
    float values[TOGETHER], best = -INFINITY, sum = 0.0f, second = 0.0f;
    int32_t index = 0;
    for (int first = 0; first < job->classes; first += TOGETHER) {
        const int count = job->classes - first < TOGETHER ? job->classes - first : TOGETHER;
        full_scores(job, &mix, first, count, values);
        for (int j = 0; j < count; j++) choose_one(values[j], first + j, &best, &index);
    }
    job->labels[to] = (uint8_t)index;
    if (!job->confidence) return;
    for (int first = 0; first < job->classes; first += TOGETHER) {
        const int count = job->classes - first < TOGETHER ? job->classes - first : TOGETHER;
        full_scores(job, &mix, first, count, values);
        for (int j = 0; j < count; j++) weigh_one(values[j], first + j, best, index, &sum, &second);
    }
    job->confidence[to] = (uint8_t)share_one(job->measure, best, sum, second);
}

#endif
