/* The loops of decode.c, compiled once for each table of decode_isa.h. */

#include "decode_arithmetic.h"

/* n scores of one channel, `stride` apart, as floats; exact for every type. */
#define EACH(type, number)                                             \
    do {                                                               \
        const type *s = source;                                        \
        if (stride == 1)                                               \
            for (int i = 0; i < n; i++) out[i] = number(s[i]);         \
        else                                                           \
            for (int i = 0; i < n; i++) out[i] = number(s[i * stride]); \
    } while (0)

TARGET static void NAME(convert)(int type, const void *source, int64_t stride, int n, float *out)
{
    switch (type) {
    case FLOAT32: EACH(float, (float)); break;
    case FLOAT16: EACH(uint16_t, half); break;
    case BFLOAT16: EACH(uint16_t, brain); break;
    case INT8: EACH(int8_t, (float)); break;
    }
}

/* The confidence of the winners. `values` holds W scores of each class, `step` floats apart. */
INLINE I NAME(sureness)(int measure, const float *values, int64_t step, int classes, V best, I index)
{
    V sum = SET(0.0f), second = SET(0.0f);
    for (int c = 0; c < classes; c++)
        NAME(weigh)(LOAD(values + c * step), ISET(c), best, index, &sum, &second);
    return NAME(share)(measure, best, sum, second);
}

/* ---- bilinear ---------------------------------------------------------------------------- */

/* The first largest class of each cell of a row, or -1 where it is not larger than every other one
 * by more than rounding can take away.
 *
 * The value of a class at a pixel is f = fl(fl(l p) + fl(r q)) of fl(fl(a p') + fl(c q')), with
 * shares p, q >= 0 that are the same for all classes: it departs from the exact sum by less than
 * 4.1 * 2^-24 of the sum of sizes. So a class that leads at all four corners by more than 2^-19 of
 * the two sizes leads at every pixel between them, and no other class needs to be looked at. Where
 * the best is infinite or near overflow nothing is settled; a NaN or minus infinity of another class
 * stays one, or becomes the other, and does not win. */
TARGET static void NAME(settle)(const float *row, int64_t step, int classes, int width, int32_t *to)
{
    const V zero = SET(0.0f);
    for (int x = 0; x < width; x += W) {
        V best = SET(-INFINITY), second = best;
        I index = ISET(0);
        for (int c = 0; c < classes; c++) {
            V v = LOAD(row + c * step + x);
            M more = GT(v, best);
            second = PICK(more, best, PICK(GT(v, second), v, second));
            best = PICK(more, v, best);
            index = IPICK(more, ISET(c), index);
        }
        V size = ADD(PICK(GT(best, zero), best, SUB(zero, best)),
                     PICK(GT(second, zero), second, SUB(zero, second)));
        V needed = ADD(MUL(size, SET(0x1p-19f)), SET(1e-30f));
        index = IPICK(GT(SUB(best, second), needed), index, ISET(-1));
        index = IPICK(GT(SET(1e37f), size), index, ISET(-1));
        ISTORE(to + x, index);
    }
}

TARGET static void NAME(read_row)(const Job *job, Row *row, int frame, int y)
{
    if (row->y == y && row->frame == frame) return;
    const char *source = cell_of(job, frame, y);
    if (job->type == FLOAT32 && job->column_stride == 1 && job->width % W == 0) {
        row->scores = (const float *)source;
        row->step = job->channel_stride;
    } else {
        row->scores = row->copy;
        row->step = row->copy_step;
        for (int c = 0; c < job->channels; c++)
            NAME(convert)(job->type, source + c * job->channel_stride * size_of(job->type),
                          job->column_stride, job->width, row->copy + c * row->copy_step);
    }
    if (!job->confidence) NAME(settle)(row->scores, row->step, job->classes, job->width, row->sure);
    row->y = y;
    row->frame = frame;
}

/* The four corners of up to W cells, as `corners[class][a b c d][W]`. */
TARGET static void NAME(gather)(const Job *job, const Row *upper, const Row *lower,
                                const int32_t *units, int lanes, float *corners)
{
    int32_t low[W], high[W];
    int beside = 1; /* W cells in a row, none of them the last */
    for (int i = 0; i < W; i++) {
        low[i] = job->column_low[units[i < lanes ? i : lanes - 1]];
        high[i] = low[i] + 1 < job->width ? low[i] + 1 : low[i];
        beside &= low[i] == low[0] + i && high[i] == low[i] + 1;
    }
    for (int c = 0; c < job->classes; c++, corners += 4 * W) {
        const float *up = upper->scores + c * upper->step, *down = lower->scores + c * lower->step;
        if (beside) {
            STORE(corners, LOAD(up + low[0]));
            STORE(corners + W, LOAD(up + low[0] + 1));
            STORE(corners + 2 * W, LOAD(down + low[0]));
            STORE(corners + 3 * W, LOAD(down + low[0] + 1));
            continue;
        }
        for (int i = 0; i < W; i++) {
            corners[i] = up[low[i]];
            corners[i + W] = up[high[i]];
            corners[i + 2 * W] = down[low[i]];
            corners[i + 3 * W] = down[high[i]];
        }
    }
}

