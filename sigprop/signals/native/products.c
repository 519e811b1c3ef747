/* Sums of products over two operands of one addition; correlation.py says what they mean. They are
   added up in double precision, in which squares of single-precision numbers neither over- nor
   underflow. */

/* Two operands of one type that lie alike in memory; as Python writes it, once for all steps in
   which nothing but the addresses of the operands changes. */
struct operands_layout { int64_t type, elements; };

enum { PIECES = 256 }; /* of one long pair, at most */

struct operands {
    const char *a, *b;
    int type, careful;
    int64_t n, length; /* elements, and those of a piece */
    double (*sums)[3];
};

static void product(const void *what, int64_t index) {
    const struct operands *o = what;
    int64_t i = index * o->length, n = o->n - i < o->length ? o->n - i : o->length;
    chosen()->pairs(o->a + i * SIZE[o->type], o->b + i * SIZE[o->type], o->type, n, 0, o->careful,
                    o->sums[index]);
}

/* Of two operands: sums of a², b² and ab over elements where both are finite. */
void sigprop_products(const struct operands_layout *layout, const void *a, const void *b,
                      int threads, double *out) {
    double sums[PIECES][3];
    const int64_t n = layout->elements;
    int64_t length = n / PIECES + 1 < GRAIN ? GRAIN : n / PIECES + 1;
    int64_t pieces = (n + length - 1) / length;
    struct operands o = {a, b, (int)layout->type, 0, n, length, sums};
    for (; o.careful < 2; o.careful++) {
        share(threads, n, pieces, product, &o);
        out[0] = out[1] = out[2] = 0;
        for (int64_t i = 0; i < pieces; i++)
            for (int k = 0; k < 3; k++) out[k] += sums[i][k];
        if (isfinite(out[0] + out[1])) return;
    }
}
