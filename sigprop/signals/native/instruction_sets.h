/* The templates once for every instruction set, and the choice of one when the code runs. */

#include <math.h>
#include <stdint.h>
#include <string.h>

enum { FLOAT32, FLOAT64, BFLOAT16, FLOAT16 };
static const int SIZE[] = {4, 8, 2, 2};

enum {
    WIDEST = 256, /* columns that are summed together */
    FOLD = 128,   /* values that a lane adds up in its own precision */
};

/* Of up to WIDEST channels or columns. */
struct sums {
    double s1[WIDEST], s2[WIDEST], s3[WIDEST], s4[WIDEST];
    double lowest[WIDEST], highest[WIDEST], zeros[WIDEST], nonfinite[WIDEST];
};

typedef void pass(const void *x, int type, int64_t rows, int64_t stride, int64_t length,
                  const double *center, const double *factor, int scaled, struct sums *out);

typedef void pair_pass(const void *x, const void *y, int type, int64_t n, int difference,
                       int careful, double out[3]);

/* The loops of one instruction set: over rows or columns, in single precision or carefully in
   double. */
struct passes {
    pass *rows[2], *columns[2];
    pair_pass *pairs;
};

/* One element, widened. */
static double value(const char *x, int64_t i, int type) {
    if (type == FLOAT64) return ((const double *)x)[i];
    if (type == FLOAT32) return ((const float *)x)[i];
    uint32_t half = ((const uint16_t *)x)[i], bits = half << 16;
    float v;
    if (type == FLOAT16) {
        bits = (half & 0x7fff) << 13;
        memcpy(&v, &bits, sizeof v);
        v *= 0x1p112f;
        memcpy(&bits, &v, sizeof v);
        bits |= (half & 0x7c00) == 0x7c00 ? 0x7f800000 : 0;
        bits |= (half & 0x8000) << 16;
    }
    memcpy(&v, &bits, sizeof v);
    return v;
}

#define JOIN_(a, b, c) a##_##b##_##c
#define JOIN(a, b, c) JOIN_(a, b, c)
#define INLINE static inline __attribute__((always_inline)) TARGET
#define LANES ((int)(WIDTH / sizeof(REAL)))

#if defined(__x86_64__)
#include <immintrin.h>

#define TARGETED avx512
#define TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,fma")))
#define WIDTH 64
#define LESSER(a, b) _Generic((a)[0], float: _mm512_min_ps, double: _mm512_min_pd)(a, b)
#define GREATER(a, b) _Generic((a)[0], float: _mm512_max_ps, double: _mm512_max_pd)(a, b)
#include "one_instruction_set.h"

#define TARGETED avx2
#define TARGET __attribute__((target("avx2,fma")))
#define WIDTH 32
#define LESSER(a, b) _Generic((a)[0], float: _mm256_min_ps, double: _mm256_min_pd)(a, b)
#define GREATER(a, b) _Generic((a)[0], float: _mm256_max_ps, double: _mm256_max_pd)(a, b)
#include "one_instruction_set.h"

#define LESSER(a, b) _Generic((a)[0], float: _mm_min_ps, double: _mm_min_pd)(a, b)
#define GREATER(a, b) _Generic((a)[0], float: _mm_max_ps, double: _mm_max_pd)(a, b)
#else
#define LESSER(a, b) NAME(select)((a) < (b), a, b)
#define GREATER(a, b) NAME(select)((a) > (b), a, b)
#endif

#define TARGETED plain
#define TARGET
#define WIDTH 16
#include "one_instruction_set.h"

static const struct passes *chosen(void) {
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
        return &passes_of_avx512;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return &passes_of_avx2;
#endif
    return &passes_of_plain;
}