/* Which classes can win at all in W cells, in order: returns how many, and `classes` holds each W
 * times. A class is out where its largest corner lies below the smallest corner of a class of finite
 * scores by more than rounding can take away: both go through one monotone function, as above. */
TARGET static int NAME(narrow)(const Job *job, const float *corners, float *tops, int32_t *classes)
{
    const V zero = SET(0.0f);
    V level = SET(-INFINITY);
    for (int c = 0; c < job->classes; c++, corners += 4 * W) {
        V a = LOAD(corners), b = LOAD(corners + W), d = LOAD(corners + 2 * W);
        V e = LOAD(corners + 3 * W);
        M ab = GT(a, b), de = GT(d, e);
        V top = PICK(ab, a, b), other_top = PICK(de, d, e);
        V low = PICK(ab, b, a), other_low = PICK(de, e, d);
        V odd = MUL(ADD(ADD(a, b), ADD(d, e)), zero); /* NaN if any is NaN or infinite */
        top = PICK(GT(top, other_top), top, other_top);
        low = ADD(PICK(GT(low, other_low), other_low, low), odd);
        level = PICK(GT(low, level), low, level);
        STORE(tops + c * W, top);
    }
    V level_size = PICK(GT(level, zero), level, SUB(zero, level));
    int kept = 0;
    for (int c = 0; c < job->classes; c++) {
        V top = LOAD(tops + c * W);
        V size = ADD(level_size, PICK(GT(top, zero), top, SUB(zero, top)));
        V needed = ADD(MUL(size, SET(0x1p-19f)), SET(1e-30f));
        if (ALL(GT(SUB(level, top), needed))) continue;
        ISTORE(classes + kept * W, ISET(c));
        kept++;
    }
    return kept;
}

/* Labels of `count` pixels of W cells in one label row: label t of cell i is byte t of words[i]. */
INLINE void NAME(mix)(const Job *job, const Scratch *scratch, int kept, float below,
                      const float *shares, int count, int32_t *words, int32_t *sureness)
{
    const V lower = SET(below), upper = SET(1.0f - below);
    V best[4];
    I index[4];
#pragma GCC unroll 4
    for (int t = 0; t < count; t++) {
        best[t] = SET(-INFINITY);
        index[t] = ISET(0);
    }
    for (int k = 0; k < kept; k++) {
        const int c = scratch->classes[k * W];
        const I number = ILOAD(scratch->classes + k * W);
        const float *corners = scratch->corners + c * 4 * W;
        V left = NAME(between)(LOAD(corners), upper, LOAD(corners + 2 * W), lower);
        V right = NAME(between)(LOAD(corners + W), upper, LOAD(corners + 3 * W), lower);
#pragma GCC unroll 4
        for (int t = 0; t < count; t++) {
            V share = LOAD(shares + 2 * t * W), rest = LOAD(shares + (2 * t + 1) * W);
            V v = NAME(between)(left, rest, right, share);
            if (sureness) STORE(scratch->values + (4 * c + t) * W, v);
            NAME(choose)(v, number, &best[t], &index[t]);
        }
    }
    I packed = index[0];
#pragma GCC unroll 4
    for (int t = 1; t < count; t++) packed = IOR(packed, ISHL(index[t], 8 * t));
    ISTORE(words, packed);
    if (!sureness) return;
    packed = ISET(0);
    for (int t = 0; t < count; t++) {
        I n = NAME(sureness)(job->measure, scratch->values + t * W, 4 * W, job->classes, best[t],
                             index[t]);
        packed = IOR(packed, ISHL(n, 8 * t));
    }
    ISTORE(sureness, packed);
}

/* `mix` with the count known to the compiler, so that labels stay in registers. */
TARGET static void NAME(mix_some)(const Job *job, const Scratch *scratch, int kept, float below,
                                  const float *shares, int count, int32_t *words, int32_t *sureness)
{
    switch (sureness ? 0 : count) {
    case 1: NAME(mix)(job, scratch, kept, below, shares, 1, words, NULL); break;
    case 2: NAME(mix)(job, scratch, kept, below, shares, 2, words, NULL); break;
    case 3: NAME(mix)(job, scratch, kept, below, shares, 3, words, NULL); break;
    case 4: NAME(mix)(job, scratch, kept, below, shares, 4, words, NULL); break;
    default: NAME(mix)(job, scratch, kept, below, shares, count, words, sureness);
    }
}

