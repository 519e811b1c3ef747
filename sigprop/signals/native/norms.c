/* Norms of many pairs of tensors in one call; norms.py says what the numbers mean. Everything is
   added up in double precision, in which squares of single-precision numbers neither over- nor
   underflow. */

/* Where two tensors of one type lie, seen as `units` rows of `length`, and where the first is to be
   copied on the way, or 0; as Python writes it. */
struct pair { int64_t first, second, type, units, length, copy; };

static const void *at(int64_t address, int64_t element, int64_t type) {
    return (const char *)(intptr_t)address + element * SIZE[type];
}

struct many {
    const struct pair *pairs;
    double floor, *out;
};

static int64_t elements_of(int64_t count, const struct pair *pairs) {
    int64_t elements = 0;
    for (int64_t i = 0; i < count; i++) elements += pairs[i].units * pairs[i].length;
    return elements;
}

static void norm(const void *what, int64_t index) {
    const struct many *many = what;
    const struct pair *pair = many->pairs + index;
    const struct passes *p = chosen();
    double total[3] = {0};
    for (int64_t unit = 0; unit < pair->units; unit++) {
        double sums[3];
        int64_t i = unit * pair->length;
        p->pairs(at(pair->first, i, pair->type), at(pair->second, i, pair->type), pair->type,
                 pair->length, 0, 0, sums);
        if (pair->copy) /* now, while the unit is in the cache */
            memcpy((void *)at(pair->copy, i, pair->type), at(pair->first, i, pair->type),
                   pair->length * SIZE[pair->type]);
        double ratio = sqrt(sums[1]) / fmax(sqrt(sums[0]), many->floor);
        if (ratio > total[2] || isnan(ratio)) total[2] = ratio; /* NaN stays */
        total[0] += sums[0], total[1] += sums[1];
    }
    memcpy(many->out + 3 * index, total, sizeof total);
}

static void update(const void *what, int64_t index) {
    const struct many *many = what;
    const struct pair *pair = many->pairs + index;
    chosen()->pairs(at(pair->first, 0, pair->type), at(pair->second, 0, pair->type), pair->type,
                    pair->units * pair->length, 1, 0, many->out + 3 * index);
}

/* Of weights and gradients: both sums of squares, and the worst unit's |G|/max(|W|, floor). */
void sigprop_norms(int64_t count, const struct pair *pairs, double floor, int threads, double *out) {
    struct many many = {pairs, floor, out};
    share(threads, elements_of(count, pairs), count, norm, &many);
}

/* Of tensors before and after: both sums of squares, and that of their difference. */
void sigprop_updates(int64_t count, const struct pair *pairs, int threads, double *out) {
    struct many many = {pairs, 0, out};
    share(threads, elements_of(count, pairs), count, update, &many);
}
