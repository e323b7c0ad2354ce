/* One table of vector operations, chosen by ISA_AVX512, ISA_AVX2, ISA_NEON or ISA_C; ISA_ONE holds
 * those of single numbers, for CUDA and for C.
 *
 * V is W floats, I is W int32, M the answer of a comparison. GT is false where a side is NaN.
 * FMA(a, b, c) is a * b + c rounded once; MUL and ADD round each. P and J are the tile of the
 * deconvolution: P vectors of positions times J classes, as many as the registers hold.
 */

#if defined(ISA_AVX512)

#define NAME(f) f##_avx512
#define TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")))
#define W 16
#define P 2
#define J 10
#define V __m512
#define I __m512i
#define M __mmask16
#define LOAD(p) _mm512_loadu_ps(p)
#define STORE(p, v) _mm512_storeu_ps(p, v)
#define SET(x) _mm512_set1_ps(x)
#define ADD(a, b) _mm512_add_ps(a, b)
#define SUB(a, b) _mm512_sub_ps(a, b)
#define MUL(a, b) _mm512_mul_ps(a, b)
#define DIV(a, b) _mm512_div_ps(a, b)
#define FMA(a, b, c) _mm512_fmadd_ps(a, b, c)
#define GT(a, b) _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ)
#define PICK(m, a, b) _mm512_mask_blend_ps(m, b, a)
#define IPICK(m, a, b) _mm512_mask_blend_epi32(m, b, a)
#define ISET(n) _mm512_set1_epi32(n)
#define IEQ(a, b) _mm512_cmpeq_epi32_mask(a, b)
#define IADD(a, b) _mm512_add_epi32(a, b)
#define IOR(a, b) _mm512_or_si512(a, b)
#define ISHL(a, n) _mm512_slli_epi32(a, n)
#define ISTORE(p, a) _mm512_storeu_si512(p, a)
#define ILOAD(p) _mm512_loadu_si512(p)
#define ALL(m) ((m) == 0xffff)
#define BITS(v) _mm512_castps_si512(v)
#define FLOATS(a) _mm512_castsi512_ps(a)
#define WHOLE(v) _mm512_cvttps_epi32(v)

#elif defined(ISA_AVX2)

#define NAME(f) f##_avx2
#define TARGET __attribute__((target("avx2,fma")))
#define W 8
#define P 2
#define J 5
#define V __m256
#define I __m256i
#define M __m256
#define LOAD(p) _mm256_loadu_ps(p)
#define STORE(p, v) _mm256_storeu_ps(p, v)
#define SET(x) _mm256_set1_ps(x)
#define ADD(a, b) _mm256_add_ps(a, b)
#define SUB(a, b) _mm256_sub_ps(a, b)
#define MUL(a, b) _mm256_mul_ps(a, b)
#define DIV(a, b) _mm256_div_ps(a, b)
#define FMA(a, b, c) _mm256_fmadd_ps(a, b, c)
#define GT(a, b) _mm256_cmp_ps(a, b, _CMP_GT_OQ)
#define PICK(m, a, b) _mm256_blendv_ps(b, a, m)
#define IPICK(m, a, b) \
    _mm256_castps_si256(_mm256_blendv_ps(_mm256_castsi256_ps(b), _mm256_castsi256_ps(a), m))
#define ISET(n) _mm256_set1_epi32(n)
#define IEQ(a, b) _mm256_castsi256_ps(_mm256_cmpeq_epi32(a, b))
#define IADD(a, b) _mm256_add_epi32(a, b)
#define IOR(a, b) _mm256_or_si256(a, b)
#define ISHL(a, n) _mm256_slli_epi32(a, n)
#define ISTORE(p, a) _mm256_storeu_si256((__m256i *)(p), a)
#define ILOAD(p) _mm256_loadu_si256((const __m256i *)(p))
#define ALL(m) (_mm256_movemask_ps(m) == 0xff)
#define BITS(v) _mm256_castps_si256(v)
#define FLOATS(a) _mm256_castsi256_ps(a)
#define WHOLE(v) _mm256_cvttps_epi32(v)

#elif defined(ISA_NEON)

