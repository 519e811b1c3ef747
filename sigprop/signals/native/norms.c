/* Norms of many pairs of tensors in one call, and products of one pair. norms.py and
   correlation.py say what the numbers mean. Everything is added up in double precision, in which
   squares of single-precision numbers neither over- nor underflow. */

/* Where two tensors of one type lie, seen as `units` rows of `length`; as Python writes it. */
struct pair { int64_t first, second, type, units, length; };

static const void *at(int64_t address, int64_t element, int64_t type) {
    return (const char *)(intptr_t)address + element * SIZE[type];
}

/* Of weights and gradients: both sums of squares, and the worst unit's |G|/max(|W|, floor). */
void sigprop_norms(int64_t count, const struct pair *pairs, double floor, double *out) {
    const struct passes *p = chosen();
    for (const struct pair *pair = pairs; pair < pairs + count; pair++, out += 3) {
        out[0] = out[1] = out[2] = 0;
        for (int64_t unit = 0; unit < pair->units; unit++) {
            double sums[3];
            int64_t i = unit * pair->length;
            p->pairs(at(pair->first, i, pair->type), at(pair->second, i, pair->type), pair->type,
                     pair->length, 0, 0, sums);
            double ratio = sqrt(sums[1]) / fmax(sqrt(sums[0]), floor);
            if (ratio > out[2] || isnan(ratio)) out[2] = ratio; /* NaN stays */
            out[0] += sums[0], out[1] += sums[1];
        }
    }
}

/* Of tensors before and after: both sums of squares, and that of their difference. */
void sigprop_moves(int64_t count, const struct pair *pairs, double *out) {
    const struct passes *p = chosen();
    for (const struct pair *pair = pairs; pair < pairs + count; pair++, out += 3)
        p->pairs(at(pair->first, 0, pair->type), at(pair->second, 0, pair->type), pair->type,
                 pair->units * pair->length, 1, 0, out);
}

/* Of two operands: sums of a², b² and ab over elements where both are finite. */
void sigprop_products(const void *a, const void *b, int type, int64_t n, double *out) {
    const struct passes *p = chosen();
    p->pairs(a, b, type, n, 0, 0, out);
    if (!isfinite(out[0] + out[1])) p->pairs(a, b, type, n, 0, 1, out);
}
