/* One pass over a tensor, in lanes: sums of powers, extremes and counts, channel by channel.

   A template. one_instruction_set.h includes it once for every instruction set and arithmetic, with
     NAME(f)   the name of f in this copy
     TARGET    the instruction set, as a function attribute
     WIDTH     bytes in a register, of LANES numbers
     REAL, WHOLE   the arithmetic: a floating type, and the integer of its size
     LESSER(a, b), GREATER(a, b)   lane by lane
     CAREFUL   whether non-finite values are looked for, counted and left out */

typedef REAL NAME(reals) __attribute__((vector_size(WIDTH)));
typedef WHOLE NAME(wholes) __attribute__((vector_size(WIDTH)));
typedef float NAME(singles) __attribute__((vector_size(4 * LANES)));
typedef uint32_t NAME(words) __attribute__((vector_size(4 * LANES)));
typedef uint16_t NAME(halves) __attribute__((vector_size(2 * LANES)));
typedef double NAME(doubles) __attribute__((vector_size(8 * LANES)));

/* What lies in registers while values stream by. */
struct NAME(running) {
    NAME(reals) s1, s2, s3, s4, lowest, highest;
    NAME(wholes) zeros, nonfinite;
};

INLINE NAME(reals) NAME(spread)(REAL value) {
    NAME(reals) v;
    for (int j = 0; j < LANES; j++) v[j] = value;
    return v;
}

INLINE NAME(reals) NAME(select)(NAME(wholes) mask, NAME(reals) a, NAME(reals) b) {
    return (NAME(reals))((mask & (NAME(wholes))a) | (~mask & (NAME(wholes))b));
}

INLINE NAME(singles) NAME(from_halves)(NAME(halves) raw, int type) {
    NAME(words) bits = __builtin_convertvector(raw, NAME(words));
    if (type == BFLOAT16) return (NAME(singles))(bits << 16);
    /* float16: the exponent is rebiased by a multiplication, which also serves subnormals. */
    NAME(singles) size = (NAME(singles))((bits & 0x7fff) << 13) * 0x1p112f;
    NAME(words) special = (NAME(words))((bits & 0x7c00) == 0x7c00) & 0x7f800000;
    return (NAME(singles))((NAME(words))size | special | (bits & 0x8000) << 16);
}

INLINE NAME(reals) NAME(load)(const void *x, int64_t i, int type) {
    if (type == FLOAT64) {
        NAME(doubles) v;
        memcpy(&v, (const double *)x + i, sizeof v);
        return __builtin_convertvector(v, NAME(reals));
    }
    NAME(singles) v;
    if (type == FLOAT32) {
        memcpy(&v, (const float *)x + i, sizeof v);
    } else {
        NAME(halves) raw;
        memcpy(&raw, (const uint16_t *)x + i, sizeof raw);
        v = NAME(from_halves)(raw, type);
    }
    return __builtin_convertvector(v, NAME(reals));
}

INLINE struct NAME(running) NAME(start)(void) {
    NAME(reals) zero = NAME(spread)(0), infinity = NAME(spread)(INFINITY);
    NAME(wholes) none = {0};
    return (struct NAME(running)){zero, zero, zero, zero, infinity, -infinity, none, none};
}

INLINE void NAME(step)(struct NAME(running) *a, NAME(reals) v, NAME(reals) center,
                       NAME(reals) factor, int scaled) {
    NAME(reals) d = v - center;
    if (scaled) d *= factor;
    NAME(reals) low = v, high = v;
    if (CAREFUL) {
        NAME(wholes) finite = v - v == 0;
        a->nonfinite += finite + 1;
        d = (NAME(reals))((NAME(wholes))d & finite);
        low = NAME(select)(finite, v, a->lowest);
        high = NAME(select)(finite, v, a->highest);
    }
    NAME(reals) square = d * d;
    a->s1 += d;
    a->s2 += square;
    a->s3 += square * d;
    a->s4 += square * square;
    a->lowest = LESSER(low, a->lowest);
    a->highest = GREATER(high, a->highest);
    a->zeros -= v == 0;
}

