/* What prepare.c does 16 pixels (bytes, output pixels) at a time on Arm; the bytes are those of plain C.
 * Each function returns how many it has done. */

enum { NEON_STEP = 16 };

/* Sums of four pixels each, in 1/8192 -> 16 bytes. */
static inline uint8x16_t bytes_of(const int32x4_t *sums)
{
    const uint16x8_t low = vcombine_u16(vqshrun_n_s32(sums[0], 13), vqshrun_n_s32(sums[1], 13));
    const uint16x8_t high = vcombine_u16(vqshrun_n_s32(sums[2], 13), vqshrun_n_s32(sums[3], 13));
    return vcombine_u8(vqmovn_u16(low), vqmovn_u16(high));
}

/* sums += values * by, for 16 values in two halves. */
static inline void gather(int32x4_t *sums, int16x8_t low, int16x8_t high, int16_t by)
{
    sums[0] = vmlal_n_s16(sums[0], vget_low_s16(low), by);
    sums[1] = vmlal_n_s16(sums[1], vget_high_s16(low), by);
    sums[2] = vmlal_n_s16(sums[2], vget_low_s16(high), by);
    sums[3] = vmlal_n_s16(sums[3], vget_high_s16(high), by);
}

static inline int16x8_t less(uint8x8_t bytes, int16_t by)
{
    return vsubq_s16(vreinterpretq_s16_u16(vmovl_u8(bytes)), vdupq_n_s16(by));
}

/* 16 pixels of BT.601. */
static inline void colours_neon(uint8x16_t y, uint8x16_t u, uint8x16_t v, uint8_t *to)
{
    const int16x8_t u0 = less(vget_low_u8(u), 128), u1 = less(vget_high_u8(u), 128);
    const int16x8_t v0 = less(vget_low_u8(v), 128), v1 = less(vget_high_u8(v), 128);
    int32x4_t light[4], sums[4];
    for (int i = 0; i < 4; i++) light[i] = vdupq_n_s32(HALF);
    gather(light, less(vget_low_u8(y), 16), less(vget_high_u8(y), 16), LUMA);
    uint8x16x3_t rgb;
    for (int i = 0; i < 4; i++) sums[i] = light[i];
    gather(sums, v0, v1, RED_V);
    rgb.val[0] = bytes_of(sums);
    for (int i = 0; i < 4; i++) sums[i] = light[i];
    gather(sums, u0, u1, -GREEN_U);
    gather(sums, v0, v1, -GREEN_V);
    rgb.val[1] = bytes_of(sums);
    for (int i = 0; i < 4; i++) sums[i] = light[i];
    gather(sums, u0, u1, BLUE_U);
    rgb.val[2] = bytes_of(sums);
    vst3q_u8(to, rgb);
}

static inline uint8x16_t twice(uint8x8_t bytes)
{
    return vcombine_u8(vzip1_u8(bytes, bytes), vzip2_u8(bytes, bytes));
}

static int nv12_neon(const uint8_t *y, const uint8_t *uv, int width, uint8_t *to)
{
    int x = 0;
    for (; x + NEON_STEP <= width; x += NEON_STEP) {
        const uint8x8x2_t pairs = vld2_u8(uv + x);
        colours_neon(vld1q_u8(y + x), twice(pairs.val[0]), twice(pairs.val[1]), to + 3 * x);
    }
    return x;
}

static int yuyv_neon(const uint8_t *row, int width, uint8_t *to)
{
    int x = 0;
    for (; x + NEON_STEP <= width; x += NEON_STEP) {
        const uint8x8x4_t four = vld4_u8(row + 2 * x); /* Y, U, Y, V */
        const uint8x16_t y = vcombine_u8(vzip1_u8(four.val[0], four.val[2]),
                                         vzip2_u8(four.val[0], four.val[2]));
        colours_neon(y, twice(four.val[1]), twice(four.val[3]), to + 3 * x);
    }
    return x;
}

static int grey_neon(const uint8_t *row, int width, uint8_t *to)
{
    int x = 0;
    for (; x + NEON_STEP <= width; x += NEON_STEP) {
        const uint8x16_t grey = vld1q_u8(row + x);
        vst3q_u8(to + 3 * x, (uint8x16x3_t){{grey, grey, grey}});
    }
    return x;
}

static int swap_neon(const uint8_t *from, int width, uint8_t *to)
{
    int x = 0;
    for (; x + NEON_STEP <= width; x += NEON_STEP) {
        const uint8x16x3_t three = vld3q_u8(from + 3 * x);
        vst3q_u8(to + 3 * x, (uint8x16x3_t){{three.val[2], three.val[1], three.val[0]}});
    }
    return x;
}

static int mix_rows_neon(const uint8_t *const *rows, const int16_t *weights, int taps, int count,
                         int16_t *to)
{
    int x = 0;
    for (; x + NEON_STEP <= count; x += NEON_STEP) {
        int32x4_t sums[4];
        for (int i = 0; i < 4; i++) sums[i] = vdupq_n_s32(HALF_FINE);
        for (int k = 0; k < taps; k++) {
            const uint8x16_t row = vld1q_u8(rows[k] + x);
            gather(sums, vreinterpretq_s16_u16(vmovl_u8(vget_low_u8(row))),
                   vreinterpretq_s16_u16(vmovl_u8(vget_high_u8(row))), weights[k]);
        }
        vst1q_s16(to + x, vcombine_s16(vshrn_n_s32(sums[0], FINE), vshrn_n_s32(sums[1], FINE)));
        vst1q_s16(to + x + 8, vcombine_s16(vshrn_n_s32(sums[2], FINE), vshrn_n_s32(sums[3], FINE)));
    }
    return x;
}

/* The sums of one output pixel over 2^16, three channels and one more. */
static inline int16x4_t pixel_neon(const Preparation *job, const int16_t *mixed, int x)
{
    const int16_t *pixels = mixed + 3 * job->column_first[x];
    int32x4_t sum = vdupq_n_s32(HALF_REST);
    for (int p = 0; p < job->pairs; p++, pixels += 6) {
        const int16_t *weights = job->column_weights + 2 * ((int64_t)p * job->w + x);
        sum = vmlal_n_s16(sum, vld1_s16(pixels), weights[0]);
        sum = vmlal_n_s16(sum, vld1_s16(pixels + 3), weights[1]);
    }
    return vshrn_n_s32(sum, 16);
}

static int mix_columns_neon(const Preparation *job, const int16_t *mixed, uint8_t *to)
{
    static const uint8_t as_is[16] = {0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, 255, 255, 255, 255};
    static const uint8_t swapped[16] = {2, 1, 0, 6, 5, 4, 10, 9, 8, 14, 13, 12, 255, 255, 255, 255};
    const uint8x16_t order = vld1q_u8(job->swap ? swapped : as_is);
    int x = 0;
    for (; x + 4 <= job->w; x += 4) {
        int16x8_t two[2];
        for (int i = 0; i < 2; i++)
            two[i] = vshrq_n_s16(vcombine_s16(pixel_neon(job, mixed, x + 2 * i),
                                              pixel_neon(job, mixed, x + 2 * i + 1)), REST - 16);
        const uint8x16_t four = vcombine_u8(vqmovun_s16(two[0]), vqmovun_s16(two[1]));
        vst1q_u8(to + 3 * x, vqtbl1q_u8(four, order)); /* a row has slack */
    }
    return x;
}
