/* decode.c without Python, for processors that tests do not run on and for sanitizers:
 *
 *   cc -std=c11 -O2 -ffp-contract=off -pthread tests/native/decode_check.c -o check -lm && ./check
 *
 * Random jobs of every kind and type go through every instruction set of the machine; labels and
 * confidence must agree, and the last line, a checksum of all of them, is the same everywhere.
 */

#include "../../edgeseg/runtime/decode.c"

#include <stdio.h>

static uint64_t state = 1;

static uint32_t draw(uint32_t below)
{
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(state >> 33) % below;
}

/* Whole and broken numbers, ties, a few NaN and infinities. */
static float score(int odd)
{
    if (odd && draw(40) == 0) return draw(3) ? (draw(2) ? INFINITY : -INFINITY) : NAN;
    return (float)((int)draw(2001) - 1000) / (draw(2) ? 64.0f : 300.0f);
}

typedef struct {
    int32_t *low, *start;
    float *share;
    int units, longest, alike_end;
} Axis;

/* Units as decode_native.py makes them; positions are whole multiples of 1 / unit. */
static Axis axis(int corners, int cells, int factor)
{
    const int pixels = cells * factor;
    const int64_t unit = corners ? (pixels > 1 ? pixels - 1 : 1) : 2 * factor;
    Axis a = {malloc(4 * pixels), malloc(4 * (pixels + 1)), malloc(4 * pixels), 0, factor + corners, 0};
    int *cell = malloc(sizeof(int) * pixels), first = 0;
    for (int i = 0; i < pixels; i++) {
        int64_t at = corners ? (int64_t)i * (cells - 1) : 2 * i + 1 - factor;
        at = at < 0 ? 0 : at > (cells - 1) * unit ? (cells - 1) * unit : at;
        cell[i] = (int)(at / unit);
        a.share[i] = (float)((double)(at % unit) / (double)unit);
    }
    for (int i = 1; i <= pixels; i++) {
        if (i < pixels && cell[i] == cell[first]) continue;
        int length = (i - first) % a.longest;
        for (int at = first; at < i; at += length ? length : a.longest, length = 0) {
            a.low[a.units] = cell[first];
            a.start[a.units++] = at;
        }
        first = i;
    }
    a.start[a.units] = pixels;
    a.alike_end = corners || a.units < 3 ? 0 : a.units - 1;
    free(cell);
    return a;
}

static uint64_t sum = 1469598103934665603u;

static void add(const uint8_t *bytes, int64_t n)
{
    for (int64_t i = 0; i < n; i++) sum = (sum ^ bytes[i]) * 1099511628211u;
}