/* The shares of W cells' pixels: for each pixel t of a cell its share, then one less its share. */
TARGET static const float *NAME(shares_of)(const Job *job, Scratch *scratch, const int32_t *units,
                                           int lanes)
{
    const int inner = units[0] >= job->alike && units[lanes - 1] < job->alike_end;
    if (inner && scratch->shares_alike) return scratch->shares;
    float *shares = scratch->shares;
    for (int i = 0; i < W; i++) {
        const int u = units[i < lanes ? i : lanes - 1];
        const int start = job->column_start[u], last = job->column_start[u + 1] - 1;
        for (int t = 0; t < job->longest; t++) {
            const float share = job->column_share[start + t < last ? start + t : last];
            shares[2 * t * W + i] = share;
            shares[(2 * t + 1) * W + i] = 1.0f - share;
        }
    }
    scratch->shares_alike = inner;
    return shares;
}

/* Labels of up to W cells, all label rows that are wanted. */
TARGET static void NAME(mix_cells)(const Job *job, Scratch *scratch, const int32_t *units,
                                   int lanes, int top, int rows)
{
    int32_t words[W], sureness[W];
    const float *shares = NAME(shares_of)(job, scratch, units, lanes);
    int kept = job->classes;
    if (job->confidence)
        for (int c = 0; c < kept; c++) ISTORE(scratch->classes + c * W, ISET(c));
    else
        kept = NAME(narrow)(job, scratch->corners, scratch->values, scratch->classes);
    for (int y = 0; y < rows; y++) {
        if (!scratch->wanted[y]) continue;
        const float below = job->row_share[top + y];
        for (int t = 0; t < job->longest; t += 4) {
            int count = job->longest - t < 4 ? job->longest - t : 4;
            NAME(mix_some)(job, scratch, kept, below, shares + 2 * t * W, count, words,
                           job->confidence ? sureness : NULL);
            put(job, scratch->lines + y * scratch->line, units, lanes, t, count, words);
            if (job->confidence)
                put(job, scratch->sure_lines + y * scratch->line, units, lanes, t, count, sureness);
        }
    }
}

TARGET static void NAME(bilinear)(const Job *job, Scratch *scratch, int frame, int unit)
{
    const int top = job->row_start[unit], rows = job->row_start[unit + 1] - top;
    if (!want(job, scratch, top, rows)) return;
    const int y = job->row_low[unit], next = y + 1 < job->height ? y + 1 : y;
    Row *upper = &scratch->rows[y & 1], *lower = &scratch->rows[next & 1];
    NAME(read_row)(job, upper, frame, y);
    NAME(read_row)(job, lower, frame, next);
    int left = job->confidence ? all_units(job, scratch) : fill_settled(job, scratch, upper, lower);
    for (int y2 = 1; y2 < rows && left < job->column_units; y2++)
        memcpy(scratch->lines + y2 * scratch->line, scratch->lines, scratch->line);
    for (int first = 0; first < left; first += W) {
        int lanes = left - first < W ? left - first : W;
        NAME(gather)(job, upper, lower, scratch->units + first, lanes, scratch->corners);
        NAME(mix_cells)(job, scratch, scratch->units + first, lanes, top, rows);
    }
    emit(job, scratch, frame, top);
}

/* ---- deconvolution, DUpsample, pixel shuffle ------------------------------------------------ */

/* Scores of `count` classes from `first` at P * W positions; the best so far goes on. */
INLINE void NAME(tile)(const Job *job, const float *cells, const float *weight, int first,
                       int count, V *best, I *index, float *values)
{
    V sums[J][P];
#pragma GCC unroll 16
    for (int j = 0; j < count; j++)
#pragma GCC unroll 4
        for (int p = 0; p < P; p++) sums[j][p] = SET(job->bias[first + j]);
    for (int c = 0; c < job->channels; c++) {
        const float *w = weight + (int64_t)c * job->classes + first;
        V x[P];
#pragma GCC unroll 4
        for (int p = 0; p < P; p++) x[p] = LOAD(cells + (c * P + p) * W);
#pragma GCC unroll 16
        for (int j = 0; j < count; j++) {
            V share = SET(w[j]);
#pragma GCC unroll 4
            for (int p = 0; p < P; p++) sums[j][p] = NAME(add_share)(sums[j][p], share, x[p]);
        }
    }
#pragma GCC unroll 16
    for (int j = 0; j < count; j++)
#pragma GCC unroll 4
        for (int p = 0; p < P; p++) {
            if (values) STORE(values + ((first + j) * P + p) * W, sums[j][p]);
            NAME(choose)(sums[j][p], ISET(first + j), &best[p], &index[p]);
        }
}