/* Add the running sums into ones of double precision, and start them again. */
INLINE void NAME(fold)(struct NAME(running) *a, NAME(doubles) sums[4]) {
    sums[0] += __builtin_convertvector(a->s1, NAME(doubles));
    sums[1] += __builtin_convertvector(a->s2, NAME(doubles));
    sums[2] += __builtin_convertvector(a->s3, NAME(doubles));
    sums[3] += __builtin_convertvector(a->s4, NAME(doubles));
    a->s1 = a->s2 = a->s3 = a->s4 = NAME(spread)(0);
}

/* Read one channel that lies in rows: `rows` runs of `length` >= LANES neighbors. */
INLINE void NAME(rows_of)(const void *x, int type, int64_t rows, int64_t stride, int64_t length,
                          const double *center, const double *factor, int scaled, struct sums *out) {
    const NAME(reals) c = NAME(spread)((REAL)*center), f = NAME(spread)((REAL)*factor);
    const int64_t odd = length % LANES;
    NAME(reals) empty = CAREFUL ? NAME(spread)(NAN) : c; /* what fills a row's last lanes */
    NAME(wholes) fresh = {0};
    for (int j = 0; j < LANES; j++) fresh[j] = -(j >= LANES - odd);
    struct NAME(running) a = NAME(start)();
    NAME(doubles) sums[4] = {{0}};
    int64_t left = FOLD;
    for (int64_t row = 0; row < rows; row++) {
        int64_t i = row * stride, end = i + length - odd, ahead = row + 1 < rows ? stride : 0;
        while (i < end) {
            int64_t stop = end - i < left * LANES ? end : i + left * LANES;
            left -= (stop - i) / LANES;
            for (; i < stop; i += LANES) {
                __builtin_prefetch((const char *)x + (i + ahead) * SIZE[type], 0, 2);
                NAME(step)(&a, NAME(load)(x, i, type), c, f, scaled);
            }
            if (left == 0) NAME(fold)(&a, sums), left = FOLD;
        }
        if (odd) { /* a last load that overlaps what was read, with that part blanked out */
            NAME(step)(&a, NAME(select)(fresh, NAME(load)(x, end + odd - LANES, type), empty), c, f, scaled);
            if (--left == 0) NAME(fold)(&a, sums), left = FOLD;
        }
    }
    NAME(fold)(&a, sums);
    double blanks = odd ? (double)rows * (LANES - odd) : 0;
    *out->s1 = *out->s2 = *out->s3 = *out->s4 = *out->zeros = *out->nonfinite = 0;
    *out->lowest = INFINITY, *out->highest = -INFINITY;
    for (int j = 0; j < LANES; j++) {
        *out->s1 += sums[0][j], *out->s2 += sums[1][j];
        *out->s3 += sums[2][j], *out->s4 += sums[3][j];
        *out->zeros += a.zeros[j], *out->nonfinite += a.nonfinite[j];
        if (a.lowest[j] < *out->lowest) *out->lowest = a.lowest[j];
        if (a.highest[j] > *out->highest) *out->highest = a.highest[j];
    }
    if (CAREFUL) *out->nonfinite -= blanks;
    else if (c[0] == 0) *out->zeros -= blanks;
}

