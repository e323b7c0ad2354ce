/* Scores of every type as floats, for decode.c and for the CUDA kernels alike: exact. */

#ifndef EDGESEG_DECODE_SCORES_H
#define EDGESEG_DECODE_SCORES_H

#include <stdint.h>
#include <string.h>

#ifdef __CUDACC__
#define DEVICE __device__
#else
#define DEVICE
#endif

/* As in decode_native.py, all of them. */
enum { BILINEAR, DECONVOLUTION, SHUFFLE };
enum { FLOAT32, FLOAT16, BFLOAT16, INT8 };
enum { SOFTMAX, MARGIN };

DEVICE static inline float from_bits(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

/* IEEE half: exponents are moved by a multiplication, which also makes denormal ones right. */
DEVICE static inline float half(uint16_t bits)
{
    uint32_t rest = (uint32_t)(bits & 0x7fff) << 13, sign = (uint32_t)(bits & 0x8000) << 16;
    float value = from_bits(rest) * 0x1p112f;
    uint32_t whole;
    memcpy(&whole, &value, 4);
    whole |= (bits & 0x7c00) == 0x7c00 ? 0x7f800000u : 0u;
    return from_bits(whole | sign);
}

DEVICE static inline float brain(uint16_t bits) { return from_bits((uint32_t)bits << 16); }

DEVICE static inline int64_t size_of(int type) { return type == FLOAT32 ? 4 : type == INT8 ? 1 : 2; }

#endif