#define NAME(f) f##_neon
#define TARGET
#define W 4
#define P 4
#define J 5
#define V float32x4_t
#define I int32x4_t
#define M uint32x4_t
#define LOAD(p) vld1q_f32(p)
#define STORE(p, v) vst1q_f32(p, v)
#define SET(x) vdupq_n_f32(x)
#define ADD(a, b) vaddq_f32(a, b)
#define SUB(a, b) vsubq_f32(a, b)
#define MUL(a, b) vmulq_f32(a, b)
#define DIV(a, b) vdivq_f32(a, b)
#define FMA(a, b, c) vfmaq_f32(c, a, b)
#define GT(a, b) vcgtq_f32(a, b)
#define PICK(m, a, b) vbslq_f32(m, a, b)
#define IPICK(m, a, b) vbslq_s32(m, a, b)
#define ISET(n) vdupq_n_s32(n)
#define IEQ(a, b) vceqq_s32(a, b)
#define IADD(a, b) vaddq_s32(a, b)
#define IOR(a, b) vorrq_s32(a, b)
#define ISHL(a, n) vshlq_s32(a, vdupq_n_s32(n))
#define ISTORE(p, a) vst1q_s32(p, a)
#define ILOAD(p) vld1q_s32(p)
#define ALL(m) (vminvq_u32(m) != 0)
#define BITS(v) vreinterpretq_s32_f32(v)
#define FLOATS(a) vreinterpretq_f32_s32(a)
#define WHOLE(v) vcvtq_s32_f32(v)

#elif defined(ISA_C) /* GNU C vectors of four: any processor */

#define NAME(f) f##_c
#define TARGET
#define W 4
#define P 2
#define J 4
typedef float floats4 __attribute__((vector_size(16)));
typedef float loose4 __attribute__((vector_size(16), aligned(4), may_alias));
typedef int32_t ints4 __attribute__((vector_size(16)));
typedef uint32_t unsigned4 __attribute__((vector_size(16)));
typedef int32_t looseints4 __attribute__((vector_size(16), aligned(4), may_alias));
static inline floats4 fma4(floats4 a, floats4 b, floats4 c)
{
    floats4 r;
    for (int i = 0; i < 4; i++) r[i] = fmaf(a[i], b[i], c[i]);
    return r;
}
static inline int all4(ints4 m) { return m[0] & m[1] & m[2] & m[3]; }
#define V floats4
#define I ints4
#define M ints4
#define LOAD(p) ((floats4) * (const loose4 *)(p))
#define STORE(p, v) (*(loose4 *)(p) = (v))
#define SET(x) ((floats4){(x), (x), (x), (x)})
#define ADD(a, b) ((a) + (b))
#define SUB(a, b) ((a) - (b))
#define MUL(a, b) ((a) * (b))
#define DIV(a, b) ((a) / (b))
#define FMA(a, b, c) fma4(a, b, c)
#define GT(a, b) ((ints4)((a) > (b)))
#define PICK(m, a, b) ((floats4)(((m) & (ints4)(a)) | (~(m) & (ints4)(b))))
#define IPICK(m, a, b) (((m) & (a)) | (~(m) & (b)))
#define ISET(n) ((ints4){(n), (n), (n), (n)})
#define IEQ(a, b) ((ints4)((a) == (b)))
#define IADD(a, b) ((ints4)((unsigned4)(a) + (unsigned4)(b)))
#define IOR(a, b) ((a) | (b))
#define ISHL(a, n) ((ints4)((unsigned4)(a) << (n)))
#define ISTORE(p, a) (*(looseints4 *)(p) = (a))
#define ILOAD(p) ((ints4) * (const looseints4 *)(p))
#define ALL(m) all4(m)
#define BITS(v) ((ints4)(v))
#define FLOATS(a) ((floats4)(a))
#define WHOLE(v) __builtin_convertvector(v, ints4)

#elif defined(ISA_ONE)

#define NAME(f) f##_one
#define V float
#define I int32_t
#define M int
#define SET(x) (x)
#ifdef __CUDACC__
#define INLINE __device__ static __forceinline__
#define ADD(a, b) __fadd_rn(a, b)
#define SUB(a, b) __fsub_rn(a, b)
#define MUL(a, b) __fmul_rn(a, b)
#define DIV(a, b) __fdiv_rn(a, b)
#define FMA(a, b, c) __fmaf_rn(a, b, c)
#define BITS(v) __float_as_int(v)
#define FLOATS(a) __int_as_float(a)
#else
#define TARGET
#define ADD(a, b) ((a) + (b))
#define SUB(a, b) ((a) - (b))
#define MUL(a, b) ((a) * (b))
#define DIV(a, b) ((a) / (b))
#define FMA(a, b, c) fmaf(a, b, c)
static inline int32_t bits_one(float v)
{
    int32_t bits;
    memcpy(&bits, &v, 4);
    return bits;
}
#define BITS(v) bits_one(v)
#define FLOATS(a) from_bits((uint32_t)(a))
#endif
#define GT(a, b) ((a) > (b))
#define PICK(m, a, b) ((m) ? (a) : (b))
#define IPICK(m, a, b) ((m) ? (a) : (b))
#define ISET(n) (n)
#define IEQ(a, b) ((a) == (b))
#define IADD(a, b) ((int32_t)((uint32_t)(a) + (uint32_t)(b)))
#define ISHL(a, n) ((int32_t)((uint32_t)(a) << (n)))
#define WHOLE(v) ((int32_t)(v))

#endif
