/* The arithmetic of decode, once for every table of decode_isa.h: AVX-512, AVX2, NEON, plain C, and
 * single numbers, which is what CUDA's kernels compute. No step is contracted: a MUL and an ADD round
 * each, an FMA rounds once, so labels and confidence are the same bits on all of them. */

#ifndef INLINE
#define INLINE static inline __attribute__((always_inline)) TARGET
#endif

/* Between two cells, whose shares of the pixel are `rest` and `share`. */
INLINE V NAME(between)(V first, V rest, V second, V share)
{
    return ADD(MUL(first, rest), MUL(second, share));
}

/* One channel's part of a deconvolution's sum. */
INLINE V NAME(add_share)(V sum, V weight, V cell) { return FMA(weight, cell, sum); }

/* Class `number` has score v: the first largest one stays. NaN is larger than nothing. */
INLINE void NAME(choose)(V v, I number, V *best, I *index)
{
    M more = GT(v, *best);
    *best = PICK(more, v, *best);
    *index = IPICK(more, number, *index);
}

/* e to the power of d <= 0; 0 below -80 and for NaN. Relative error below 1e-6. */
INLINE V NAME(power)(V d)
{
    V shifted = FMA(d, SET(1.44269504f), SET(12582912.0f));
    V n = SUB(shifted, SET(12582912.0f)); /* d / ln 2 to the nearest whole number */
    V r = FMA(n, SET(-0.693359375f), d);  /* ln 2 in two parts, the first exact in few bits */
    r = FMA(n, SET(2.12194440e-4f), r);
    V sum = SET(1.0f / 720);
    sum = FMA(sum, r, SET(1.0f / 120));
    sum = FMA(sum, r, SET(1.0f / 24));
    sum = FMA(sum, r, SET(1.0f / 6));
    sum = FMA(sum, r, SET(0.5f));
    sum = FMA(sum, r, SET(1.0f));
    sum = FMA(sum, r, SET(1.0f));
    V value = FLOATS(IADD(BITS(sum), ISHL(BITS(shifted), 23)));
    return PICK(GT(d, SET(-80.0f)), value, SET(0.0f));
}

/* Class `number` has score v, the winner `index` has `best`: what that adds to the sum of the others,
 * and the second. */
INLINE void NAME(weigh)(V v, I number, V best, I index, V *sum, V *second)
{
    V e = NAME(power)(SUB(v, best));
    e = PICK(IEQ(index, number), SET(0.0f), e);
    *sum = ADD(*sum, e);
    *second = PICK(GT(e, *second), e, *second);
}

/* 255 times the softmax of the winner (or its lead over the second), to the nearest whole number. */
INLINE I NAME(share)(int measure, V best, V sum, V second)
{
    V top = measure == MARGIN ? SUB(SET(1.0f), second) : SET(1.0f);
    V share = DIV(top, ADD(SET(1.0f), sum));
    share = PICK(GT(best, SET(-INFINITY)), share, SET(0.0f));
    return WHOLE(ADD(MUL(share, SET(255.0f)), SET(0.5f)));
}
