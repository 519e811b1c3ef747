/* Statistics of every channel of a tensor: counts, extremes and sums of four powers.

   Plain C on plain pointers; channel_statistics.py says what the numbers mean. A channel is summed
   once about a provisional center, the mean of a few values spread over it, in single precision
   whose sums are folded into doubles. It is summed again where that was no good: about its true
   mean where the center was off by more than a standard deviation, scaled by a power of two where
   fourth powers left single precision, and in double precision where values are not finite. */

enum {
    SAMPLED = 16,  /* rows that the provisional center is taken from */
    SHORTEST = 16, /* neighbors that make a row worth its own loop */
    TRIES = 3,     /* sums in one precision */
    TOGETHER = 128, /* columns that are a piece of work */
};

/* Channels that are summed together: one in rows of its own, or many as the columns of each row. */
struct group {
    const char *x;
    int type;
    int64_t rows, stride, length; /* of elements */
    int columnwise;
    int64_t channels, inner;      /* neighboring columns belong to one channel */
    int64_t odd;                  /* elements after the last row, which holds every channel often */
    double elements;              /* of one channel */
};

/* Add elements that are too few for lanes: those after the last row. */
static void add_odd(const struct group *g, int careful, const double *center, const double *factor,
                    struct sums *s) {
    for (int64_t i = 0; i < g->odd; i++) {
        int64_t c = i % (g->channels * g->inner) / g->inner;
        double v = value(g->x, g->rows * g->stride + i, g->type), d = (v - center[c]) * factor[c];
        if (careful && !isfinite(v)) {
            s->nonfinite[c]++;
            continue;
        }
        s->s1[c] += d, s->s2[c] += d * d, s->s3[c] += d * d * d, s->s4[c] += d * d * d * d;
        s->zeros[c] += v == 0;
        if (v < s->lowest[c]) s->lowest[c] = v;
        if (v > s->highest[c]) s->highest[c] = v;
    }
}

/* Add the columns of a channel together, in place. */
static void join_columns(const struct group *g, struct sums *s) {
    int64_t period = g->channels * g->inner;
    for (int64_t c = 0; c < g->channels; c++) {
        struct { double s1, s2, s3, s4, lowest, highest, zeros, nonfinite; } t = {
            .lowest = INFINITY, .highest = -INFINITY};
        for (int64_t j = c * g->inner; g->rows && j < g->length; j += period)
            for (int64_t i = j; i < j + g->inner; i++) {
                t.s1 += s->s1[i], t.s2 += s->s2[i], t.s3 += s->s3[i], t.s4 += s->s4[i];
                t.zeros += s->zeros[i], t.nonfinite += s->nonfinite[i];
                t.lowest = s->lowest[i] < t.lowest ? s->lowest[i] : t.lowest;
                t.highest = s->highest[i] > t.highest ? s->highest[i] : t.highest;
            }
        s->s1[c] = t.s1, s->s2[c] = t.s2, s->s3[c] = t.s3, s->s4[c] = t.s4;
        s->lowest[c] = t.lowest, s->highest[c] = t.highest;
        s->zeros[c] = t.zeros, s->nonfinite[c] = t.nonfinite;
    }
}

/* Sum a group once, about these centers. */
static void sum_once(const struct group *g, int careful, const double *center,
                     const double *factor, struct sums *s) {
    const struct passes *p = chosen();
    pass *sum = g->columnwise ? p->columns[careful] : p->rows[careful];
    int scaled = 0;
    for (int64_t c = 0; c < g->channels; c++) scaled |= factor[c] != 1;
    if (!g->columnwise || g->length == g->channels) {
        sum(g->x, g->type, g->rows, g->stride, g->length, center, factor, scaled, s);
        return;
    }
    double centers[WIDEST], factors[WIDEST];
    for (int64_t j = 0; j < g->length;)
        for (int64_t c = 0; c < g->channels; c++)
            for (int64_t i = 0; i < g->inner; i++, j++)
                centers[j] = center[c], factors[j] = factor[c];
    if (g->rows) sum(g->x, g->type, g->rows, g->stride, g->length, centers, factors, scaled, s);
    join_columns(g, s);
    add_odd(g, careful, center, factor, s);
}