/* Sum `width` >= LANES neighboring columns; the last tile overlaps the one before it. */
INLINE void NAME(columns_of)(const void *x, int type, int64_t rows, int64_t stride, int64_t width,
                             const double *center, const double *factor, int scaled, struct sums *out) {
    struct {
        NAME(doubles) sums[4];
        NAME(reals) lowest, highest;
        NAME(wholes) zeros, nonfinite;
    } tiles[WIDEST / LANES];
    const int64_t count = (width + LANES - 1) / LANES;
    for (int64_t t = 0; t < count; t++) {
        for (int k = 0; k < 4; k++) tiles[t].sums[k] = (NAME(doubles)){0};
        tiles[t].lowest = NAME(spread)(INFINITY), tiles[t].highest = NAME(spread)(-INFINITY);
        tiles[t].zeros = tiles[t].nonfinite = (NAME(wholes)){0};
    }
    for (int64_t row = 0; row < rows; row += FOLD) {
        int64_t height = rows - row < FOLD ? rows - row : FOLD;
        int64_t ahead = row + FOLD < rows ? FOLD * stride : 0;
        for (int64_t t = 0; t < count; t++) {
            int64_t first = t + 1 < count ? t * LANES : width - LANES;
            int64_t i = row * stride + first;
            NAME(doubles) wide;
            memcpy(&wide, center + first, sizeof wide);
            const NAME(reals) c = __builtin_convertvector(wide, NAME(reals));
            memcpy(&wide, factor + first, sizeof wide);
            const NAME(reals) f = __builtin_convertvector(wide, NAME(reals));
            struct NAME(running) a = NAME(start)();
            for (int64_t r = 0; r < height; r++, i += stride) {
                /* The walk jumps from row to row, which the processor does not foresee. */
                __builtin_prefetch((const char *)x + (i + ahead) * SIZE[type], 0, 2);
                NAME(step)(&a, NAME(load)(x, i, type), c, f, scaled);
            }
            NAME(fold)(&a, tiles[t].sums);
            tiles[t].lowest = LESSER(a.lowest, tiles[t].lowest);
            tiles[t].highest = GREATER(a.highest, tiles[t].highest);
            tiles[t].zeros += a.zeros, tiles[t].nonfinite += a.nonfinite;
        }
    }
    for (int64_t t = 0; t < count; t++) {
        int64_t first = t + 1 < count ? t * LANES : width - LANES;
        NAME(doubles) whole[8] = {
            tiles[t].sums[0], tiles[t].sums[1], tiles[t].sums[2], tiles[t].sums[3],
            __builtin_convertvector(tiles[t].lowest, NAME(doubles)),
            __builtin_convertvector(tiles[t].highest, NAME(doubles)),
            __builtin_convertvector(tiles[t].zeros, NAME(doubles)),
            __builtin_convertvector(tiles[t].nonfinite, NAME(doubles)),
        };
        double *const into[8] = {out->s1, out->s2, out->s3, out->s4,
                                 out->lowest, out->highest, out->zeros, out->nonfinite};
        for (int k = 0; k < 8; k++) memcpy(into[k] + first, &whole[k], sizeof whole[k]);
    }
}

/* Element type and scaling are constants in each call below, so that they are compiled in. */
#define EACH(body)                                                                                 \
    switch (type) {                                                                                \
    case FLOAT32:                                                                                  \
        if (scaled) body(x, FLOAT32, rows, stride, length, center, factor, 1, out);                \
        else body(x, FLOAT32, rows, stride, length, center, factor, 0, out);                       \
        break;                                                                                     \
    case FLOAT64:                                                                                  \
        if (CAREFUL) body(x, FLOAT64, rows, stride, length, center, factor, 1, out);               \
        break;                                                                                     \
    case BFLOAT16: body(x, BFLOAT16, rows, stride, length, center, factor, 1, out); break;         \
    default: body(x, FLOAT16, rows, stride, length, center, factor, 1, out);                       \
    }

TARGET static void NAME(rows)(const void *x, int type, int64_t rows, int64_t stride,
                              int64_t length, const double *center, const double *factor,
                              int scaled, struct sums *out) {
    EACH(NAME(rows_of))
}

TARGET static void NAME(columns)(const void *x, int type, int64_t rows, int64_t stride,
                                 int64_t length, const double *center, const double *factor,
                                 int scaled, struct sums *out) {
    EACH(NAME(columns_of))
}

#undef EACH