static int check(int number)
{
    static const int sizes[] = {4, 2, 2, 1};
    Job job = {0};
    job.kind = draw(3);
    job.type = draw(4);
    job.factor = 1 + draw(job.kind == BILINEAR ? 8 : 4);
    job.classes = 2 + draw(draw(4) ? 24 : 255);
    job.channels = job.kind == SHUFFLE ? job.classes * job.factor * job.factor
                   : job.kind == DECONVOLUTION ? 1 + (int)draw(40) : job.classes;
    job.frames = 1 + draw(2);
    job.height = 1 + draw(7);
    job.width = 1 + draw(70);
    job.measure = draw(2);
    const int odd = draw(2), last = draw(2); /* channels last */
    const int64_t cells = (int64_t)job.height * job.width, all = job.frames * job.channels * cells;
    job.frame_stride = job.channels * cells;
    job.channel_stride = last ? 1 : cells;
    job.column_stride = last ? job.channels : 1;
    job.row_stride = job.width * job.column_stride;
    char *scores = malloc(all * sizes[job.type]); /* exactly as large: sanitizers see the edge */
    for (int64_t i = 0; i < all; i++) {
        float value = draw(3) || i < 8 ? score(odd) : 0;
        if (job.type == FLOAT32) memcpy(scores + 4 * i, &value, 4);
        else if (job.type == INT8) scores[i] = (char)((int)draw(255) - 127);
        else ((uint16_t *)scores)[i] = (uint16_t)draw(odd ? 65536 : 31000);
    }
    job.scores = scores;
    Axis rows = {0}, columns = {0};
    if (job.kind == BILINEAR) {
        const int corners = draw(2);
        rows = axis(corners, job.height, job.factor);
        columns = axis(corners, job.width, job.factor);
        job.row_low = rows.low, job.row_start = rows.start, job.row_share = rows.share;
        job.column_low = columns.low, job.column_start = columns.start;
        job.column_share = columns.share;
        job.row_units = rows.units, job.column_units = columns.units;
        job.longest = columns.longest, job.alike = 1, job.alike_end = columns.alike_end;
    }
    const int64_t weights = (int64_t)job.factor * job.factor * job.channels * job.classes;
    float *weight = malloc(4 * weights), *bias = malloc(4 * job.classes);
    for (int64_t i = 0; i < weights; i++) weight[i] = score(0);
    for (int i = 0; i < job.classes; i++) bias[i] = score(0);
    job.weight = weight, job.bias = bias;
    job.out_height = job.height * job.factor;
    job.out_width = job.width * job.factor;
    int32_t *taken_rows = NULL, *taken_columns = NULL;
    if (draw(2)) {
        const int full_height = job.out_height, full_width = job.out_width;
        job.out_height = 1 + draw(3 * full_height);
        job.out_width = 1 + draw(3 * full_width);
        taken_rows = malloc(4 * job.out_height), taken_columns = malloc(4 * job.out_width);
        for (int i = 0; i < job.out_height; i++)
            taken_rows[i] = (int)((int64_t)i * full_height / job.out_height);
        for (int i = 0; i < job.out_width; i++) taken_columns[i] = draw(full_width);
    }
    job.rows = taken_rows, job.columns = taken_columns;
    job.labels_row = job.confidence_row = job.out_width;
    job.labels_frame = job.confidence_frame = (int64_t)job.out_height * job.out_width;
    const int64_t bytes = job.frames * job.labels_frame;
    uint8_t *found[2] = {malloc(bytes), malloc(bytes)}, *sure[2] = {malloc(bytes), malloc(bytes)};
    int wrong = 0, seen = 0;
    for (job.isa = AVX512; job.isa; job.isa >>= 1)
        for (int confident = 0; confident < 2 && edgeseg_isas() & job.isa; confident++) {
            const int here = seen > 0;
            job.threads = 1 + draw(3);
            job.labels = found[here];
            job.confidence = confident ? sure[here && seen > 1] : NULL;
            wrong |= edgeseg_decode(&job) != DONE;
            wrong |= here && memcmp(found[0], found[1], bytes);
            wrong |= confident && seen > 1 && memcmp(sure[0], sure[1], bytes);
            seen++;
        }
    if (wrong) printf("job %d: kind %d, type %d, factor %d, classes %d: instruction sets differ\n",
                      number, job.kind, job.type, job.factor, job.classes);
    add(found[0], bytes);
    add(sure[0], bytes);
    free(rows.low), free(rows.start), free(rows.share);
    free(columns.low), free(columns.start), free(columns.share);
    free(weight), free(bias), free(scores), free(taken_rows), free(taken_columns);
    for (int i = 0; i < 2; i++) free(found[i]), free(sure[i]);
    return wrong;
}

int main(int count, char **words)
{
    const int jobs = count > 1 ? atoi(words[1]) : 300;
    int wrong = 0;
    for (int i = 0; i < jobs; i++) {
        state = 0x9e3779b97f4a7c15u * (uint64_t)(i + 1); /* whatever threads were drawn before */
        wrong += check(i);
    }
    printf("instruction sets %d, jobs %d, wrong %d\n%016llx\n", edgeseg_isas(), jobs, wrong,
           (unsigned long long)sum);
    return wrong > 0;
}