#define CASE(n) case n: NAME(tile)(job, cells, weight, first, n, best, index, values); break

/* The best class at P * W positions for one place of the kernel: classes in tiles of equal size. */
TARGET static void NAME(multiply)(const Job *job, const float *cells, const float *weight, V *best,
                                  I *index, float *values)
{
    const int tiles = (job->classes + J - 1) / J;
    int first = 0;
    for (int i = 0; i < tiles; i++) {
        int count = (job->classes - first + tiles - i - 1) / (tiles - i);
        switch (count) {
            CASE(1); CASE(2); CASE(3); CASE(4);
#if J >= 5
            CASE(5);
#endif
#if J >= 10
            CASE(6); CASE(7); CASE(8); CASE(9); CASE(10);
#endif
        }
        first += count;
    }
}

#undef CASE

/* Pixel shuffle: the class scores lie in the channels, r * r places of each class together. */
TARGET static void NAME(compare)(const Job *job, const float *cells, int place, V *best, I *index,
                                 float *values)
{
    const int places = job->factor * job->factor;
    for (int c = 0; c < job->classes; c++)
        for (int p = 0; p < P; p++) {
            V v = LOAD(cells + (((int64_t)c * places + place) * P + p) * W);
            if (values) STORE(values + (c * P + p) * W, v);
            NAME(choose)(v, ISET(c), &best[p], &index[p]);
        }
}

/* Labels of P * W cells of a row from x on: a plane of bytes for each place of the kernel. */
TARGET static void NAME(cells)(const Job *job, Scratch *scratch, int x)
{
    const int r = job->factor;
    float *values = job->confidence ? scratch->values : NULL;
    for (int place = 0; place < r * r; place++) {
        if (!scratch->wanted[place / r]) continue;
        V best[P];
        I index[P];
        int32_t words[P * W];
        for (int p = 0; p < P; p++) {
            best[p] = SET(-INFINITY);
            index[p] = ISET(0);
        }
        if (job->kind == SHUFFLE)
            NAME(compare)(job, scratch->corners, place, best, index, values);
        else
            NAME(multiply)(job, scratch->corners,
                           job->weight + (int64_t)place * job->channels * job->classes, best,
                           index, values);
        uint8_t *to = scratch->planes + place * scratch->plane + x;
        for (int p = 0; p < P; p++) ISTORE(words + p * W, index[p]);
        for (int i = 0; i < P * W; i++) to[i] = (uint8_t)words[i];
        if (!values) continue;
        for (int p = 0; p < P; p++)
            ISTORE(words + p * W, NAME(sureness)(job->measure, values + p * W, P * W, job->classes,
                                                 best[p], index[p]));
        to = scratch->sure_planes + place * scratch->plane + x;
        for (int i = 0; i < P * W; i++) to[i] = (uint8_t)words[i];
    }
}

TARGET static void NAME(places)(const Job *job, Scratch *scratch, int frame, int y)
{
    const int r = job->factor;
    if (!want(job, scratch, y * r, r)) return;
    const char *source = cell_of(job, frame, y);
    const int64_t size = size_of(job->type);
    for (int x = 0; x < job->width; x += P * W) {
        const int n = job->width - x < P * W ? job->width - x : P * W;
        for (int c = 0; c < job->channels; c++)
            NAME(convert)(job->type,
                          source + (c * job->channel_stride + x * job->column_stride) * size,
                          job->column_stride, n, scratch->corners + (int64_t)c * P * W);
        NAME(cells)(job, scratch, x);
    }
    interleave(job, scratch, scratch->planes, scratch->lines);
    if (job->confidence) interleave(job, scratch, scratch->sure_planes, scratch->sure_lines);
    emit(job, scratch, frame, y * r);
}

#undef EACH
#undef INLINE
#undef NAME
#undef TARGET
#undef W
#undef P
#undef J
#undef V
#undef I
#undef M
#undef LOAD
#undef STORE
#undef SET
#undef ADD
#undef SUB
#undef MUL
#undef DIV
#undef FMA
#undef GT
#undef PICK
#undef IPICK
#undef ISET
#undef IEQ
#undef IADD
#undef IOR
#undef ISHL
#undef ISTORE
#undef ILOAD
#undef ALL
#undef BITS
#undef FLOATS
#undef WHOLE