/* The power of two that brings a spread to [0.5, 1), or 1 where fourth powers are safe as it is. In
   single precision it is one that single precision holds. */
static double factor_for(double spread, int careful) {
    if (!(spread > 0) || (spread > 1e-4 && spread < 1e4)) return 1;
    int exponent, most = careful ? 1000 : 126;
    frexp(spread, &exponent);
    return ldexp(1, exponent < -most ? most : exponent > most ? -most : -exponent);
}

/* Put the centers at the means found, and the factors where their spreads ask for them. */
static void set_centers(const struct group *g, int careful, const struct sums *s, double *center,
                        double *factor) {
    for (int64_t c = 0; c < g->channels; c++) {
        double low = s->lowest[c], high = s->highest[c];
        double mean = center[c] + s->s1[c] / (g->elements - s->nonfinite[c]) / factor[c];
        if (!isfinite(mean)) mean = low / 2 + high / 2;
        mean = mean < low ? low : mean > high ? high : mean;
        if (!careful) mean = (float)mean; /* rounding is monotonic: still within the extremes */
        center[c] = isfinite(mean) ? mean : 0;
        factor[c] = factor_for(high - mean > mean - low ? high - mean : mean - low, careful);
    }
}

/* Take provisional centers from a few values spread over the tensor. */
static void guess_centers(const struct group *g, int careful, double *center, double *factor,
                          struct sums *s) {
    struct group few = *g;
    few.odd = g->rows ? 0 : g->odd;
    if (!g->columnwise && g->rows == 1) { /* one long row: pieces of it */
        few.rows = few.length / SHORTEST, few.stride = SHORTEST;
    } else if (!g->columnwise) {
        few.x += (g->length - SHORTEST) / 2 * SIZE[g->type];
    }
    few.length = g->columnwise ? g->length : SHORTEST;
    int64_t step = few.rows > SAMPLED ? few.rows / SAMPLED : 1;
    few.stride *= step;
    few.rows = few.rows < SAMPLED ? few.rows : SAMPLED;
    few.elements = (double)(few.rows * few.length + few.odd) / (double)g->channels;
    for (int64_t c = 0; c < g->channels; c++) center[c] = 0, factor[c] = 1;
    sum_once(&few, careful, center, factor, s);
    set_centers(&few, careful, s, center, factor);
}

enum verdict { GOOD, MISPLACED, BROKEN };

/* Judge whether sums can be trusted: about a center within a standard deviation of the mean, whose
   fourth powers neither overflowed nor sank below single precision. */
static enum verdict judge(const struct group *g, const struct sums *s) {
    int misplaced = 0, broken = 0;
    for (int64_t c = 0; c < g->channels; c++) {
        double n = g->elements - s->nonfinite[c], shift = s->s1[c] / n;
        double variance = s->s2[c] / n - shift * shift;
        int good = (shift * shift <= variance) & (s->s2[c] >= 1e-16 * n) & (s->s4[c] < INFINITY);
        int constant = (s->lowest[c] == s->highest[c]) & (s->s1[c] == 0);
        misplaced += !(good | constant | (n == 0));
        broken += !(fabs(s->s1[c]) < INFINITY);
    }
    return broken ? BROKEN : misplaced ? MISPLACED : GOOD;
}

/* Write the channels from `first` on. */
static void write(const struct group *g, const struct sums *s, const double *center,
                  const double *factor, int64_t first, struct channel_row *out) {
    for (int64_t c = first; c < g->channels; c++, out++) {
        double finite = g->elements - s->nonfinite[c];
        *out = (struct channel_row){
            .elements = g->elements, .finite = finite, .zeros = s->zeros[c],
            .lowest = finite > 0 ? s->lowest[c] : 0, .highest = finite > 0 ? s->highest[c] : 0,
            .scale = 1 / factor[c], .center = center[c] * factor[c],
            .s1 = s->s1[c], .s2 = s->s2[c], .s3 = s->s3[c], .s4 = s->s4[c],
        };
    }
}

