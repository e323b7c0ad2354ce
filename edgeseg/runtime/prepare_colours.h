/* Rows of a camera's format -> red, green and blue beside each other; part of prepare.c. What ends in
 * _avx2 returns how many pixels it has done: 16 at a time. */

#if defined(__x86_64__)
#define TARGET __attribute__((target("avx2")))
#define INLINE static inline __attribute__((always_inline)) TARGET
#endif

static void nv12_c(const uint8_t *y, const uint8_t *uv, int from, int width, uint8_t *to)
{
    for (int x = from; x < width; x++) nv12_pixel(y, uv, x, to + 3 * x);
}

static void yuyv_c(const uint8_t *row, int from, int width, uint8_t *to)
{
    for (int x = from; x < width; x++) yuyv_pixel(row, x, to + 3 * x);
}

static void grey_c(const uint8_t *row, int64_t stride, int from, int width, uint8_t *to)
{
    for (int x = from; x < width; x++)
        to[3 * x] = to[3 * x + 1] = to[3 * x + 2] = row[x * stride];
}

#if defined(__x86_64__)
/* Three planes of 16 bytes -> 16 pixels. */
INLINE void weave(__m128i r, __m128i g, __m128i b, uint8_t *to)
{
    const __m128i rs = _mm_setr_epi8(0, 11, 6, 1, 12, 7, 2, 13, 8, 3, 14, 9, 4, 15, 10, 5);
    const __m128i gs = _mm_setr_epi8(5, 0, 11, 6, 1, 12, 7, 2, 13, 8, 3, 14, 9, 4, 15, 10);
    const __m128i bs = _mm_setr_epi8(10, 5, 0, 11, 6, 1, 12, 7, 2, 13, 8, 3, 14, 9, 4, 15);
    const __m128i first = _mm_setr_epi8(-1, 0, 0, -1, 0, 0, -1, 0, 0, -1, 0, 0, -1, 0, 0, -1);
    const __m128i second = _mm_setr_epi8(0, -1, 0, 0, -1, 0, 0, -1, 0, 0, -1, 0, 0, -1, 0, 0);
    r = _mm_shuffle_epi8(r, rs);
    g = _mm_shuffle_epi8(g, gs);
    b = _mm_shuffle_epi8(b, bs);
    __m128i one = _mm_blendv_epi8(_mm_blendv_epi8(b, g, second), r, first);
    __m128i two = _mm_blendv_epi8(_mm_blendv_epi8(r, b, second), g, first);
    __m128i three = _mm_blendv_epi8(_mm_blendv_epi8(g, r, second), b, first);
    _mm_storeu_si128((__m128i *)to, one);
    _mm_storeu_si128((__m128i *)(to + 16), two);
    _mm_storeu_si128((__m128i *)(to + 32), three);
}

INLINE __m256i two_products(__m256i a, __m256i b, int wa, int wb, __m256i *high)
{
    const __m256i w = _mm256_set1_epi32((int)((uint32_t)(uint16_t)wa | (uint32_t)wb << 16));
    *high = _mm256_madd_epi16(_mm256_unpackhi_epi16(a, b), w);
    return _mm256_madd_epi16(_mm256_unpacklo_epi16(a, b), w);
}

/* Sums in two halves -> 16 bytes. */
INLINE __m128i bytes(__m256i low, __m256i high)
{
    const __m256i half = _mm256_set1_epi32(HALF);
    low = _mm256_srai_epi32(_mm256_add_epi32(low, half), 13);
    high = _mm256_srai_epi32(_mm256_add_epi32(high, half), 13);
    const __m256i words = _mm256_packs_epi32(low, high);
    return _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
}

INLINE void colours(__m128i y8, __m128i u8, __m128i v8, uint8_t *to)
{
    const __m256i middle = _mm256_set1_epi16(128);
    const __m256i y = _mm256_sub_epi16(_mm256_cvtepu8_epi16(y8), _mm256_set1_epi16(16));
    const __m256i u = _mm256_sub_epi16(_mm256_cvtepu8_epi16(u8), middle);
    const __m256i v = _mm256_sub_epi16(_mm256_cvtepu8_epi16(v8), middle);
    __m256i high, more;
    __m256i low = two_products(y, v, LUMA, RED_V, &high);
    const __m128i r = bytes(low, high);
    low = two_products(y, u, LUMA, -GREEN_U, &high);
    low = _mm256_add_epi32(low, two_products(v, middle, -GREEN_V, 0, &more));
    const __m128i g = bytes(low, _mm256_add_epi32(high, more));
    low = two_products(y, u, LUMA, BLUE_U, &high);
    weave(r, g, bytes(low, high), to);
}

TARGET static int nv12_avx2(const uint8_t *y, const uint8_t *uv, int width, uint8_t *to)
{
    const __m128i even = _mm_setr_epi8(0, 0, 2, 2, 4, 4, 6, 6, 8, 8, 10, 10, 12, 12, 14, 14);
    const __m128i odd = _mm_setr_epi8(1, 1, 3, 3, 5, 5, 7, 7, 9, 9, 11, 11, 13, 13, 15, 15);
    int x = 0;
    for (; x + 16 <= width; x += 16) {
        const __m128i both = _mm_loadu_si128((const __m128i *)(uv + x));
        colours(_mm_loadu_si128((const __m128i *)(y + x)), _mm_shuffle_epi8(both, even),
                _mm_shuffle_epi8(both, odd), to + 3 * x);
    }
    return x;
}

TARGET static int yuyv_avx2(const uint8_t *row, int width, uint8_t *to)
{
    const __m128i ys = _mm_setr_epi8(0, 2, 4, 6, 8, 10, 12, 14, -1, -1, -1, -1, -1, -1, -1, -1);
    const __m128i us = _mm_setr_epi8(1, 1, 5, 5, 9, 9, 13, 13, 3, 3, 7, 7, 11, 11, 15, 15);
    int x = 0;
    for (; x + 16 <= width; x += 16) {
        const __m128i a = _mm_loadu_si128((const __m128i *)(row + 2 * x));
        const __m128i b = _mm_loadu_si128((const __m128i *)(row + 2 * x + 16));
        const __m128i ua = _mm_shuffle_epi8(a, us), ub = _mm_shuffle_epi8(b, us);
        const __m128i y = _mm_unpacklo_epi64(_mm_shuffle_epi8(a, ys), _mm_shuffle_epi8(b, ys));
        colours(y, _mm_unpacklo_epi64(ua, ub), _mm_unpackhi_epi64(ua, ub), to + 3 * x);
    }
    return x;
}

TARGET static int grey_avx2(const uint8_t *row, int width, uint8_t *to)
{
    int x = 0;
    for (; x + 16 <= width; x += 16) {
        const __m128i g = _mm_loadu_si128((const __m128i *)(row + x));
        weave(g, g, g, to + 3 * x);
    }
    return x;
}
#endif
