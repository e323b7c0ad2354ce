/* The arithmetic of a camera's frame -> the network's input, in whole numbers, for prepare.c and for
 * the CUDA kernels alike: which bytes make a pixel, its colours, and how sums are rounded. frame.py
 * and prepare.py are the specification. */

#ifndef EDGESEG_PREPARE_ARITHMETIC_H
#define EDGESEG_PREPARE_ARITHMETIC_H

#include <stdint.h>

#ifndef DEVICE
#ifdef __CUDACC__
#define DEVICE __device__
#else
#define DEVICE
#endif
#endif

/* As in prepare_native.py, all of them. */
enum { THREE, NV12, YUYV, GREY };

/* Rows are mixed first, (sum + HALF_FINE) >> FINE, and then columns, (sum + HALF_REST) >> REST;
 * shares of both sum up to 2^14. */
enum { FINE = 7, HALF_FINE = 1 << 6, REST = 21, HALF_REST = 1 << 20 };

/* BT.601 with Y from 16 to 235, in 1/8192, halves up. */
enum { LUMA = 9539, RED_V = 13075, GREEN_U = 3209, GREEN_V = 6660, BLUE_U = 16525, HALF = 4096 };

DEVICE static inline uint8_t clip(int32_t v) { return v < 0 ? 0 : v > 255 ? 255 : (uint8_t)v; }

DEVICE static inline void colours_of(int32_t y, int32_t u, int32_t v, uint8_t *to)
{
    y = LUMA * (y - 16) + HALF;
    u -= 128;
    v -= 128;
    to[0] = clip((y + RED_V * v) >> 13);
    to[1] = clip((y - GREEN_U * u - GREEN_V * v) >> 13);
    to[2] = clip((y + BLUE_U * u) >> 13);
}

/* Pixel x of a row of Y, and of the row of U and V in turn that belongs to it. */
DEVICE static inline void nv12_pixel(const uint8_t *y, const uint8_t *uv, int x, uint8_t *to)
{
    colours_of(y[x], uv[x & ~1], uv[x | 1], to);
}

/* Pixel x of a row of Y beside U and V in turn. */
DEVICE static inline void yuyv_pixel(const uint8_t *row, int x, uint8_t *to)
{
    const uint8_t *both = row + 4 * (x >> 1);
    colours_of(row[2 * x], both[1], both[3], to);
}

#endif