static void sum_group(const struct group *g, int64_t first, struct channel_row *out) {
    double center[WIDEST], factor[WIDEST];
    struct sums s;
    int careful = g->type == FLOAT64;
    guess_centers(g, careful, center, factor, &s);
    for (int tries = 1;; tries++) {
        sum_once(g, careful, center, factor, &s);
        enum verdict verdict = judge(g, &s);
        if (verdict == GOOD || (careful && tries == TRIES)) break;
        set_centers(g, careful, &s, center, factor);
        if (!careful && (verdict == BROKEN || tries == TRIES)) careful = 1, tries = 0;
    }
    write(g, &s, center, factor, first, out);
}

/* A dense tensor of outer x channels x inner elements; as Python writes it, once for all steps in
   which nothing but the address of the tensor changes. */
struct layout { int64_t type, outer, channels, inner; };

/* The same for one call; `most` channels are a piece of work. */
struct tensor {
    const char *x;
    int type;
    int64_t outer, channels, inner, most;
    struct channel_row *out;
};

static struct group whole(const struct tensor *t) {
    const int64_t period = t->channels * t->inner;
    return (struct group){.x = t->x, .type = t->type, .rows = t->outer, .stride = period,
                          .inner = t->inner, .elements = (double)(t->outer * t->inner)};
}

/* Channels in rows of their own. */
static void sum_rows(const void *tensor, int64_t index) {
    const struct tensor *t = tensor;
    struct group g = whole(t);
    g.channels = 1, g.length = t->inner;
    int64_t c = index * t->most, end = c + t->most < t->channels ? c + t->most : t->channels;
    for (; c < end; c++) {
        g.x = t->x + c * t->inner * SIZE[t->type];
        sum_group(&g, 0, t->out + c);
    }
}

/* Channels as neighboring columns. */
static void sum_columns(const void *tensor, int64_t index) {
    const struct tensor *t = tensor;
    struct group g = whole(t);
    int64_t c = index * t->most, end = c + t->most < t->channels ? c + t->most : t->channels;
    /* Too few to fill lanes: some that belong to the piece before are summed along. */
    int64_t least = (SHORTEST + t->inner - 1) / t->inner, first = end - c < least ? end - least : c;
    g.columnwise = 1, g.channels = end - first, g.length = g.channels * t->inner;
    g.x = t->x + first * t->inner * SIZE[t->type];
    sum_group(&g, c - first, t->out + c);
}

/* So few columns that whole rows are summed side by side, until they fill lanes evenly. */
static void sum_narrow(const struct tensor *t) {
    struct group g = whole(t);
    int64_t together = 1;
    while (g.stride * together % SHORTEST) together *= 2;
    g.columnwise = 1, g.channels = t->channels;
    g.rows = t->outer / together, g.odd = t->outer % together * g.stride;
    g.stride = g.length = g.stride * together;
    sum_group(&g, 0, t->out);
}

/* Write the channel statistics of a tensor that lies at `x` in this layout, one row a channel. */
void sigprop_channel_statistics(const struct layout *layout, const void *x, int threads,
                                struct channel_row *out) {
    struct tensor t = {
        x, (int)layout->type, layout->outer, layout->channels, layout->inner, 1, out};
    const int64_t elements = t.outer * t.channels * t.inner;
    if (t.inner < SHORTEST && t.channels * t.inner < SHORTEST) {
        sum_narrow(&t);
    } else if (t.inner < SHORTEST) {
        t.most = TOGETHER / t.inner;
        share(threads, elements, (t.channels + t.most - 1) / t.most, sum_columns, &t);
    } else {
        t.most = 1 + t.channels / (8 * (int64_t)threads);
        share(threads, elements, (t.channels + t.most - 1) / t.most, sum_rows, &t);
    }
}
